"""What can be known of a value function before there is anything to allocate."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.solvers.problem import Problem, first_convex_point
from knapsack_rl.training_state import TrainingState
from knapsack_rl.value_function import ValueFunction

__all__ = ["check_concave", "check_value"]

_RATES = np.array([1e-3, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0 - 1e-3])
_MOST_ROLLOUTS_TRIED = 512
_STRENGTHS = np.array([1.0, 8.0, 256.0])
_STATES = (
    TrainingState(),
    TrainingState(step=1000, epoch=10, mean_success_rate=0.9, never_solved=0.05),
    TrainingState(step=2, epoch=0, mean_success_rate=0.0, never_solved=1.0),
    TrainingState(step=100_000, epoch=100, mean_success_rate=1.0, never_solved=0.0),
)


def check_value(function: ValueFunction, n_low: int, n_up: int) -> None:
    """Evaluate a value function at success rates, beliefs and states from all over their ranges.

    Raises:
        ValueError: it fails, or returns the wrong shape or something that is no number; names where.

    >>> from knapsack_rl import resolve_value_function
    >>> check_value(resolve_value_function(lambda n, p: n / (p - 0.5)), 2, 8)
    Traceback (most recent call last):
        ...
    ValueError: value function <lambda> gave inf for p=0.5, N=2; expected a number
    """
    parameters = _examples(function)
    if parameters is None:
        return
    with np.errstate(all="ignore"):
        for state in _STATES if function.needs_state else _STATES[:1]:
            at_state = function.for_state(state)
            for n in sorted({*range(n_low, min(n_up, n_low + _MOST_ROLLOUTS_TRIED)), n_up}):
                at_state.value(n, *parameters)


def check_concave(function: ValueFunction, n_low: int, n_up: int) -> None:
    """Look for a place at which a value function is not concave in n, at examples as `check_value`.

    Raises:
        ValueError: it is not; names where.
    """
    parameters = _examples(function)
    if function.is_known_concave or parameters is None or n_up - n_low < 2:
        return
    for state in _STATES if function.needs_state else _STATES[:1]:
        problem = Problem(function.for_state(state), parameters, np.ones(len(parameters[0]), np.int64), n_low, n_up)
        convex_point = first_convex_point(problem)
        if convex_point is not None:
            example, n = convex_point
            where = function.described([column[example] for column in parameters])
            raise ValueError(
                f"value function {function.name} gains more from rollout {n + 1} than from rollout {n} at {where}; "
                "expected a value that is concave in N"
            )


def _examples(function: ValueFunction) -> tuple[Array, ...] | None:
    """(K,) arrays for what the function depends on besides n; None where they cannot be made up."""
    if function.parameters == ("success_rates",):
        return (_RATES,)
    if function.parameters == ("alpha", "beta"):
        rates, strengths = (grid.ravel() for grid in np.meshgrid(_RATES, _STRENGTHS))
        return strengths * rates, strengths * (1.0 - rates)
    return None
