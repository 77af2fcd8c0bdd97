"""The table of prompts: ready-made lists, filters, order and pages, as queries to the index."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recipe.knapsack.view.run_files import ViewError

__all__ = ["COLUMNS", "LISTS", "Column", "PromptList", "TableQuery", "expected_never_solved"]

ROWS_PER_PAGE = 100
RARE_SUCCESS_RATE = 0.01


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: its head.
        sql: its value, of the prompt's summary ``s``, that of the other run ``b``, the prompt ``p`` or its other
            answer ``o``.
        explanation: what it says.
        form: how it is shown: rate, count, step or text.
    """

    title: str
    sql: str
    explanation: str
    form: str = "count"


COLUMNS: Mapping[str, Column] = {
    "rate": Column("last success rate", "s.rate", "Successes / rollouts at the last visit.", "rate"),
    "estimate": Column("estimate", "s.estimate", "Success rate that the last allocation used; – = unseen.", "rate"),
    "budget": Column("budget", "s.budget", "Rollouts at the last visit."),
    "visits": Column("visits", "s.visits", "Steps at which the prompt got rollouts."),
    "rollouts": Column("rollouts", "s.rollouts", "Rollouts spent on the prompt in the whole run."),
    "successes": Column("successes", "s.successes", "Successes among them."),
    "tokens": Column("tokens", "s.tokens", "Response tokens of all its rollouts."),
    "last_mixed": Column("last mixed", "s.last_mixed", "Last step with successes and failures.", "step"),
    "step": Column("last visit", "s.step", "Step of the last visit.", "step"),
    "source": Column("data source", "p.data_source", "Where the prompt comes from.", "text"),
    "other": Column("rate there", "b.rate", "Last success rate in the run compared with.", "rate"),
    "change": Column("difference", "s.rate - b.rate", "Last success rate here less that there.", "change"),
    "agreeing": Column("agree on another", "o.rollouts", "Kept rollouts that failed with the same answer."),
}
FILTERED = ("rate", "estimate", "budget", "visits", "rollouts", "last_mixed")


@dataclass(frozen=True)
class PromptList:
    """A ready-made list of prompts.

    Attributes:
        title: its name.
        explanation: what is on it.
        sql: which prompts; ``:k`` is the threshold of `TableQuery`.
        sort: column that it is sorted by unless asked otherwise, from the largest.
        k: threshold unless asked otherwise; None where there is none.
        threshold: what ``k`` counts.
    """

    title: str
    explanation: str
    sql: str
    sort: str = "rollouts"
    k: int | None = None
    threshold: str = ""


LISTS: Mapping[str, PromptList] = {
    "all": PromptList("All prompts", "Every prompt that got rollouts.", "1"),
    "never-solved": PromptList(
        "Never solved",
        "No success in the whole run, after so many rollouts that it begins to mean something.",
        "s.successes = 0 AND s.rollouts >= :k",
        k=16,
        threshold="rollouts at least",
    ),
    "lost": PromptList(
        "Solved and lost again",
        "Solved at some step, and without a single success at the last visit.",
        "s.successes > 0 AND s.rate = 0",
    ),
    "always-solved": PromptList(
        "Always solved",
        "All rollouts of all visits succeeded: nothing left to learn.",
        "s.always_solved = 1 AND s.visits >= :k",
        k=1,
        threshold="visits at least",
    ),
    "expensive": PromptList("Most expensive", "By response tokens.", "1", sort="tokens"),
    "ground-truth": PromptList(
        "Check the ground truth",
        "Of the kept rollouts that failed, more than half agree on one other answer, and fewer gave the right one.",
        "o.rollouts >= :k AND 2 * o.rollouts > o.wrong AND o.rollouts > o.right",
        sort="agreeing",
        k=4,
        threshold="agreeing rollouts at least",
    ),
}

_FROM = """
FROM summaries s JOIN prompts p ON p.number = s.prompt
LEFT JOIN summaries b ON b.run = :against AND b.prompt = s.prompt
LEFT JOIN other_answers o ON o.run = s.run AND o.prompt = s.prompt
"""


