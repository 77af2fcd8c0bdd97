"""Where a step's batch comes from: one batch of prompts, or batch after batch until enough rollouts have a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from knapsack_rl.explorer import Plan
from knapsack_rl.outcomes import Outcomes, choose_rows
from verl import DataProto
from verl.trainer.ppo.step import TrainingStep

__all__ = ["Exploring", "OneBatch", "Sampler", "UntilEffective"]


class Exploring(Protocol):
    """What a sampler asks of the trainer."""

    def explore(self, step: TrainingStep, batch_dict: dict[str, Any], generation: int) -> tuple[DataProto, Plan]:
        """Plan and generate the rollouts of a batch of prompts."""

    def start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        """Compute rewards, or start their computation."""

    def add_rewards(self, step: TrainingStep, batch: DataProto) -> DataProto:
        """Add the rewards that were started."""

    def outcomes(self, batch: DataProto) -> Outcomes:
        """Read what came of the rollouts of a batch."""

    def next_prompts(self) -> dict[str, Any] | None:
        """The next batch of prompts; None at the end of the data."""


class Sampler(Protocol):
    """How a step gets its rollouts."""

    def draw(self, step: TrainingStep, batch_dict: dict[str, Any]) -> DataProto:
        """The rows to train on, generated from a batch of prompts."""

    def start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        """Start the rewards of what was drawn, once its rows are in their final order."""

    def read_outcomes(self, step: TrainingStep, batch: DataProto) -> None:
        """Add the outcomes of what was drawn to the step, once its advantages are known."""

    def metrics(self, step: TrainingStep) -> dict[str, float]:
        """What this sampler adds to the step's metrics, or corrects in them."""


class OneBatch:
    """Every step trains on all rollouts of one batch of prompts."""

    def __init__(self, trainer: Exploring) -> None:
        self._trainer = trainer
        self._plan: Plan | None = None

    def draw(self, step: TrainingStep, batch_dict: dict[str, Any]) -> DataProto:
        batch, self._plan = self._trainer.explore(step, batch_dict, generation=0)
        return batch

    def start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        self._trainer.start_rewards(step, batch)

    def read_outcomes(self, step: TrainingStep, batch: DataProto) -> None:
        assert self._plan is not None, "outcomes are read after a batch was drawn"
        step.explored.append((self._plan, self._trainer.outcomes(batch)))

    def metrics(self, step: TrainingStep) -> dict[str, float]:
        return {}


class UntilEffective:
    """Generates batches until enough rollouts belong to prompts with mixed rewards (DAPO's dynamic sampling).

    The batch always has the step's full number of rows, so that it divides over workers and mini-batches: at the cap
    on generations, rollouts without a gradient fill it.

    Args:
        trainer: generates and rewards.
        num_rows: rollouts to train on, by step.
        max_generations: most batches generated for one step.
        reward_metrics: verl's names of the metrics that speak of scores, as in ``critic/<name>/mean``.
    """

    def __init__(
        self, trainer: Exploring, num_rows: Callable[[int], int], max_generations: int, reward_metrics: tuple[str, ...]
    ) -> None:
        self._trainer = trainer
        self._num_rows = num_rows
        self._max_generations = max_generations
        self._reward_metrics = reward_metrics

    def draw(self, step: TrainingStep, batch_dict: dict[str, Any]) -> DataProto:
        num_rows = self._num_rows(step.number)
        generated: list[DataProto] = []
        prompts: dict[str, Any] | None = batch_dict
        while prompts is not None:
            generated.append(self._generate(step, prompts, generation=len(generated)))
            enough = sum(int(outcomes.effective.sum()) for _, outcomes in step.explored) >= num_rows
            if enough or len(generated) == self._max_generations:
                break
            prompts = self._trainer.next_prompts()
        step.metrics["training/num_generations"] = len(generated)
        step.metrics["training/reached_max_generations"] = float(not enough)
        return DataProto.concat(generated).select_idxs(_rows_to_train(step, num_rows))

    def _generate(self, step: TrainingStep, prompts: dict[str, Any], generation: int) -> DataProto:
        batch, plan = self._trainer.explore(step, prompts, generation)
        self._trainer.start_rewards(step, batch)
        batch = self._trainer.add_rewards(step, batch)
        step.explored.append((plan, self._trainer.outcomes(batch)))
        return batch

    def start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        """Nothing: what was drawn has its rewards."""

    def read_outcomes(self, step: TrainingStep, batch: DataProto) -> None:
        """Nothing: outcomes were read when the batches were filtered."""

    def metrics(self, step: TrainingStep) -> dict[str, float]:
        # What was filtered out was explored all the same: scores of the kept rollouts alone would flatter.
        scores = step.scores
        statistics = {"mean": scores.mean(), "max": scores.max(), "min": scores.min()}
        return {
            f"critic/{name}/{statistic}": float(value)
            for name in self._reward_metrics
            for statistic, value in statistics.items()
        }


def _rows_to_train(step: TrainingStep, num_rows: int) -> np.ndarray:
    """(num_rows,) rows of the step's generated batches, counted through them."""
    offsets = np.cumsum([0, *(len(plan.prompt_ids) for plan, _ in step.explored[:-1])])
    group_of_row = np.concatenate(
        [outcomes.prompt_index + offset for (_, outcomes), offset in zip(step.explored, offsets)]
    )
    return choose_rows(np.concatenate([outcomes.effective for _, outcomes in step.explored]), group_of_row, num_rows)
