"""Exact solver for any table of values: a dynamic programme over prompts and rollouts, compiled by numba."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.solvers.even_shares import even_split
from knapsack_rl.solvers.problem import CONCAVITY_TOLERANCE, Problem

__all__ = ["solve_dp"]

# Beyond this the dynamic programme would exhaust the memory of a trainer's node, and take hours.
_DYNAMIC_PROGRAMME_BYTES = 4 << 30


def solve_dp(problem: Problem, group_of: Array, amount: int) -> Array:
    """(M,) rollouts beyond n_low that maximise any value, by a dynamic programme over prompts and rollouts.

    Multiple-choice knapsack: every prompt chooses one column of its row of values. Takes O(M amount (n_up - n_low))
    time and O(M amount) bytes.

    Raises:
        ValueError: the instance is too large.
    """
    table = problem.value_table()
    by_group = np.argsort(group_of, kind="stable")
    choices = np.uint8 if problem.levels <= 255 else np.int32
    num_bytes = len(group_of) * (amount + 1) * np.dtype(choices).itemsize
    if num_bytes > _DYNAMIC_PROGRAMME_BYTES:
        raise ValueError(
            f"the dynamic programme for {len(group_of)} prompts and {amount} rollouts needs {num_bytes / 2**30:.1f} "
            f"GiB, more than {_DYNAMIC_PROGRAMME_BYTES / 2**30:.0f} GiB; use a value that is concave in N, for which "
            "solver='greedy' takes any size, or allocate smaller batches"
        )
    extra = np.empty(len(group_of), dtype=np.int64)
    extra[by_group] = _dynamic_programme()(table, group_of[by_group], amount, choices(0))
    return _even_out(table, group_of, extra)


@cache
def _dynamic_programme() -> Callable[..., Array]:
    """The compiled dynamic programme. numba is imported when first needed: concave values never need it."""
    from numba import njit

    @njit  # type: ignore[untyped-decorator]
    def solve(table: Any, group_of: Any, amount: Any, zero: Any) -> Any:
        num_prompts, num_choices = len(group_of), table.shape[1]
        best = np.full(amount + 1, -np.inf)
        best[0] = 0.0
        updated = np.empty_like(best)
        chosen = np.full((num_prompts, amount + 1), zero)
        for i in range(num_prompts):
            values = table[group_of[i]]
            most = min(amount, (i + 1) * (num_choices - 1))
            # What the remaining prompts cannot take has to be placed by then.
            least = max(0, amount - (num_prompts - 1 - i) * (num_choices - 1))
            updated[:] = -np.inf
            for placed in range(least, most + 1):
                for k in range(min(placed, num_choices - 1) + 1):
                    value = best[placed - k] + values[k]
                    if value > updated[placed]:
                        updated[placed] = value
                        chosen[i, placed] = k
            best, updated = updated, best
        extra = np.empty(num_prompts, dtype=np.int64)
        left = amount
        for i in range(num_prompts - 1, -1, -1):
            extra[i] = chosen[i, left]
            left -= extra[i]
        return extra

    compiled: Callable[..., Array] = solve
    return compiled


def _even_out(table: Array, group_of: Array, extra: Array) -> Array:
    """Share rollouts evenly among equal prompts where that costs no value; else the larger share comes first."""
    result = extra.copy()
    for group in np.flatnonzero(np.bincount(group_of) > 1):
        members = np.flatnonzero(group_of == group)
        shares = np.sort(extra[members])[::-1]
        even = even_split(int(shares.sum()), len(members))
        value, even_value = table[group][shares].sum(), table[group][even].sum()
        tolerance = CONCAVITY_TOLERANCE * np.abs(table[group]).max() * len(members)
        result[members] = even if even_value >= value - tolerance else shares
    return result
