"""The per-prompt history of a run: what was believed, spent and observed for every prompt at every step.

A parquet data set in the run's folder, one row per prompt and step, that any parquet reader opens (`step_parts`). Rows
are buffered between parts: a crash loses at most the steps after the last flush, and a run that resumes from a
checkpoint repeats those.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from knapsack_rl.arrays import Array
from knapsack_rl.explorer import Plan
from knapsack_rl.outcomes import Outcomes
from knapsack_rl.step_parts import (
    STEPS_PER_PART,
    PartsError,
    list_parts,
    read_part,
    truncate_parts,
    verified_content,
    write_part,
)

__all__ = ["SCHEMA", "ExplorationHistory", "HistoryError", "read_history"]

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("epoch", pa.int64()),
        ("step", pa.int64()),
        ("prompt_id", pa.string()),
        ("estimate", pa.float64()),  # success rate that the allocation used; null = unseen
        ("budget", pa.int64()),  # rollouts
        ("successes", pa.int64()),  # among them
        ("response_tokens", pa.int64()),  # of all of them together
        ("rule", pa.string()),  # of PLACING_RULES, what decided on the budget; null = not told
    ]
)


HistoryError = PartsError
"""The history on disk is damaged, or a call does not fit to what it holds."""


class ExplorationHistory:
    """Appends to the per-prompt history of one run. There is one writer: the driver.

    Args:
        folder: where the parts go; made when the first part is written.
        flush_every: number of steps to buffer before a part is written without being asked to, at least 1.

    Raises:
        ValueError: `flush_every` is less than 1.
    """

    def __init__(self, folder: str | os.PathLike[str], flush_every: int = STEPS_PER_PART) -> None:
        if flush_every < 1:
            raise ValueError(f"flush_every must be at least 1 step, got {flush_every}")
        self.folder = Path(folder)
        self.flush_every = flush_every
        self._buffer: list[tuple[int, pa.Table]] = []
        self._last_step = max((part.last_step for part in list_parts(self.folder)), default=None)

    def append(
        self,
        step: int,
        epoch: int,
        prompt_ids: Sequence[str],
        estimates: Array,
        budgets: Array,
        successes: Array,
        response_tokens: Array,
        rules: Sequence[str | None] | None = None,
    ) -> None:
        """Add the M prompts of one generated batch; a step may be appended in several calls.

        Args:
            step, epoch: when the prompts were sampled.
            prompt_ids: M ids.
            estimates: (M,) success rates that the allocation used; NaN = unseen.
            budgets: (M,) rollouts of each prompt.
            successes: (M,) how many of them succeeded.
            response_tokens: (M,) response tokens of all of the prompt's rollouts together.
            rules: M names out of `PLACING_RULES`, what decided on the budgets; None where it is not told.

        Raises:
            ValueError: a column does not have M entries, M is 0, or `step` is negative.
            HistoryError: the history already holds this step or a later one; `truncate_after` forgets them.
        """
        num_prompts = len(prompt_ids)
        columns: dict[str, Any] = {
            "epoch": np.full(num_prompts, epoch),
            "step": np.full(num_prompts, step),
            "prompt_id": list(prompt_ids),
            "estimate": estimates,
            "budget": budgets,
            "successes": successes,
            "response_tokens": response_tokens,
            "rule": [None] * num_prompts if rules is None else list(rules),
        }
        for name, column in columns.items():
            if num_prompts == 0 or np.shape(column) != (num_prompts,):
                raise ValueError(
                    f"{name} must have one entry for each of {num_prompts} prompts, got {np.shape(column)}"
                )
        self._check_follows(step)
        if len({buffered for buffered, _ in self._buffer} - {step}) >= self.flush_every:
            self.flush()
        # np.array copies: Arrow would share the memory of an array that the caller may go on to change.
        arrays = [pa.array(np.array(columns[field.name]), type=field.type, from_pandas=True) for field in SCHEMA]
        self._buffer.append((step, pa.Table.from_arrays(arrays, schema=SCHEMA)))

    def record(self, plan: Plan, outcomes: Outcomes) -> None:
        """Add the prompts of a plan and what came of their rollouts; raises as `append`."""
        num_prompts = len(plan.prompt_ids)
        self.append(
            plan.step,
            plan.epoch,
            plan.prompt_ids,
            plan.success_rates,
            plan.budgets,
            outcomes.successes_by_prompt(num_prompts),
            outcomes.response_tokens_by_prompt(num_prompts),
            plan.rules,
        )

    def flush(self) -> None:
        """Write the buffered steps as one part and force it to disk; nothing happens if there are none."""
        if not self._buffer:
            return
        part = write_part(self.folder, pa.concat_tables([table for _, table in self._buffer]))
        self._last_step = part.last_step
        self._buffer = []

    def truncate_after(self, step: int) -> None:
        """Forget every step after `step`, on disk and in the buffer: a run that resumes there repeats them.

        Raises:
            HistoryError: the part that holds both `step` and later steps is damaged.
        """
        self._buffer = [(buffered, table) for buffered, table in self._buffer if buffered <= step]
        if not self.folder.exists():
            return
        kept = truncate_parts(self.folder, step, SCHEMA)
        self._last_step = max((part.last_step for part in kept), default=None)

    def check_until(self, step: int, *, since: int = 0) -> None:
        """Verify the parts that hold any of the steps after `since` up to `step`.

        Args:
            step: where a run would resume; parts of later steps do not matter to it.
            since: step of the checkpoint before that one. Damage further back would not be escaped by falling back to
                it, so it must not make this one unusable.

        Raises:
            HistoryError: a part is damaged; the message names it.
        """
        for part in list_parts(self.folder):
            if part.first_step <= step and part.last_step > since:
                verified_content(part)

    def _check_follows(self, step: int) -> None:
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        is_on_disk = self._last_step is not None and step <= self._last_step
        if is_on_disk or (self._buffer and step < self._buffer[-1][0]):
            latest = self._buffer[-1][0] if self._buffer else self._last_step
            raise HistoryError(
                f"step {step} cannot be appended to {self.folder}, which already holds step {latest}; "
                f"truncate_after({step - 1}) forgets the steps that are to be repeated"
            )


def read_history(folder: str | os.PathLike[str], *, skip_damaged: bool = False) -> pa.Table:
    """Read the whole history of a run, in the order of its steps; `.to_pandas()` makes it a data frame.

    Args:
        folder: the history's folder.
        skip_damaged: leave damaged parts out with a warning that names them, and those that hold the same step, instead
            of raising.

    Returns:
        A table with the columns of `SCHEMA`: one row per prompt and step; no rows if nothing was written yet.

    Raises:
        FileNotFoundError: there is no such folder.
        HistoryError: a part is damaged, or two parts hold the same step; the message names them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist: no history was written there")
    tables = []
    for part in list_parts(folder, skip_disputed=skip_damaged):
        try:
            tables.append(read_part(part, SCHEMA))
        except PartsError as error:
            if not skip_damaged:
                raise
            logger.warning("left out steps %d to %d of the history: %s", part.first_step, part.last_step, error)
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
