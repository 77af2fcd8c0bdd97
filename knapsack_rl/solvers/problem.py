"""The problem that the solvers solve: distribute rollouts beyond N_low over groups of equal prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gains import Gains
from knapsack_rl.value_function import ValueFunction

__all__ = ["CONCAVITY_TOLERANCE", "Problem", "first_convex_point", "group_equal"]

# Rounding in a user's value function may bend a concave table by this much, relative to the values.
CONCAVITY_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Problem:
    """Distribute rollouts beyond `n_low` over groups of prompts with equal parameters.

    Attributes:
        function: what rollouts are worth.
        parameters: (G,) each, in the order of ``function.parameters``.
        prompts: (G,) int64: how many prompts each group has.
        n_low, n_up: bounds of a prompt's rollouts.
    """

    function: ValueFunction
    parameters: tuple[Array, ...]
    prompts: Array
    n_low: int
    n_up: int

    @property
    def levels(self) -> int:
        """How many rollouts a prompt can get beyond `n_low`."""
        return self.n_up - self.n_low

    def gains(self) -> Gains:
        """Stream of gains that never increase, starting with rollout n_low + 1."""
        return self.function.gains(self.parameters, self.n_low)

    def gain_table(self) -> Array:
        """(G, n_up - n_low) gains of rollouts n_low + 1 to n_up, never increasing along a row."""
        return self.function.gain_table(self.parameters, self.n_low, self.n_up)

    def value_table(self) -> Array:
        """(G, n_up - n_low + 1) values of n_low to n_up rollouts."""
        rollouts = range(self.n_low, self.n_up + 1)
        return np.stack([np.asarray(self.function.value(n, *self.parameters)) for n in rollouts], axis=1)

    def subset(self, chosen: slice) -> Problem:
        """The same problem with a slice of its groups."""
        parameters = tuple(parameter[chosen] for parameter in self.parameters)
        return Problem(self.function, parameters, self.prompts[chosen], self.n_low, self.n_up)


def group_equal(parameters: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array, Array]:
    """Groups of equal prompts: their parameters, the group of every prompt, and the number of prompts per group."""
    order = np.lexsort(parameters[::-1])
    ordered = tuple(parameter[order] for parameter in parameters)
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any([parameter[1:] != parameter[:-1] for parameter in ordered], axis=0)
    group_of = np.empty(len(order), dtype=np.int64)
    group_of[order] = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    prompts = np.diff(starts, append=len(order))
    return tuple(parameter[is_first] for parameter in ordered), group_of, prompts


def first_convex_point(problem: Problem) -> tuple[int, int] | None:
    """The first (group, N) at which the gain of rollout N+1 exceeds that of rollout N, or None if concave."""
    values = [problem.function.value(n, *problem.parameters) for n in range(problem.n_low, problem.n_low + 2)]
    for n in range(problem.n_low + 1, problem.n_up):
        values.append(problem.function.value(n + 1, *problem.parameters))
        before, here, after = values
        tolerance = CONCAVITY_TOLERANCE * (np.abs(before) + 2.0 * np.abs(here) + np.abs(after))
        is_convex = (after - here) - (here - before) > tolerance
        if is_convex.any():
            return int(np.argmax(is_convex)), n
        del values[0]
    return None
