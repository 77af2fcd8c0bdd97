"""Keeps rollouts of the trainer's batches to be read: which of a step's, and what of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from knapsack_rl.config import ExplorationConfig
from knapsack_rl.rollout_dump import PROMPT_CLASSES, RolloutDump, choose_rollouts, prompt_classes
from verl import DataProto
from verl.trainer.ppo.outcomes import verdicts
from verl.trainer.ppo.prompts import place_of_group
from verl.trainer.ppo.step import TrainingStep

__all__ = ["RolloutKeeper", "rows_to_keep"]

ALL = "all"


def rows_to_keep(
    step: TrainingStep, batch: DataProto, config: ExplorationConfig
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Choose the rollouts of a step that are kept.

    Args:
        step: with the plans of its prompts and their outcomes.
        batch: B rows with scores; their ``uid`` says which prompt of which plan they belong to.
        config: says how many are kept, and what a success is.

    Returns:
        (K,) int64 rows of the batch, and the columns that are known of their prompts: ``prompt_class``, ``estimate``,
        ``budget`` and ``is_success``, each (K,).
    """
    groups, group_of_row = np.unique(batch.non_tensor_batch["uid"], return_inverse=True)
    places = [place_of_group(uid) for uid in groups]
    explored = [
        (plan.success_rates, plan.budgets, outcomes.successes_by_prompt(len(plan.prompt_ids)))
        for plan, outcomes in step.explored
    ]
    estimates, budgets, successes = (
        np.array([explored[generation][column][prompt] for generation, prompt in places]) for column in range(3)
    )
    classes = prompt_classes(estimates, budgets, successes)
    is_success = verdicts(batch, batch.batch["token_level_scores"].sum(-1).numpy()) > config.success_threshold
    number = len(batch) if config.dump_rollouts == ALL else config.dump_rollouts
    rows = choose_rollouts(classes, group_of_row, is_success, number, seed=config.seed + step.number)
    group = group_of_row[rows]
    return rows, {
        "prompt_class": np.array(PROMPT_CLASSES)[classes[group]],
        "estimate": estimates[group],
        "budget": budgets[group],
        "is_success": is_success[rows],
    }


class RolloutKeeper:
    """Writes the rollouts that are kept beside the training: a step waits for no more than those of the step before.

    Args:
        dump: where they go.
        config: which are kept.
        tokenizer: decodes the responses.
    """

    def __init__(self, dump: RolloutDump, config: ExplorationConfig, tokenizer: Any) -> None:
        self._dump = dump
        self._config = config
        # A fast tokenizer raises when two threads use it and one of them changes its truncation or padding.
        self._tokenizer = None if config.dump_rollouts is None else copy.deepcopy(tokenizer)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kept-rollouts")
        self._writing: Future[None] | None = None

    def keep(self, step: TrainingStep, epoch: int, batch: DataProto) -> None:
        """Keep rollouts of the batch that a step trains on, which has its scores and advantages.

        Raises:
            OSError: those of an earlier step could not be written.
        """
        if self._config.dump_rollouts is None:
            return
        rows, columns = rows_to_keep(step, batch, self._config)
        mask = batch.batch["response_mask"][rows]
        tokens = mask.sum(-1)
        advantages = (batch.batch["advantages"][rows] * mask).sum(-1) / tokens.clamp(min=1)
        columns |= {
            "prompt_id": batch.non_tensor_batch["prompt_id"][rows],
            "score": batch.batch["token_level_scores"][rows].sum(-1).numpy(),
            "acc": _reward_column(batch, "acc", rows, float),
            "pred": _reward_column(batch, "pred", rows, str),
            "advantage": advantages.numpy(),
            "response_tokens": tokens.numpy(),
        }
        self._wait()
        self._writing = self._executor.submit(self._write, step.number, epoch, columns, batch.batch["responses"][rows])

    def flush(self) -> None:
        """Write everything that was kept so far; raises as `keep`."""
        self._wait()
        self._dump.flush()

    def truncate_after(self, step: int) -> None:
        """Forget every step after ``step``: a run that resumes there repeats them."""
        self._wait()
        self._dump.truncate_after(step)

    def _write(self, step: int, epoch: int, columns: dict[str, Any], responses: torch.Tensor) -> None:
        texts = self._tokenizer.batch_decode(responses, skip_special_tokens=True)
        self._dump.append(step, epoch, {**columns, "response": texts})

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _reward_column(batch: DataProto, name: str, rows: np.ndarray, kind: Callable[[Any], Any]) -> list[Any]:
    """What the reward function told of each row under ``name``; None where it told nothing."""
    # A column of the data of that name is not the reward function's.
    if name not in batch.meta_info.get("reward_columns", ()):
        return [None] * len(rows)
    return [None if value is None else kind(value) for value in batch.non_tensor_batch[name][rows]]
