"""A floor by age: prompts that told nothing for long get more than `n_low` rollouts, paid from the same budget.

With two rollouts, a solved prompt that has fallen to p = 0.9 shows it with probability 0.18 only; with eight, 0.57.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from knapsack_rl.allocation import Allocation, effective_ratio
from knapsack_rl.allocation_rules import rule_index
from knapsack_rl.arrays import Array
from knapsack_rl.estimates import Estimates
from knapsack_rl.gradient_rules import GradientRule

__all__ = ["review_floors", "with_floors"]


def review_floors(
    ages: Array, *, after_steps: int, rollouts: int, max_share: float, total_budget: int, n_low: int
) -> Array:
    """(M,) int64, least rollouts of each prompt: more than `n_low` for those whose review is due, the oldest first.

    Args:
        ages: (M,) steps since each prompt was last reviewed; NaN = never seen, which is no review that is due.
        after_steps: age from which a review is due.
        rollouts: of a review.
        max_share: most of the total budget that reviews take beyond `n_low`, in (0, 1].
        total_budget, n_low: of the step.

    >>> review_floors(np.array([5.0, 90.0, np.nan, 70.0]), after_steps=50, rollouts=8, max_share=0.2, total_budget=32,
    ...               n_low=2).tolist()
    [2, 8, 2, 2]
    """
    floors = np.full(len(ages), n_low, dtype=np.int64)
    cost = rollouts - n_low
    room = min(int(max_share * total_budget), total_budget - len(ages) * n_low)
    if cost <= 0 or room < cost:
        return floors
    oldest_first = np.argsort(-np.nan_to_num(ages, nan=-1.0), kind="stable")
    due = oldest_first[ages[oldest_first] >= after_steps]
    floors[due[: room // cost]] = rollouts
    return floors


def with_floors(
    allocate: Callable[[Array, int], Allocation],
    floors: Array,
    known: Estimates,
    rule: GradientRule,
    total_budget: int,
    n_low: int,
    n_up: int,
) -> Allocation:
    """The allocation in which no prompt gets less than its floor.

    Prompts that the allocation leaves below their floor are set to it, and the others share what is left, until none is
    below. For a concave value that is the best there is: with less to share, no prompt gets more.

    Args:
        allocate: ``allocate(chosen, budget)``, the allocation of a budget over the prompts with these indices.
        floors: (M,) least rollouts, between `n_low` and `n_up`.
        known: of the M prompts.
        rule: which rollouts have a gradient.
        total_budget, n_low, n_up: of the step.

    Returns:
        The allocation; ``placed["review"]`` counts what floors add to `n_low`. ``total_value`` is that of the others.
    """
    chosen = np.arange(len(floors))
    allocation = allocate(chosen, total_budget)
    while (is_below := allocation.budgets < floors[chosen]).any():
        others = chosen[~is_below]
        left = total_budget - int(floors.sum() - floors[others].sum())
        if not len(others) * n_low <= left <= len(others) * n_up or len(others) == 0:
            break
        chosen, allocation = others, allocate(others, left)
    budgets = floors.copy()
    budgets[chosen] = allocation.budgets
    num_set = len(floors) - len(chosen)
    placed = dict(allocation.placed)
    placed["minimum"] += num_set * n_low
    placed["review"] = int(budgets.sum() - allocation.budgets.sum()) - num_set * n_low
    rules = None
    if allocation.rules is not None:
        rules = np.full(len(floors), rule_index("review"))
        rules[chosen] = allocation.rules
    ratio = effective_ratio(budgets, known.effective_shares(budgets, rule))
    return replace(allocation, budgets=budgets, expected_effective_ratio=ratio, placed=placed, rules=rules)
