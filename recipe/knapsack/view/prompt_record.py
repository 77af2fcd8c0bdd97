"""One prompt: who it is, its visits in every run, and its kept rollouts of a step."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from knapsack_rl.allocation_rules import PLACING_RULES
from knapsack_rl.rollout_dump import DUMP_SCHEMA
from knapsack_rl.run_folder import ROLLOUTS_FOLDER
from recipe.knapsack.view.placement import placing_rule
from recipe.knapsack.view.run_files import RunFiles
from recipe.knapsack.view.visit_store import NO_NUMBER, load_visits

__all__ = [
    "KeptRollouts",
    "PromptRecord",
    "Visit",
    "find_prompt",
    "kept_rollouts",
    "kept_steps",
    "messages_of",
    "visits_of",
    "words_of",
]


@dataclass(frozen=True)
class PromptRecord:
    """A prompt.

    Attributes:
        number: in the index.
        id: its identity.
        data_source: None if unknown.
        messages: pairs of role and text; empty if the data files are gone.
        ground_truth: None if unknown.
    """

    number: int
    id: str
    data_source: str | None
    messages: Sequence[tuple[str, str]]
    ground_truth: str | None


@dataclass(frozen=True)
class Visit:
    """What was believed of a prompt at a step, what it got, what came of it; ``rule`` is one of `placement.RULES`."""

    step: int
    epoch: int | None
    estimate: float | None
    budget: int
    successes: int | None
    tokens: int | None
    rule: str

    @property
    def rate(self) -> float | None:
        """Successes / rollouts."""
        return None if self.successes is None else self.successes / self.budget


@dataclass(frozen=True)
class KeptRollouts:
    """Rollouts of a prompt at a step.

    Attributes:
        rollouts: a page of them, as rows of `DUMP_SCHEMA`.
        total: of all that were kept.
        answers: the answers of all that were kept, with how many rollouts gave them and whether they are successes, the
            most frequent first; those that tell no answer are left out.
        problem: a sentence if they could not be read; empty otherwise.
    """

    rollouts: Sequence[dict[str, Any]]
    total: int
    answers: Sequence[tuple[str, int, bool]] = ()
    problem: str = ""


def find_prompt(database: sqlite3.Connection, prompt_id: str) -> PromptRecord | None:
    """The prompt with the given id, None if there is none."""
    row = database.execute("SELECT * FROM prompts WHERE id = ?", (prompt_id,)).fetchone()
    if row is None:
        return None
    return PromptRecord(row["number"], row["id"], row["data_source"], messages_of(row["messages"]), row["ground_truth"])


def messages_of(stored: str | None) -> list[tuple[str, str]]:
    """Pairs of role and text, of messages as the index stores them.

    >>> messages_of('[{"role": "user", "content": "1 + 1"}]'), messages_of('"1 + 1"'), messages_of(None)
    ([('user', '1 + 1')], [('prompt', '1 + 1')], [])
    """
    if stored is None:
        return []
    prompt = json.loads(stored)
    if not isinstance(prompt, list):
        return [("prompt", prompt if isinstance(prompt, str) else json.dumps(prompt))]
    messages = []
    for message in prompt:
        content = message.get("content") if isinstance(message, dict) else message
        role = str(message.get("role", "")) if isinstance(message, dict) else ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        messages.append((role, text))
    return messages


def words_of(stored: str) -> str:
    """The texts of messages as a search compares them, whatever the case of letters.

    >>> words_of('[{"role": "user", "content": "Größe\\\\n1 + 1"}]')
    'grösse\\n1 + 1'
    """
    return "\n".join(text for _, text in messages_of(stored)).casefold()


def visits_of(database: sqlite3.Connection, prompt: PromptRecord, run: int, files: RunFiles) -> list[Visit]:
    """The prompt's visits in a run, in the order of steps."""
    visits = []
    for record in load_visits(database, run, prompt.number).tolist():
        step, epoch, estimate, budget, successes, tokens, recorded = (
            None if _is_missing(value) else value for value in record
        )
        rule = placing_rule(estimate, budget, files.exploration) if recorded is None else PLACING_RULES[recorded]
        visits.append(Visit(step, epoch, estimate, budget, successes, tokens, rule))
    return visits


def _is_missing(value: float) -> bool:
    return value == NO_NUMBER or value != value


def kept_steps(database: sqlite3.Connection, prompt: PromptRecord, run: int) -> list[int]:
    """The steps of which rollouts of the prompt were kept, ascending."""
    rows = database.execute(
        "SELECT DISTINCT step FROM kept WHERE run = ? AND prompt = ? ORDER BY step", (run, prompt.number)
    )
    return [row[0] for row in rows]


def kept_rollouts(
    database: sqlite3.Connection, prompt: PromptRecord, run: int, files: RunFiles, step: int, first: int, most: int
) -> KeptRollouts:
    """A page of the prompt's rollouts of a step, by falling score: the row groups that hold them are read, no more."""
    places = database.execute(
        "SELECT part, first_row, rows FROM kept WHERE run = ? AND prompt = ? AND step = ?", (run, prompt.number, step)
    ).fetchall()
    total = sum(place["rows"] for place in places)
    try:
        rollouts = [
            rollout
            for place in places
            for rollout in _read_rows(files, place["part"], place["first_row"], place["rows"])
        ]
    except (OSError, pa.ArrowException) as error:
        return KeptRollouts([], total, problem=f"The rollouts of step {step} cannot be read: {error}")
    rollouts.sort(key=lambda rollout: -(rollout["score"] or 0.0))
    return KeptRollouts(rollouts[first : first + most], total, _answers(rollouts))


def _answers(rollouts: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, bool]]:
    told = [(rollout["pred"], bool(rollout["is_success"])) for rollout in rollouts if rollout["pred"] is not None]
    return [(answer, count, is_success) for (answer, is_success), count in Counter(told).most_common()]


def _read_rows(files: RunFiles, part: str, first_row: int, count: int) -> list[dict[str, Any]]:
    with pq.ParquetFile(files.folder / ROLLOUTS_FOLDER / part) as parquet:
        groups, start, offset = [], 0, None
        for group in range(parquet.metadata.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            if start < first_row + count and end > first_row:
                groups.append(group)
                offset = start if offset is None else offset
            start = end
        table = parquet.read_row_groups(groups).slice(first_row - (offset or 0), count)
    known = pa.schema([field for field in DUMP_SCHEMA if field.name in table.column_names])
    rows = table.select(known.names).cast(known).to_pylist()
    return [{name: row.get(name) for name in DUMP_SCHEMA.names} for row in rows]
