"""Value functions by name: what N rollouts of a prompt are worth.

The built-in ones are the paper's (section 4.1, appendix B), the expectation of GRPO's under a belief, and one that
depends on the state of training. A user's own is a plain function.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from knapsack_rl.analytic_value import AnalyticValue
from knapsack_rl.arrays import Array
from knapsack_rl.gradient_rules import DIFFERS_FROM_GREEDY, MIXED_GROUP, SUCCESSES
from knapsack_rl.messages import reason_of
from knapsack_rl.state_values import EASY_TO_HARD, HARD_LEANING
from knapsack_rl.theory import beta_moment, expected_value, grpo_value, info_gain, reinforce_value, remax_value
from knapsack_rl.user_values import UserValue, user_value
from knapsack_rl.value_function import ValueFunction

__all__ = ["VALUE_FUNCTIONS", "AnalyticValue", "UserValue", "ValueFunction", "resolve_value_function"]


def _grpo_gain_terms(n: Any, p: Array) -> tuple[Array, ...]:
    return p ** (n + 1) * (1.0 - p) ** 3, p**2 * (1.0 - p) ** (n + 2)


def _expected_gain_terms(n: Any, alpha: Array, beta: Array) -> tuple[Array, ...]:
    return beta_moment(alpha, beta, n + 1, 3), beta_moment(alpha, beta, 2, n + 2)


def _expected_gain_ratios(n: Any, alpha: Array, beta: Array) -> tuple[Array, ...]:
    return (alpha + n + 1) / (alpha + beta + n + 4), (beta + n + 2) / (alpha + beta + n + 4)


def _grpo_like(name: str) -> AnalyticValue:
    return AnalyticValue(
        name=name,
        parameters=("success_rates",),
        function=grpo_value,
        gradient_rule=MIXED_GROUP,
        minimum_rollouts=2,
        gain_terms=_grpo_gain_terms,
        gain_ratios=lambda n, p: (p, 1.0 - p),
    )


VALUE_FUNCTIONS: Mapping[str, ValueFunction] = MappingProxyType(
    {
        "grpo": _grpo_like("grpo"),
        "rloo": _grpo_like("rloo"),
        "reinforce": AnalyticValue(
            name="reinforce",
            parameters=("success_rates",),
            function=reinforce_value,
            gradient_rule=SUCCESSES,
            gain_terms=lambda n, p: (p**2 * (1.0 - p) ** (n + 2),),
            gain_ratios=lambda n, p: (1.0 - p,),
        ),
        "remax": AnalyticValue(
            name="remax",
            parameters=("success_rates", "greedy_match_rates"),
            function=remax_value,
            gradient_rule=DIFFERS_FROM_GREEDY,
            gain_terms=lambda n, p, a: (a**n * (1.0 - a) * info_gain(p),),
            gain_ratios=lambda n, p, a: (a,),
        ),
        "expected": AnalyticValue(
            name="expected",
            parameters=("alpha", "beta"),
            function=expected_value,
            gradient_rule=MIXED_GROUP,
            minimum_rollouts=2,
            gain_terms=_expected_gain_terms,
            gain_ratios=_expected_gain_ratios,
        ),
        HARD_LEANING.name: HARD_LEANING,
        EASY_TO_HARD.name: EASY_TO_HARD,
    }
)
"""The built-in value functions by name."""


def resolve_value_function(value: str | ValueFunction | Callable[..., Any]) -> ValueFunction:
    """The value function behind a configuration entry.

    Args:
        value: a name in `VALUE_FUNCTIONS`, ``package.module:function``, or a callable: ``f(n, p)`` with success rates
            strictly between 0 and 1, or ``f(n, alpha, beta)`` with Beta beliefs about them, either also with ``state``,
            a `TrainingState`. It is called with n as an int and (K,) float arrays, and returns (K,) finite numbers. A
            function of scalars can be wrapped in `numpy.vectorize`.

    Raises:
        ValueError: unknown name, or a function that cannot be imported or called, or depends on what is not offered.

    >>> float(resolve_value_function("grpo")(2, 0.5))
    0.0625
    """
    if isinstance(value, ValueFunction):
        return value
    if callable(value):
        return user_value(value, getattr(value, "__qualname__", repr(value)))
    if isinstance(value, str) and value in VALUE_FUNCTIONS:
        return VALUE_FUNCTIONS[value]
    if isinstance(value, str) and ":" in value:
        return user_value(_import_function(value), value)
    raise ValueError(
        f"unknown value function {value!r}; expected one of {', '.join(VALUE_FUNCTIONS)}, "
        "'package.module:function', or a callable such as f(n, p)"
    )


def _import_function(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        function = operator.attrgetter(function_name)(importlib.import_module(module_name))
    except Exception as error:  # a module of a user's own may raise anything
        raise ValueError(
            f"value function {path!r} cannot be imported: {reason_of(error)}; expected "
            "'package.module:function', with the package on the Python path"
        ) from error
    if not callable(function):
        raise ValueError(f"value function {path!r} is a {type(function).__name__}, expected a callable f(n, p)")
    return function  # type: ignore[no-any-return]
