"""The threshold of the greedy solver without a table of gains: memory grows with the number of groups only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.solvers.problem import Problem

__all__ = ["count_in_stream", "weighted_largest"]

_SAMPLED_GROUPS = 1024
_CANDIDATE_ENTRIES = 1 << 20


def weighted_largest(gains: Array, weights: Array, rank: float) -> float:
    """The gain at which the summed weights, from the largest gain down, reach `rank`."""
    order = np.argsort(-gains, kind="stable")
    position = int(np.searchsorted(np.cumsum(weights[order]), rank))
    return float(gains[order[min(position, len(order) - 1)]])


def count_in_stream(problem: Problem, amount: int) -> tuple[Array, Array]:
    """(G,) numbers of gains above, and of gains not below, the amount-th largest gain.

    A stratified sample of the groups gives an interval that holds the threshold and few other gains; the gains in it
    are collected in one pass and the threshold is selected among them.
    """
    lower, upper, above_lower, above_upper = _bracket_from_sample(problem, amount)
    while int((above_lower - above_upper).sum()) > _CANDIDATE_ENTRIES and np.nextafter(lower, np.inf) < upper:
        middle = _float_between(lower, upper)
        above_middle = _count_above(problem, middle)
        if int(above_middle @ problem.prompts) >= amount:
            lower, above_lower = middle, above_middle
        else:
            upper, above_upper = middle, above_middle
    if np.nextafter(lower, np.inf) >= upper:
        return above_upper, above_lower
    groups, gains = _collect_between(problem, lower, upper)
    rank = amount - int(above_upper @ problem.prompts)
    threshold = weighted_largest(gains, problem.prompts[groups], rank)
    num_groups = len(problem.prompts)
    above = above_upper + np.bincount(groups[gains > threshold], minlength=num_groups)
    return above, above + np.bincount(groups[gains == threshold], minlength=num_groups)


def _bracket_from_sample(problem: Problem, amount: int) -> tuple[float, float, Array, Array]:
    """An interval (lower, upper] holding the amount-th largest gain, and the (G,) numbers of gains above its ends."""
    sample = problem.subset(slice(None, None, -(-len(problem.prompts) // _SAMPLED_GROUPS)))
    table = sample.gain_table().ravel()
    weights = np.repeat(sample.prompts, sample.levels)
    rank = amount / (int(problem.prompts.sum()) * problem.levels) * int(weights.sum())
    margin = 0.02
    while True:
        is_within = rank * (1.0 + margin) < weights.sum()
        lower = np.nextafter(weighted_largest(table, weights, rank * (1.0 + margin)), -np.inf) if is_within else -np.inf
        upper = weighted_largest(table, weights, rank * (1.0 - margin)) if margin < 1.0 else np.inf
        above_lower, above_upper = _count_above(problem, lower), _count_above(problem, upper)
        if int(above_upper @ problem.prompts) < amount <= int(above_lower @ problem.prompts):
            return float(lower), float(upper), above_lower, above_upper
        margin *= 4.0


def _count_above(problem: Problem, threshold: float) -> Array:
    """(G,) number of gains above `threshold`."""
    counts = np.zeros(len(problem.prompts), dtype=np.int64)
    for active, is_above, _ in _levels_above(problem, threshold):
        counts[active] += is_above
    return counts


def _collect_between(problem: Problem, lower: float, upper: float) -> tuple[Array, Array]:
    """Groups and gains of all gains in (lower, upper]."""
    groups, collected = [], []
    for active, is_above, gains in _levels_above(problem, lower):
        is_inside = is_above & (gains <= upper)
        groups.append(active[is_inside])
        collected.append(gains[is_inside])
    return np.concatenate(groups), np.concatenate(collected)


def _levels_above(problem: Problem, threshold: float) -> Iterator[tuple[Array, Array, Array]]:
    """Yield (groups, is_above, gains) level by level; groups whose gains have fallen to `threshold` drop out."""
    gains = problem.gains()
    active = np.arange(len(problem.prompts))
    for level in range(problem.levels):
        current = gains.current()
        is_above = current > threshold
        num_above = int(np.count_nonzero(is_above))
        yield active, is_above, current
        if num_above == 0:
            return
        if num_above < 0.9 * len(active):
            active = active[is_above]
            gains.keep(is_above)
        if level + 1 < problem.levels:
            gains.advance()


def _float_between(lower: float, upper: float) -> float:
    """The float halfway between two others in the order of all floats, so that bisection ends after 64 steps."""
    bits = np.array([lower, upper], dtype=np.float64).view(np.int64)
    ranks = [int(b) if b >= 0 else -(int(b) & 0x7FFFFFFFFFFFFFFF) for b in bits]
    middle = (ranks[0] + ranks[1]) // 2
    magnitude = np.array([abs(middle)], dtype=np.int64).view(np.float64)[0]
    return float(magnitude if middle >= 0 else -magnitude)
