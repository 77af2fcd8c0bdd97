"""Keeps rollouts of the trainer's batches to be read: what a batch says of those that are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from knapsack_rl.config import ExplorationConfig
from knapsack_rl.rollout_keeper import RolloutWriter, rows_to_keep
from verl import DataProto
from verl.trainer.ppo.outcomes import verdicts
from verl.trainer.ppo.prompts import place_of_group
from verl.trainer.ppo.step import TrainingStep

__all__ = ["RolloutKeeper"]


class RolloutKeeper(RolloutWriter):
    """Keeps rollouts as ``exploration.dump_rollouts`` asks for; the writing happens beside the training."""

    def keep(self, step: TrainingStep, epoch: int, batch: DataProto) -> None:
        """Keep rollouts of the batch that a step trains on, which has its scores and advantages.

        Raises:
            OSError: those of an earlier step could not be written.
        """
        if self.config.dump_rollouts is None:
            return
        rows, columns = _rows_to_keep(step, batch, self.config)
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
        self.write(step.number, epoch, columns, batch.batch["responses"][rows])


def _rows_to_keep(
    step: TrainingStep, batch: DataProto, config: ExplorationConfig
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """`rows_to_keep` of a batch whose ``uid`` says which prompt of which of the step's plans a row belongs to."""
    groups, group_of_row = np.unique(batch.non_tensor_batch["uid"], return_inverse=True)
    places = [place_of_group(uid) for uid in groups]
    explored = [
        (plan.success_rates, plan.budgets, outcomes.successes_by_prompt(len(plan.prompt_ids)))
        for plan, outcomes in step.explored
    ]
    estimates, budgets, successes = (
        np.array([explored[generation][column][prompt] for generation, prompt in places]) for column in range(3)
    )
    is_success = verdicts(batch, batch.batch["token_level_scores"].sum(-1).numpy()) > config.success_threshold
    return rows_to_keep(
        config, step.number, group_of_row, is_success, estimates=estimates, budgets=budgets, successes=successes
    )


def _reward_column(batch: DataProto, name: str, rows: np.ndarray, kind: Callable[[Any], Any]) -> list[Any]:
    """What the reward function told of each row under ``name``; None where it told nothing."""
    # A column of the data of that name is not the reward function's.
    if name not in batch.meta_info.get("reward_columns", ()):
        return [None] * len(rows)
    return [None if value is None else kind(value) for value in batch.non_tensor_batch[name][rows]]
