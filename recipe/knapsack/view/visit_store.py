"""Visits of prompts in the index: the visits of one prompt in one run are one array of records, stored as a blob.

A run of a thousand steps has a quarter of a million visits and a fourteenth as many prompts: rows for prompts alone are
what makes the index quick to build.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from knapsack_rl.allocation_rules import PLACING_RULES

__all__ = ["NO_NUMBER", "VISIT", "add_visits", "column_values", "load_visits"]

NO_NUMBER = -1
"""Stands for an integer that the history lacks."""
VISIT = np.dtype(
    [
        ("step", np.int64),
        ("epoch", np.int64),
        ("estimate", np.float64),  # NaN = unseen
        ("budget", np.int64),
        ("successes", np.int64),
        ("tokens", np.int64),
        ("rule", np.int64),  # place in PLACING_RULES
    ]
)
_HISTORY_COLUMNS = {
    **{name: name for name in VISIT.names or () if name != "rule"},
    "tokens": "response_tokens",
}


def add_visits(database: sqlite3.Connection, run: int, prompts: np.ndarray, history: pa.Table) -> None:
    """Add rows of the history to those that the index has, and summarize their prompts again.

    Args:
        database: the index.
        run: place of the run.
        prompts: (rows,) int64, number of each row's prompt.
        history: the rows, in the order of their steps.
    """
    visits = np.empty(len(history), dtype=VISIT)
    for name, column in _HISTORY_COLUMNS.items():
        visits[name] = column_values(history[column], missing=np.nan if name == "estimate" else NO_NUMBER)
    rules = pc.index_in(history["rule"], value_set=pa.array(PLACING_RULES))
    visits["rule"] = column_values(rules, missing=NO_NUMBER)
    order = np.argsort(prompts, kind="stable")
    prompts, visits = prompts[order], visits[order]
    stored = _stored(database, run, np.unique(prompts))
    if stored:
        old = [np.frombuffer(blob, dtype=VISIT) for blob in stored.values()]
        old_prompts = np.repeat(list(stored), [len(records) for records in old])
        prompts, visits = np.concatenate([old_prompts, prompts]), np.concatenate([*old, visits])
        order = np.lexsort((visits["step"], prompts))  # a part may come after a later one where a folder is copied
        prompts, visits = prompts[order], visits[order]
    starts = np.flatnonzero(np.append(True, np.diff(prompts) != 0))
    ends = np.append(starts[1:], len(prompts))
    numbers = prompts[starts].tolist()
    blobs = (visits[start:end].tobytes() for start, end in zip(starts.tolist(), ends.tolist(), strict=True))
    database.executemany(
        "INSERT OR REPLACE INTO visits VALUES (?, ?, ?)",
        ((run, number, blob) for number, blob in zip(numbers, blobs, strict=True)),
    )
    database.executemany(
        "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((run, number, *summary) for number, summary in zip(numbers, _summaries(visits, starts, ends), strict=True)),
    )


def load_visits(database: sqlite3.Connection, run: int, prompt: int) -> np.ndarray:
    """The visits of a prompt in a run, records of `VISIT` in the order of their steps."""
    row = database.execute("SELECT records FROM visits WHERE run = ? AND prompt = ?", (run, prompt)).fetchone()
    return np.empty(0, dtype=VISIT) if row is None else np.frombuffer(row[0], dtype=VISIT)


def column_values(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    """The numbers of a column, with ``missing`` in place of nulls.

    Not by ``to_numpy``, which imports pandas: a third of a second before the first page.

    >>> column_values(pa.chunked_array([[1, None], [3]]), missing=-1).tolist()
    [1, -1, 3]
    """
    return np.concatenate([_chunk_values(chunk, missing) for chunk in column.chunks if len(chunk)] or [np.empty(0)])


def _chunk_values(chunk: pa.Array, missing: float) -> np.ndarray:
    _, data = chunk.buffers()
    values = np.from_dlpack(pa.Array.from_buffers(chunk.type, len(chunk), [None, data], offset=chunk.offset))
    if not chunk.null_count:
        return values
    return np.where(np.from_dlpack(chunk.is_valid().cast(pa.int8())) == 1, values, missing)


def _stored(database: sqlite3.Connection, run: int, prompts: np.ndarray) -> dict[int, bytes]:
    """What the index has of the given prompts, by their numbers."""
    if database.execute("SELECT 1 FROM visits WHERE run = ? LIMIT 1", (run,)).fetchone() is None:
        return {}
    database.execute("CREATE TEMP TABLE IF NOT EXISTS touched (prompt INTEGER PRIMARY KEY)")
    database.execute("DELETE FROM touched")
    database.executemany("INSERT INTO touched VALUES (?)", ((prompt,) for prompt in prompts.tolist()))
    rows = database.execute(
        "SELECT prompt, records FROM visits WHERE run = ? AND prompt IN (SELECT prompt FROM touched)", (run,)
    )
    return {row[0]: row[1] for row in rows}


def _summaries(visits: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[object, ...]]:
    """The columns of the table of summaries after the prompt, for each group of visits."""
    step, budget, successes = visits["step"], visits["budget"], visits["successes"]
    is_mixed = (successes > 0) & (successes < budget)
    last = visits[ends - 1]
    columns = [
        ends - starts,
        np.add.reduceat(budget, starts),
        np.add.reduceat(np.maximum(successes, 0), starts),
        np.add.reduceat(np.maximum(visits["tokens"], 0), starts),
        np.minimum.reduceat((successes >= budget).astype(np.int64), starts),
        _or_none(np.maximum.reduceat(np.where(is_mixed, step, NO_NUMBER), starts)),
        _or_none(np.maximum.reduceat(np.where(successes > 0, step, NO_NUMBER), starts)),
        last["step"],
        _or_none(last["epoch"]),
        _or_none(last["estimate"]),
        last["budget"],
        _or_none(np.where(last["successes"] == NO_NUMBER, np.nan, last["successes"] / last["budget"])),
    ]
    return zip(*(column.tolist() for column in columns), strict=True)


def _or_none(values: np.ndarray) -> np.ndarray:
    """The values as objects, with None for NaN and `NO_NUMBER`."""
    objects = values.astype(object)
    objects[np.isnan(values) if values.dtype.kind == "f" else values == NO_NUMBER] = None
    return objects
