"""The allocators that the simulation compares, from homogeneous to clairvoyant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl import grpo_value, homogeneous_allocate, knapsack_allocate
from knapsack_rl.task_status import TaskStatus
from recipe.knapsack.studies.simulated_prompts import Population, StandingFilter

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


class Estimating:
    """The knapsack with what the task status knows from sampled rollouts."""

    def __init__(self, name: str, value: str = "grpo", fallback: bool = True, **status_options: Any) -> None:
        self.name = name
        self._value = value
        self._fallback = fallback
        self._status = TaskStatus(**status_options)

    def allocate(self, batch: Batch) -> np.ndarray:
        if self._value == "expected":
            beliefs = self._status.beliefs(batch.names, epoch=batch.epoch)
            allocation = knapsack_allocate(
                None, batch.total_budget, N_LOW, N_UP, value="expected", fallback=self._fallback, beliefs=beliefs
            )
        else:
            rates = self._status.success_rates(batch.names, epoch=batch.epoch)
            allocation = knapsack_allocate(rates, batch.total_budget, N_LOW, N_UP, fallback=self._fallback)
        return allocation.budgets

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Sample the rollouts and remember their outcomes."""
        outcomes = generator.random(int(budgets.sum())) < np.repeat(batch.true_rates, budgets)
        self._status.observe(np.repeat(batch.names, budgets), outcomes, epoch=batch.epoch, step=batch.step)


def all_allocators(population: Population, num_prompts: int, *, fallback: bool) -> list[Any]:
    """The allocators that are compared, the bound last."""
    return [
        Homogeneous(),
        Estimating("previous_epoch", fallback=fallback, estimator="previous_epoch"),
        Estimating("window", fallback=fallback, estimator="window"),
        Estimating("beta", fallback=fallback, estimator="beta"),
        Estimating("beta, expected value", value="expected", fallback=fallback, estimator="beta"),
        ExactPosterior(population, num_prompts),
        Clairvoyant(),
    ]
