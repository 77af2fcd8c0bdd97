"""How equal prompts share a number of rollouts: evenly, the larger share first."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["even_split", "raise_lowest"]


def raise_lowest(levels: Array, caps: Array, amount: int) -> Array:
    """Add `amount` in total to integer `levels`, always to the lowest that is below its cap; ties in order.

    >>> raise_lowest(np.array([0, 0, 5]), np.array([9, 9, 9]), 7).tolist()
    [4, 3, 5]
    """
    if amount == 0:
        return levels
    low, high = int(levels.min()), int(caps.max())
    while low < high:  # the highest water level that needs at most `amount`
        middle = (low + high + 1) // 2
        if int((np.clip(middle, levels, caps) - levels).sum()) <= amount:
            low = middle
        else:
            high = middle - 1
    raised: Array = np.clip(low, levels, caps)
    left = amount - int((raised - levels).sum())
    can_rise = np.flatnonzero((raised <= low) & (raised < caps))
    raised[can_rise[:left]] += 1
    return raised


def even_split(total: int, parts: int) -> Array:
    """(parts,) integers that add up to `total` and differ by at most one, the larger first."""
    return total // parts + (np.arange(parts) < total % parts)
