"""What a total budget and bounds would do with a population: its epoch in batches, allocated and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knapsack_rl import (
    Allocation,
    ExplorationConfig,
    Explorer,
    expected_effective_ratio,
    homogeneous_allocate,
)
from knapsack_rl.classes import budget_range, budget_range_label
from knapsack_rl.estimates import Estimates
from recipe.knapsack.planner.population import PlanError, Population

LARGEST_UNIFORM_ROLLOUTS = 1024


@dataclass(frozen=True)
class Plan:
    """What one choice of budget and bounds would do, averaged over the batches of an epoch.

    Attributes:
        batch_size, total_budget, n_low, n_up: the choice; budgets are per step.
        homogeneous_ratio, knapsack_ratio: expected effective-gradient ratio; NaN if no success rate is known.
        matching_uniform_rollouts: smallest uniform number of rollouts per prompt that gives at least the knapsack's
            ratio; None where no number up to `LARGEST_UNIFORM_ROLLOUTS` does.
        effective_rollouts_gained: additional rollouts with a non-zero gradient per step.
        largest_budget: most rollouts for one prompt.
        rollouts_by_rule: mean rollouts per step that each rule of the allocation places.
        rollouts_per_unsolved_prompt, rollouts_per_unsolved_prompt_without_fallback: mean budget of a prompt whose
            estimated success rate is 0; None where there is none.
        histogram: number of prompts of the epoch by budget, ``"4-7"`` and so on.
    """

    batch_size: int
    total_budget: int
    n_low: int
    n_up: int
    homogeneous_ratio: float
    knapsack_ratio: float
    matching_uniform_rollouts: int | None
    effective_rollouts_gained: float
    largest_budget: int
    rollouts_by_rule: dict[str, float]
    rollouts_per_unsolved_prompt: float | None
    rollouts_per_unsolved_prompt_without_fallback: float | None
    histogram: dict[str, int]


def make_plan(
    population: Population,
    *,
    batch_size: int,
    total_budget: int,
    n_low: int = 2,
    n_up: int = 128,
    value: str = "grpo",
    fallback: bool = True,
    seed: int = 0,
) -> Plan:
    """Allocate every batch of one epoch, and compare with homogeneous allocation.

    Args:
        population: the prompts; the last incomplete batch is dropped, as in training.
        batch_size: M, prompts per step.
        total_budget: N_total, rollouts per step.
        n_low, n_up, value, fallback: as for `knapsack_allocate`.
        seed: of the shuffle that makes the batches.

    Raises:
        ValueError: the population is smaller than a batch, or the allocation is impossible.
    """
    if not 1 <= batch_size <= len(population):
        raise PlanError(
            f"batch size {batch_size} is not possible with {len(population)} prompts; expected --batch-size from 1 to "
            f"{len(population)}"
        )
    order = np.random.default_rng(seed).permutation(len(population))
    batches = [population.take(part) for part in _full_batches(order, batch_size)]
    explorers = [
        Explorer(ExplorationConfig(n_low=n_low, n_up=n_up, value=value, fallback=fallback_on))
        for fallback_on in (True, False)
    ]
    with_fallback, without_fallback = (
        [explorer.allocation(Estimates(**batch.estimates()), total_budget, population.state()) for batch in batches]
        for explorer in explorers
    )
    allocations = with_fallback if fallback else without_fallback
    uniform_budgets = homogeneous_allocate(batch_size, total_budget).budgets
    knapsack_ratio = _mean_ratio(batches, [allocation.budgets for allocation in allocations], value)
    homogeneous_ratio = _mean_ratio(batches, [uniform_budgets] * len(batches), value)
    budgets = np.concatenate([allocation.budgets for allocation in allocations])
    return Plan(
        batch_size=batch_size,
        total_budget=total_budget,
        n_low=n_low,
        n_up=n_up,
        homogeneous_ratio=homogeneous_ratio,
        knapsack_ratio=knapsack_ratio,
        matching_uniform_rollouts=uniform_rollouts_to_match(population, knapsack_ratio, value),
        effective_rollouts_gained=(knapsack_ratio - homogeneous_ratio) * total_budget,
        largest_budget=int(budgets.max()),
        rollouts_by_rule=_mean_by_rule(allocations),
        rollouts_per_unsolved_prompt=_mean_unsolved_budget(batches, with_fallback),
        rollouts_per_unsolved_prompt_without_fallback=_mean_unsolved_budget(batches, without_fallback),
        histogram=budget_histogram(budgets),
    )


def _full_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]


def _mean_ratio(batches: Sequence[Population], budgets: Sequence[np.ndarray], value: str) -> float:
    ratios = [effective_ratio(batch, given, value) for batch, given in zip(batches, budgets, strict=True)]
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    return float(np.mean(known)) if known else float("nan")


def effective_ratio(population: Population, budgets: np.ndarray, value: str = "grpo") -> float:
    """Expected effective-gradient ratio of the budgets, averaged over the beliefs where there are any.

    The expectation over beliefs exists for estimators that compare the rollouts of a group; REINFORCE and ReMax are
    judged by their success rates.
    """
    is_group_compared = value not in ("reinforce", "remax")
    judge = "expected" if population.beliefs is not None and is_group_compared else value
    return expected_effective_ratio(budgets, value=judge, **population.estimates())


def _mean_by_rule(allocations: Sequence[Allocation]) -> dict[str, float]:
    return {rule: float(np.mean([a.placed[rule] for a in allocations])) for rule in allocations[0].placed}


def _mean_unsolved_budget(batches: Sequence[Population], allocations: Sequence[Allocation]) -> float | None:
    budgets = [a.budgets[b.success_rates == 0] for b, a in zip(batches, allocations, strict=True)]
    unsolved = np.concatenate(budgets)
    return float(unsolved.mean()) if len(unsolved) else None


def uniform_ratio(population: Population, rollouts: int, value: str = "grpo") -> float:
    """Expected effective-gradient ratio if every prompt of the population gets `rollouts` rollouts."""
    return effective_ratio(population, np.full(len(population), rollouts), value)


def uniform_rollouts_to_match(population: Population, ratio: float, value: str = "grpo") -> int | None:
    """Smallest uniform number of rollouts whose expected effective-gradient ratio is at least `ratio`.

    None if `LARGEST_UNIFORM_ROLLOUTS` are not enough: homogeneous allocation can never exceed the share of prompts that
    can give a gradient at all, the knapsack can, because it moves rollouts there.
    """
    if not uniform_ratio(population, LARGEST_UNIFORM_ROLLOUTS, value) >= ratio:
        return None
    low, high = 1, LARGEST_UNIFORM_ROLLOUTS
    while low < high:
        middle = (low + high) // 2
        if uniform_ratio(population, middle, value) >= ratio:
            high = middle
        else:
            low = middle + 1
    return low


def budget_histogram(budgets: np.ndarray) -> dict[str, int]:
    """Number of prompts by budget, in ranges that double.

    >>> budget_histogram(np.array([2, 3, 4, 130]))
    {'1': 0, '2-3': 2, '4-7': 1, '8-15': 0, '16-31': 0, '32-63': 0, '64-127': 0, '128-255': 1}
    """
    counts = np.bincount(budget_range(budgets))
    return {budget_range_label(index): int(count) for index, count in enumerate(counts)}
