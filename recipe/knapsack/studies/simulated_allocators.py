"""The allocators that the simulation compares, from homogeneous to clairvoyant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl import (
    ExplorationConfig,
    Explorer,
    Outcomes,
    Plan,
    grpo_value,
    homogeneous_allocate,
    knapsack_allocate,
)
from recipe.knapsack.studies.simulated_prompts import ROLLOUTS_PER_PROMPT, Population, StandingFilter

N_LOW, N_UP = 2, 128


@dataclass(frozen=True)
class Batch:
    """What a step asks an allocator: M prompts by number and name, their hidden success rates, and when."""

    prompts: np.ndarray
    names: np.ndarray
    true_rates: np.ndarray
    epoch: int
    step: int
    total_budget: int


class Homogeneous:
    """The same number of rollouts for every prompt."""

    name = "homogeneous"

    def allocate(self, batch: Batch) -> np.ndarray:
        return homogeneous_allocate(len(batch.names), batch.total_budget).budgets

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Learns nothing."""


class Clairvoyant(Homogeneous):
    """The knapsack with the true success rates: no allocator reaches a higher total value."""

    name = "clairvoyant"

    def allocate(self, batch: Batch) -> np.ndarray:
        return knapsack_allocate(batch.true_rates, batch.total_budget, N_LOW, N_UP).budgets


class ExactPosterior:
    """The knapsack for one who learns from rollouts and knows how the success rates are distributed and drift.

    No budgets have a higher expected value in the step at hand, given the rollouts that it has seen.
    """

    name = "exact posterior"

    def __init__(self, population: Population, num_prompts: int) -> None:
        self._population = population
        self._filter = StandingFilter(num_prompts, population.epoch_correlation)
        self._epoch = 0

    def allocate(self, batch: Batch) -> np.ndarray:
        while self._epoch < batch.epoch:
            self._filter.end_epoch()
            self._epoch += 1
        rates = self._population.success_rates_of(self._filter.grid, batch.step)
        gains_by_standing = np.diff(grpo_value(np.arange(N_LOW, N_UP + 1)[:, None], rates), axis=0)
        gains = self._filter.weights[batch.prompts] @ gains_by_standing.T
        left = batch.total_budget - N_LOW * len(batch.prompts)
        # The value is concave in the rollouts for every standing, so it is in the mean: the largest gains are the best.
        largest = np.argsort(-gains, axis=None, kind="stable")[:left]
        return N_LOW + np.bincount(largest // gains.shape[1], minlength=len(batch.prompts))

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Sample the rollouts and take in their outcomes."""
        successes = generator.binomial(budgets, batch.true_rates)
        rates = self._population.success_rates_of(self._filter.grid, batch.step)
        self._filter.observe(batch.prompts, successes, budgets, rates)


class Exploring:
    """The project's own explorer, which knows what sampled rollouts told it."""

    def __init__(
        self, name: str, value: str = "grpo", fallback: bool = True, estimator: str = "previous_epoch"
    ) -> None:
        self.name = name
        config = {
            "n_low": N_LOW,
            "n_up": N_UP,
            "value": value,
            "fallback": fallback,
            "success_rate": {"estimator": estimator},
        }
        self._explorer = Explorer(ExplorationConfig.from_mapping(config), rollouts_per_prompt=ROLLOUTS_PER_PROMPT)
        self._plan: Plan | None = None

    def allocate(self, batch: Batch) -> np.ndarray:
        self._plan = self._explorer.plan(batch.names.tolist(), epoch=batch.epoch, step=batch.step)
        return self._plan.budgets

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Sample the rollouts and let the explorer learn from their outcomes."""
        assert self._plan is not None, "rollouts are observed after they were planned"
        prompt_index = np.repeat(np.arange(len(budgets)), budgets)
        successes = generator.random(len(prompt_index)) < batch.true_rates[prompt_index]
        rewards = successes.astype(np.float64)
        outcomes = Outcomes(
            prompt_index=prompt_index,
            scores=rewards,
            successes=successes,
            effective=self._explorer.adv_estimator.effective_rollouts(rewards, prompt_index),
            response_tokens=np.ones(len(prompt_index), dtype=np.int64),
        )
        self._explorer.observe(self._plan, outcomes)


def all_allocators(population: Population, num_prompts: int, *, fallback: bool) -> list[Any]:
    """The allocators that are compared, the bound last."""
    return [
        Homogeneous(),
        Exploring("previous_epoch", fallback=fallback, estimator="previous_epoch"),
        Exploring("window", fallback=fallback, estimator="window"),
        Exploring("beta", fallback=fallback, estimator="beta"),
        Exploring("beta, expected value", value="expected", fallback=fallback, estimator="beta"),
        ExactPosterior(population, num_prompts),
        Clairvoyant(),
    ]
