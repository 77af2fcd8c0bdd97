"""Rollouts that are kept to be read: which of a step's, and the parquet files that they go to.

A part (`step_parts`) holds whole steps and is written when enough has gathered. The oldest parts are deleted when all
of them together exceed a size limit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from knapsack_rl.arrays import Array
from knapsack_rl.step_parts import STEPS_PER_PART, PartsError, list_parts, truncate_parts, write_part

logger = logging.getLogger(__name__)

__all__ = ["DUMP_SCHEMA", "PROMPT_CLASSES", "RolloutDump", "choose_rollouts", "prompt_classes"]

DUMP_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int64()),
        ("prompt_id", pa.string()),
        ("prompt_class", pa.string()),  # one of PROMPT_CLASSES
        ("estimate", pa.float64()),  # success rate that the allocation used; null = unseen
        ("budget", pa.int64()),  # rollouts of the prompt at this step, kept or not
        ("score", pa.float64()),
        ("acc", pa.float64()),  # the reward function's verdict; null without one
        ("pred", pa.string()),  # the answer that it parsed; null without one
        ("is_success", pa.bool_()),
        ("advantage", pa.float64()),  # mean over the response's tokens
        ("response_tokens", pa.int64()),
        ("response", pa.string()),
    ]
)

PROMPT_CLASSES = ("never solved", "fell back", "mixed", "solved")
"""What came of a prompt at a step: no success and none expected, no success although some was expected, some, all."""

PART_BYTES = 32 * 2**20
"""Text that is gathered before a part is written."""
_ROWS_PER_GROUP = 256  # a reader of one prompt decodes no more than these
_ROLLOUTS_AT_ONCE = 2


def prompt_classes(estimates: Array, budgets: Array, successes: Array) -> Array:
    """What came of prompts, as (M,) int64 indices into `PROMPT_CLASSES`.

    Args:
        estimates: (M,) float in [0, 1], success rates that the allocation used; NaN = unseen.
        budgets: (M,) int, rollouts.
        successes: (M,) int, how many of them succeeded.

    >>> indices = prompt_classes(np.array([np.nan, 0.5, 0.5, 1.0]), np.full(4, 8), np.array([0, 0, 3, 8]))
    >>> [PROMPT_CLASSES[index] for index in indices]
    ['never solved', 'fell back', 'mixed', 'solved']
    """
    successes = np.asarray(successes)
    was_solved = np.nan_to_num(np.asarray(estimates, dtype=np.float64)) > 0
    return np.select([successes == 0, successes < budgets], [was_solved.astype(np.int64), 2], default=3)


def choose_rollouts(prompt_class: Array, prompt_index: Array, successes: Array, number: int, *, seed: int) -> Array:
    """Choose rollouts of a step so that every class of prompts is seen.

    The classes take turns. Within a class, prompts come in random order with up to two successes and two failures
    each; further ones only after all prompts of the class had their turn.

    Args:
        prompt_class: (M,) int, index of each prompt's class.
        prompt_index: (B,) int, the prompt of each rollout.
        successes: (B,) bool.
        number: how many to choose; all B if they are fewer.
        seed: of the random order.

    Returns:
        (min(number, B),) int64 indices of rollouts, ascending.

    >>> prompt_index = np.repeat([0, 1, 2], [8, 4, 4])
    >>> chosen = choose_rollouts(np.array([0, 2, 3]), prompt_index, np.arange(16) >= 10, 6, seed=1)
    >>> np.bincount(prompt_index[chosen]).tolist()
    [2, 2, 2]
    """
    if number >= len(prompt_index):
        return np.arange(len(prompt_index))
    random = np.random.default_rng(seed)
    order_of_prompt = random.permutation(len(prompt_class))[prompt_index]
    cell = prompt_index * 2 + np.asarray(successes, dtype=np.int64)
    turn = _position_within(cell, random.permutation(len(prompt_index))) // _ROLLOUTS_AT_ONCE
    # Successes and failures of a prompt come one after the other, so that a cut between them leaves both.
    in_pairs = _position_within(cell * len(prompt_index) + turn, np.arange(len(prompt_index)))
    class_of_row = np.asarray(prompt_class)[prompt_index]
    order = np.lexsort((in_pairs, order_of_prompt, turn))
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    place_in_class = _position_within(class_of_row, position)
    return np.sort(np.lexsort((class_of_row, place_in_class))[:number])


def _position_within(groups: Array, key: Array) -> Array:
    """(B,) int64, how many rows of the same group have a smaller key."""
    order = np.lexsort((key, groups))
    is_first = np.append(True, np.diff(groups[order]) != 0)
    rows = np.arange(len(order))
    position = np.empty(len(order), dtype=np.int64)
    position[order] = rows - np.maximum.accumulate(np.where(is_first, rows, 0))
    return position


def _array(column: Sequence[Any] | Array, kind: pa.DataType) -> pa.Array:
    """The column, with NaN as null and what no encoding writes, as an answer read from JSON may hold, as its escape."""
    try:
        return pa.array(column, type=kind, from_pandas=True)
    except UnicodeEncodeError:
        writable = [None if text is None else text.encode(errors="backslashreplace").decode() for text in column]
        return pa.array(writable, type=kind)


class RolloutDump:
    """Writes rollouts of one run. There is one writer: the driver.

    Args:
        folder: where the parts go; made when the first part is written.
        limit_bytes: most bytes of all parts together; the oldest are deleted, and the newest is always kept.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self._buffer: list[tuple[int, pa.Table]] = []

    def append(self, step: int, epoch: int | Array, columns: Mapping[str, Sequence[Any] | Array]) -> None:
        """Add rollouts of a step that follows those before it.

        Args:
            step, epoch: when they were sampled; one epoch, or one for each of them.
            columns: the other columns of `DUMP_SCHEMA`, each with K entries; NaN is stored as null.

        Raises:
            ValueError: a column is missing or unknown, or they differ in length.
        """
        count = len(columns["response"]) if "response" in columns else 0
        given = {"step": np.full(count, step), "epoch": np.broadcast_to(epoch, count), **columns}
        if set(given) != set(DUMP_SCHEMA.names) or any(len(column) != count for column in given.values()):
            raise ValueError(
                f"expected the columns {', '.join(DUMP_SCHEMA.names)}, equally long; got "
                f"{ {name: len(column) for name, column in given.items()} }"
            )
        if count == 0:
            return
        order = np.lexsort((np.arange(count), np.asarray(given["prompt_id"], dtype=str)))
        arrays = [_array(given[field.name], field.type).take(order) for field in DUMP_SCHEMA]
        table = pa.Table.from_arrays(arrays, schema=DUMP_SCHEMA)
        self._buffer.append((step, table))
        gathered = sum(table.nbytes for _, table in self._buffer)
        if gathered >= PART_BYTES or len({step for step, _ in self._buffer}) >= STEPS_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as one part and force it to disk; nothing happens if there is nothing."""
        if not self._buffer:
            return
        write_part(self.folder, pa.concat_tables([table for _, table in self._buffer]), rows_per_group=_ROWS_PER_GROUP)
        self._buffer = []
        self._delete_oldest()

    def truncate_after(self, step: int) -> None:
        """Forget every step after ``step``, on disk and gathered: a run that resumes there repeats them.

        A part that is damaged and holds later steps is deleted as a whole: no training stops for it.
        """
        self._buffer = [(buffered, table) for buffered, table in self._buffer if buffered <= step]
        if not self.folder.exists():
            return
        try:
            truncate_parts(self.folder, step, DUMP_SCHEMA, rows_per_group=_ROWS_PER_GROUP)
        except PartsError as error:
            logger.warning("Kept rollouts of steps after %d are deleted with the part that holds them: %s", step, error)
            for part in list_parts(self.folder, with_superseded=True):
                if part.last_step > step:
                    part.path.unlink()

    def _delete_oldest(self) -> None:
        parts = list_parts(self.folder)
        total = sum(part.path.stat().st_size for part in parts)
        for part in parts[:-1]:
            if total <= self.limit_bytes:
                return
            total -= part.path.stat().st_size
            part.path.unlink()
