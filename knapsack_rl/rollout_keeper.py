"""Keeps rollouts of training steps: which of a step's, and decoded and written while training goes on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.config import ExplorationConfig
from knapsack_rl.rollout_dump import PROMPT_CLASSES, RolloutDump, choose_rollouts, prompt_classes

__all__ = ["RolloutWriter", "rows_to_keep"]

ALL = "all"


def rows_to_keep(
    config: ExplorationConfig,
    step: int,
    prompt_index: Array,
    is_success: Array,
    *,
    estimates: Array,
    budgets: Array,
    successes: Array,
) -> tuple[Array, dict[str, Array]]:
    """Choose the rollouts of a step that are kept.

    Args:
        config: says how many.
        step: the training step.
        prompt_index: (B,) int, the prompt of each rollout.
        is_success: (B,) bool.
        estimates: (M,) float in [0, 1], success rates that the allocation used; NaN = unseen.
        budgets: (M,) int, rollouts of each prompt.
        successes: (M,) int, how many of them succeeded.

    Returns:
        (K,) int64 rows, and the columns of `DUMP_SCHEMA` that are known of their prompts: ``prompt_class``,
        ``estimate``, ``budget`` and ``is_success``, each (K,).

    >>> rows, columns = rows_to_keep(
    ...     ExplorationConfig(dump_rollouts=2), 1, np.array([0, 0, 1, 1]), np.array([True, False, False, False]),
    ...     estimates=np.array([0.5, 0.0]), budgets=np.array([2, 2]), successes=np.array([1, 0]))
    >>> columns["prompt_class"].tolist(), columns["estimate"].tolist()
    (['mixed', 'never solved'], [0.5, 0.0])
    """
    classes = prompt_classes(estimates, budgets, successes)
    number = len(prompt_index) if config.dump_rollouts == ALL else int(config.dump_rollouts or 0)
    rows = choose_rollouts(classes, prompt_index, is_success, number, seed=config.seed + step)
    prompts = prompt_index[rows]
    return rows, {
        "prompt_class": np.array(PROMPT_CLASSES)[classes[prompts]],
        "estimate": estimates[prompts],
        "budget": budgets[prompts],
        "is_success": is_success[rows],
    }


class RolloutWriter:
    """Decodes and writes kept rollouts beside the training: a step waits for no more than those of the step before.

    Args:
        dump: where they go.
        config: which are kept, and what a success is.
        tokenizer: decodes the responses by ``batch_decode``; a copy of it is used.
    """

    def __init__(self, dump: RolloutDump, config: ExplorationConfig, tokenizer: Any) -> None:
        self.config = config
        self._dump = dump
        # A fast tokenizer raises when two threads use it and one of them changes its truncation or padding.
        self._tokenizer: Any = None if config.dump_rollouts is None else copy.deepcopy(tokenizer)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept-rollouts")
        self._writing: Future[None] | None = None

    def write(self, step: int, epoch: int | Array, columns: Mapping[str, Any], responses: Any) -> None:
        """Write rollouts of a step.

        Args:
            step, epoch: when they were sampled; one epoch, or one for each of them.
            columns: those of `DUMP_SCHEMA` but for step, epoch and response, each with K entries.
            responses: K sequences of token ids.

        Raises:
            OSError: those of an earlier step could not be written.
        """
        self._wait()
        self._writing = self._executor.submit(self._write, step, epoch, columns, responses)

    def flush(self) -> None:
        """Write everything that was kept so far; raises as `write`."""
        self._wait()
        self._dump.flush()

    def truncate_after(self, step: int) -> None:
        """Forget every step after ``step``: a run that resumes there repeats them."""
        self._wait()
        self._dump.truncate_after(step)

    def _write(self, step: int, epoch: int | Array, columns: Mapping[str, Any], responses: Any) -> None:
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        self._dump.append(step, epoch, {**columns, "response": texts})

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            raise OSError(
                f"rollouts cannot be kept in {self._dump.folder} ({error}): free space there, lower "
                "exploration.dump_limit_gb, or set exploration.dump_rollouts=null"
            ) from error
