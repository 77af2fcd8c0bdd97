"""The viewer's pages: from the index to HTML, without scripts and without anything that is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recipe.knapsack.view.harmless_text import harmless, shortened
from recipe.knapsack.view.index_updates import IndexUpdates
from recipe.knapsack.view.placement import RULES
from recipe.knapsack.view.prompt_record import (
    PromptRecord,
    find_prompt,
    kept_rollouts,
    kept_steps,
    messages_of,
    visits_of,
)
from recipe.knapsack.view.prompt_table import (
    COLUMNS,
    FILTERED,
    LISTS,
    ROWS_PER_PAGE,
    TableQuery,
    expected_never_solved,
    parse_integer,
    parse_run,
)
from recipe.knapsack.view.run_files import RunFiles, ViewError
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.visit_picture import RULE_COLORS, draw_visits

__all__ = ["GENERATOR", "PAGES", "POLICY", "NotFound", "Pages"]

PAGES = ("overview", "prompts", "prompt")
GENERATOR = "recipe.knapsack.view"
UNKNOWN = "–"
MOST_CHARACTERS = 4000
MOST_ANSWERS = 8
ROLLOUTS_PER_PAGE = 8
BEGINNING_CHARACTERS = 110
REFRESH_SECONDS = 30
REFRESH_SECONDS_WHILE_READING = 4
_TEMPLATES = Path(__file__).with_name("templates")
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'"
"""What a page may load and run: its own style, nothing else."""

Url = Callable[..., str | None]


class NotFound(ViewError):
    """There is no such prompt."""


class Pages:
    """Renders pages.

    Args:
        index: what they show.
        url: the address of a page, called with its name and arguments; None where it is not to be linked.
        is_static: whether the pages are files, which cannot be asked for something else.
        updates: what brings the index up to date; None if nothing does.
    """

    def __init__(
        self, index: RunIndex, url: Url, *, is_static: bool = False, updates: IndexUpdates | None = None
    ) -> None:
        self._index = index
        self._is_static = is_static
        self._updates = updates
        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            url=url,
            is_static=is_static,
            runs=index.runs,
            lists=LISTS,
            columns=COLUMNS,
            rules=RULES,
            colors=RULE_COLORS,
            harmless=harmless,
            shortened=shortened,
            most_characters=MOST_CHARACTERS,
            most_answers=MOST_ANSWERS,
            enumerate=enumerate,
            rate_of=_rate,
            number_of=_count,
            decimal_of=_decimal,
            policy=POLICY,
            generator=GENERATOR,
            style=Markup(_STYLE),
        )
        self._environment = environment

    def render(self, page: str, arguments: Mapping[str, str]) -> str:
        """The page with the given name, one of `PAGES`.

        Raises:
            NotFound: there is no such prompt.
            ViewError: an argument is not accepted.
        """
        return {"overview": self._overview, "prompts": self._prompts, "prompt": self._prompt}[page](arguments)

    def message(self, title: str, message: str) -> str:
        """A page that says something."""
        return self._render("message.html", title=title, message=message, refresh=None)

    def _render(self, template: str, *, title: str, refresh: int | None, **content: Any) -> str:
        page = self._environment.get_template(template)
        return page.render(title=title, refresh=refresh, status=self._status(refresh), **content)

    def _status(self, refresh: int | None) -> list[str]:
        again = f"; the page is loaded again every {refresh} s while there is something new" if refresh else ""
        now = f"As of {time.strftime('%Y-%m-%d %H:%M:%S')}{again}."
        return [now, *(self._updates.sentences() if self._updates is not None else ())]

    def _refresh(self) -> int | None:
        if self._is_static:
            return None
        if self._updates is not None and self._updates.is_reading:
            return REFRESH_SECONDS_WHILE_READING
        return REFRESH_SECONDS if any(run.is_growing for run in self._index.runs) else None

    # ------------------------------------------------------------------------------------------------ overview

    def _overview(self, arguments: Mapping[str, str]) -> str:
        with self._index.connect() as database:
            counts = [
                {name: TableQuery(run=run, name=name).count(database) for name in LISTS}
                for run in range(len(self._index.runs))
            ]
            spent = [
                database.execute("SELECT sum(rollouts), sum(tokens) FROM summaries WHERE run = ?", (run,)).fetchone()
                for run in range(len(self._index.runs))
            ]
        shown = [_facts(run, *row) for run, row in zip(self._index.runs, spent, strict=True)]
        facts = list(shown[0])
        return self._render(
            "overview.html", title="Runs", refresh=self._refresh(), counts=counts, facts=facts, shown=shown
        )

    # ------------------------------------------------------------------------------------------------ prompts

    def _prompts(self, arguments: Mapping[str, str]) -> str:
        query = TableQuery.parse(arguments, len(self._index.runs))
        with self._index.connect() as database:
            total = query.count(database)
            pages = max(-(-total // ROWS_PER_PAGE), 1)
            query = query.changed(page=min(query.page, pages))
            rows = [_table_row(row) for row in query.rows(database)]
            sources = [
                row[0]
                for row in database.execute(
                    "SELECT DISTINCT data_source FROM prompts WHERE data_source != '' ORDER BY data_source"
                )
            ]
            has_rows = database.execute("SELECT 1 FROM data_rows LIMIT 1").fetchone() is not None
            expectation = self._expectation(database, query, total)
        name = self._index.runs[query.run].name
        return self._render(
            "prompts.html",
            title=f"{query.list.title}: {harmless(name)}",
            refresh=self._refresh(),
            query=query,
            filtered=FILTERED,
            rows=rows,
            total=total,
            pages=pages,
            sources=sources,
            can_export_rows=has_rows and not self._is_static,
            expectation=expectation,
        )

    def _expectation(self, database: Any, query: TableQuery, total: int) -> str:
        if query.name != "never-solved" or query.threshold is None:
            return ""
        tried, expected = expected_never_solved(database, query.run, query.threshold)
        return (
            f"{tried:,} prompts had so many rollouts. If each of them succeeded once in a hundred rollouts (p = 1 %), "
            f"{expected:,.1f} would be expected not to be solved yet."
        )

    # ------------------------------------------------------------------------------------------------ one prompt

    def _prompt(self, arguments: Mapping[str, str]) -> str:
        with self._index.connect() as database:
            record = find_prompt(database, arguments.get("id", ""))
            if record is None:
                raise NotFound(f"No prompt has the id {arguments.get('id', '')!r} in these runs.")
            kept = [kept_steps(database, record, run) for run in range(len(self._index.runs))]
            choices = self._choices(arguments, kept)
            sides = [self._side(database, record, choices, place) for place in range(2)]
            histories = [
                _history(run, files, kept[run], visits_of(database, record, run, files))
                for run, files in enumerate(self._index.runs)
            ]
        beginning = shortened(" ".join(record.messages[-1][1].split()), 60)[0] if record.messages else record.id[:8]
        return self._render(
            "prompt.html",
            title=f"Prompt: {harmless(beginning)}",
            refresh=None,  # one reads here
            record=record,
            histories=histories,
            choices=choices,
            sides=[side for side in sides if side is not None],
            any_kept=any(kept),
            shown_with=lambda run, step: _arguments(record, choices, run=run, step=step),
        )

    def _choices(self, arguments: Mapping[str, str], kept: list[list[int]]) -> list[dict[str, Any]]:
        """What is shown left and right: run, step, number of the first rollout, and the steps there are."""
        choices = []
        for run_key, step_key, first_key in (("run", "step", "first"), ("run2", "step2", "first2")):
            run = parse_run(arguments, run_key, len(kept))
            if run is None and run_key == "run":
                run = next((place for place, steps in enumerate(kept) if steps), 0)
            if run is None and parse_integer(arguments, step_key) is not None:
                run = choices[0]["run"]
            steps = [] if run is None else kept[run]
            step = parse_integer(arguments, step_key)
            if step is None and steps:
                step = steps[-1]
            first = max(parse_integer(arguments, first_key) or 0, 0)
            choices.append(
                {"run_key": run_key, "step_key": step_key, "first_key": first_key}
                | {"run": run, "step": step, "first": first, "kept": steps}
            )
        return choices

    def _side(
        self, database: Any, record: PromptRecord, choices: list[dict[str, Any]], place: int
    ) -> dict[str, Any] | None:
        choice = choices[place]
        if choice["run"] is None or choice["step"] is None:
            return None
        files = self._index.runs[choice["run"]]
        first = choice["first"]
        page = kept_rollouts(
            database, record, choice["run"], files, choice["step"], first=first, most=ROLLOUTS_PER_PAGE
        )
        moved = [first - ROLLOUTS_PER_PAGE, first + ROLLOUTS_PER_PAGE]
        before, after = (_arguments(record, choices, **{choice["first_key"]: str(max(at, 0))}) for at in moved)
        return {
            **choice,
            "rollouts": page,
            "previous": before if first > 0 else None,
            "next": after if moved[1] < page.total else None,
        }


def _arguments(record: PromptRecord, choices: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The arguments of a prompt's page that show what is shown now, with changes."""
    given = {"id": record.id}
    for choice in choices:
        if choice["run"] is not None:
            given |= {choice["run_key"]: choice["run"], choice["step_key"]: choice["step"]}
            given |= {choice["first_key"]: choice["first"] or None}
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def _history(place: int, files: RunFiles, kept: list[int], visits: list[Any]) -> dict[str, Any]:
    rules = [rule for rule in RULES if any(visit.rule == rule for visit in visits)]
    picture = draw_visits(visits, harmless(files.name)) if visits else ""
    return {"place": place, "run": files, "visits": visits, "kept": set(kept), "picture": picture, "rules": rules}