@dataclass(frozen=True)
class TableQuery:
    """Which prompts are shown, and in which order.

    Attributes:
        run, against: place of the run, and of the one it is compared with; None = of none.
        name: of the list.
        sort, descending: order; None = the list's.
        page: counted from 1.
        limits: least and most of the columns in ``FILTERED``; None = no limit.
        source: data source; None = any.
        text: part of the messages, or the beginning of an id.
        k: threshold of the list; None = the list's.
    """

    run: int = 0
    against: int | None = None
    name: str = "all"
    sort: str | None = None
    descending: bool = True
    page: int = 1
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    source: str | None = None
    text: str = ""
    k: int | None = None

    @classmethod
    def parse(cls, arguments: Mapping[str, str], num_runs: int) -> TableQuery:
        """Read a query from the arguments of an address.

        Raises:
            ViewError: an argument is not accepted; the message names it.
        """
        name, sort = arguments.get("list", "all"), arguments.get("sort") or None
        if name not in LISTS:
            raise ViewError(f"list={name} is not known: expected one of {', '.join(LISTS)}")
        if sort is not None and sort not in COLUMNS:
            raise ViewError(f"sort={sort} is not a column: expected one of {', '.join(COLUMNS)}")
        limits = {
            column: (_number(arguments, f"{column}_min"), _number(arguments, f"{column}_max")) for column in FILTERED
        }
        return cls(
            run=parse_run(arguments, "run", num_runs) or 0,
            against=parse_run(arguments, "against", num_runs),
            name=name,
            sort=sort,
            descending=arguments.get("order", "down") != "up",
            page=max(parse_integer(arguments, "page") or 1, 1),
            limits={column: limit for column, limit in limits.items() if limit != (None, None)},
            source=arguments.get("source") or None,
            text=arguments.get("text", ""),
            k=parse_integer(arguments, "k"),
        )

    @property
    def arguments(self) -> dict[str, str]:
        """What `parse` reads back as this query."""
        limits = {
            f"{column}_{side}": str(int(value)) if value.is_integer() else repr(value)
            for column, limit in self.limits.items()
            for side, value in zip(("min", "max"), limit, strict=True)
            if value is not None
        }
        given = {
            "run": str(self.run),
            "against": "" if self.against is None else str(self.against),
            "list": self.name,
            "sort": self.sort or "",
            "order": "" if self.descending else "up",
            "page": "" if self.page == 1 else str(self.page),
            **limits,
            "source": self.source or "",
            "text": self.text,
            "k": "" if self.k is None else str(self.k),
        }
        return {key: value for key, value in given.items() if value}

    def changed(self, **changes: Any) -> TableQuery:
        """This query with changes; one that is not asked for a page begins at the first."""
        return replace(self, **{"page": 1, **changes})

    @property
    def list(self) -> PromptList:
        """The ready-made list."""
        return LISTS[self.name]

    @property
    def sorted_by(self) -> str:
        """The column that decides the order."""
        return self.sort or self.list.sort

    @property
    def threshold(self) -> int | None:
        """The list's threshold."""
        return self.list.k if self.k is None else self.k

    @property
    def columns(self) -> list[str]:
        """The columns that are shown."""
        shown = [name for name in COLUMNS if name not in ("other", "change", "agreeing")]
        shown += ["other", "change"] if self.against is not None else []
        return [*shown, "agreeing"] if self.name == "ground-truth" else shown

    def count(self, database: sqlite3.Connection) -> int:
        """Number of prompts on all pages."""
        where, values = self._condition()
        return int(database.execute(f"SELECT count(*) {_FROM} WHERE {where}", values).fetchone()[0])

    def rows(self, database: sqlite3.Connection, most: int | None = ROWS_PER_PAGE) -> list[sqlite3.Row]:
        """The prompts of the page, or all of them if ``most`` is None: id, messages, every column, other answer."""
        where, values = self._condition()
        direction = "DESC" if self.descending else "ASC"
        columns = ", ".join(f"{column.sql} AS {name}" for name, column in COLUMNS.items())
        order = f"{COLUMNS[self.sorted_by].sql} {direction} NULLS LAST, p.id"
        limit = "" if most is None else f"LIMIT {int(most)} OFFSET {(self.page - 1) * int(most)}"
        return database.execute(
            f"SELECT p.number, p.id, p.messages, p.ground_truth, o.pred AS other_answer, {columns} {_FROM} "
            f"WHERE {where} ORDER BY {order} {limit}",
            values,
        ).fetchall()

    def prompts(self, database: sqlite3.Connection) -> set[int]:
        """Numbers of the prompts of all pages."""
        where, values = self._condition()
        return {row[0] for row in database.execute(f"SELECT s.prompt {_FROM} WHERE {where}", values)}

    def _condition(self) -> tuple[str, dict[str, Any]]:
        conditions = ["s.run = :run", self.list.sql]
        values: dict[str, Any] = {"run": self.run, "against": self.against, "k": self.threshold}
        for column, (least, most) in self.limits.items():
            for side, sign, value in (("min", ">=", least), ("max", "<=", most)):
                if value is not None:
                    conditions.append(f"{COLUMNS[column].sql} {sign} :{column}_{side}")
                    values[f"{column}_{side}"] = value
        if self.source is not None:
            conditions.append("p.data_source = :source")
            values["source"] = self.source
        if self.text:
            conditions.append("(instr(p.words, :text) OR instr(p.id, :text) = 1)")
            values["text"] = self.text.casefold()
        return " AND ".join(conditions), values


def expected_never_solved(database: sqlite3.Connection, run: int, k: int) -> tuple[int, float]:
    """Of the prompts with at least ``k`` rollouts: how many there are, and how many would not have been solved yet
    if all of them succeeded once in a hundred rollouts."""
    rows = database.execute(
        "SELECT rollouts, count(*) FROM summaries WHERE run = ? AND rollouts >= ? GROUP BY rollouts", (run, k)
    ).fetchall()
    return sum(row[1] for row in rows), sum(row[1] * (1 - RARE_SUCCESS_RATE) ** row[0] for row in rows)


def parse_integer(arguments: Mapping[str, str], name: str) -> int | None:
    """The integer given for ``name``, None if there is none.

    Raises:
        ViewError: it is no integer of a sensible size.
    """
    value = _number(arguments, name)
    if value is None:
        return None
    if value != int(value) or abs(value) > 2**53:
        raise ViewError(f"{name}={arguments[name]} is not accepted: expected an integer")
    return int(value)


def parse_run(arguments: Mapping[str, str], name: str, num_runs: int) -> int | None:
    """The place of a run given for ``name``, None if there is none.

    Raises:
        ViewError: there is no such run.
    """
    run = parse_integer(arguments, name)
    if run is not None and not 0 <= run < num_runs:
        raise ViewError(f"{name}={run} is not a run: expected 0 to {num_runs - 1}")
    return run


def _number(arguments: Mapping[str, str], name: str) -> float | None:
    text = arguments.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ViewError(f"{name}={text} is not accepted: expected a number")
    return value
