"""Greedy solver: the largest marginal gains, which are optimal for a concave value (Fox 1966)."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.solvers.even_shares import raise_lowest
from knapsack_rl.solvers.problem import Problem
from knapsack_rl.solvers.streaming import count_in_stream, weighted_largest

__all__ = ["solve_greedy"]

# Tables of gains up to this many entries are held in memory (2 MB); beyond, gains are streamed level by level.
_TABLE_ENTRIES = 1 << 18
# Sorting a small table beats partitioning one in which every group is repeated as often as it occurs.
_PARTITION_ENTRIES = 1 << 17


def solve_greedy(problem: Problem, group_of: Array, amount: int) -> Array:
    """(M,) rollouts beyond n_low that maximise a concave value.

    For concave values the `amount` largest entries of the table of gains are optimal (Fox 1966). All entries above
    the amount-th largest are taken; entries equal to it go to the prompts with fewest rollouts, then in prompt order.
    """
    if amount == 0:
        return np.zeros(len(group_of), dtype=np.int64)
    if len(problem.prompts) * problem.levels <= _TABLE_ENTRIES:
        above, reached = _count_in_table(problem, amount)
    else:
        above, reached = count_in_stream(problem, amount)
    extra = above[group_of]
    return raise_lowest(extra, reached[group_of], amount - int(extra.sum()))


def _count_in_table(problem: Problem, amount: int) -> tuple[Array, Array]:
    """(G,) numbers of gains above, and of gains not below, the amount-th largest gain."""
    table = problem.gain_table()
    if int(problem.prompts.sum()) * problem.levels <= _PARTITION_ENTRIES:
        gains = (table if np.all(problem.prompts == 1) else np.repeat(table, problem.prompts, axis=0)).ravel()
        threshold = np.partition(gains, gains.size - amount)[gains.size - amount]
    else:
        threshold = weighted_largest(table.ravel(), np.repeat(problem.prompts, problem.levels), amount)
    return np.count_nonzero(table > threshold, axis=1), np.count_nonzero(table >= threshold, axis=1)