def _facts(run: RunFiles, rollouts: int | None, tokens: int | None) -> dict[str, str]:
    metrics = run.last_metrics()
    planned = run.setting("trainer.total_training_steps")
    step = f"{metrics.get('step', UNKNOWN)}" + ("" if planned is None else f" / {planned}")
    accuracies = [
        value
        for name, value in metrics.items()
        if name.startswith("val-core/") and "/mean@" in name and isinstance(value, int | float)
    ]
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.last_written)) if run.last_written else UNKNOWN
    return {
        "step": step,
        "last written": f"{written}{' (going on)' if run.is_growing else ''}",
        "effective ratio": _rate(metrics.get("training/effective_gradient_ratio")),
        "held-out accuracy": _rate(sum(accuracies) / len(accuracies) if accuracies else None),
        "rollouts in history": _count(rollouts),
        "tokens in history": _count(tokens),
    }


def _table_row(row: Any) -> dict[str, Any]:
    messages = messages_of(row["messages"])
    text = " ".join(messages[-1][1].split()) if messages else ""
    return {
        **{name: row[name] for name in ("id", "ground_truth", "other_answer")},
        "beginning": harmless(shortened(text, BEGINNING_CHARACTERS)[0]),
        "cells": {name: _cell(column.form, row[name]) for name, column in COLUMNS.items()},
    }


def _cell(form: str, value: Any) -> str:
    if form == "rate":
        return _rate(value)
    if form == "change":
        return UNKNOWN if value is None else f"{100 * value:+.0f} pp"
    if form == "text":
        return UNKNOWN if value is None else _breakable(harmless(str(value)))
    return UNKNOWN if value is None else str(value) if form == "step" else _count(value)


def _breakable(name: str) -> Markup:
    """A name that may be broken after its punctuation, and only where that does not do within a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/.:-])", name))


def _rate(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else UNKNOWN


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else UNKNOWN


def _decimal(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else UNKNOWN
