"""Value functions: what N rollouts of a prompt are worth, as the solvers see it.

The built-in ones are the paper's (section 4.1, appendix B) and the expectation of GRPO's under a belief. A user's own
is a plain function ``f(n, p)``.
"""

from __future__ import annotations

import importlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gains import AnalyticGains, DifferencedGains, Gains
from knapsack_rl.gradient_rules import DIFFERS_FROM_GREEDY, MIXED_GROUP, SUCCESSES, GradientRule
from knapsack_rl.theory import beta_moment, expected_value, grpo_value, info_gain, reinforce_value, remax_value

__all__ = ["VALUE_FUNCTIONS", "AnalyticValue", "UserValue", "ValueFunction", "resolve_value_function"]


class ValueFunction(ABC):
    """What n rollouts of a prompt are worth.

    Attributes:
        name: how configuration names it.
        parameters: what it depends on besides n, in this order: ``success_rates`` or ``success_rates,
            greedy_match_rates`` or ``alpha, beta``.
        minimum_rollouts: smallest N_low for which the value is meant.
        gradient_rule: which rollouts have a gradient under the policy gradient that the value was derived for.
        is_known_concave: whether concavity in n is proven by the form of the gains.
    """

    name: str
    parameters: tuple[str, ...]
    minimum_rollouts: int
    gradient_rule: GradientRule
    is_known_concave: bool

    def __call__(self, n: Any, *parameters: Any) -> Array:
        """The value of n rollouts, broadcasting."""
        return self.value(n, *parameters)

    @abstractmethod
    def value(self, n: Any, *parameters: Any) -> Array:
        """The value of n rollouts; n is one number, or where the value is analytic an array that broadcasts."""

    @abstractmethod
    def values_at(self, rollouts: Array, parameters: tuple[Array, ...]) -> Array:
        """(K,) value of each prompt at its own number of rollouts."""

    @abstractmethod
    def gains(self, parameters: tuple[Array, ...], n_low: int) -> Gains:
        """Stream of gains that never increase, starting with rollout n_low + 1; needs a concave value."""

    @abstractmethod
    def gain_table(self, parameters: tuple[Array, ...], n_low: int, n_up: int) -> Array:
        """(G, n_up - n_low) gains of rollouts n_low + 1 to n_up, never increasing along a row."""


@dataclass(frozen=True)
class AnalyticValue(ValueFunction):
    """A value whose gains are known in closed form.

    The gain of a rollout, ``value(n+1) - value(n)``, is a sum of terms that shrink by a ratio from one rollout to the
    next. Giving terms and ratios instead of differences keeps gains exact where values differ by less than a rounding
    error, and makes the value provably concave: every ratio is at most 1.

    Attributes:
        function: ``function(n, *parameters)``, broadcasting.
        gain_terms: ``gain_terms(n, *parameters)``: tuple of arrays whose sum is the gain of rollout n+1.
        gain_ratios: ``gain_ratios(n, *parameters)``: by what each term is multiplied from n to n+1.
    """

    name: str
    parameters: tuple[str, ...]
    function: Callable[..., Array]
    gradient_rule: GradientRule
    gain_terms: Callable[..., tuple[Array, ...]]
    gain_ratios: Callable[..., tuple[Array, ...]]
    minimum_rollouts: int = 1
    is_known_concave: bool = True

    def value(self, n: Any, *parameters: Any) -> Array:
        return self.function(n, *parameters)

    def values_at(self, rollouts: Array, parameters: tuple[Array, ...]) -> Array:
        return self.function(rollouts, *parameters)

    def gains(self, parameters: tuple[Array, ...], n_low: int) -> Gains:
        return AnalyticGains(self.gain_terms, self.gain_ratios, parameters, n_low)

    def gain_table(self, parameters: tuple[Array, ...], n_low: int, n_up: int) -> Array:
        columns = tuple(parameter[:, None] for parameter in parameters)
        first_terms = self.gain_terms(n_low, *columns)
        ratios = self.gain_ratios(np.arange(n_low, n_up - 1), *columns)
        table = np.zeros((len(parameters[0]), n_up - n_low))
        for first_term, ratio in zip(first_terms, ratios, strict=True):
            term = np.empty_like(table)
            term[:, :1] = first_term
            term[:, 1:] = ratio
            table += np.multiply.accumulate(term, axis=1, out=term)
        return table


@dataclass(frozen=True)
class UserValue(ValueFunction):
    """A user's ``f(n, p)``, called with n as an int and p as a (K,) array, its results checked at every call."""

    function: Callable[..., Any]
    name: str
    parameters: tuple[str, ...] = ("success_rates",)
    gradient_rule: GradientRule = MIXED_GROUP
    minimum_rollouts: int = 1
    is_known_concave: bool = False

    def value(self, n: Any, *parameters: Any) -> Array:
        (p,) = parameters
        try:
            values = np.asarray(self.function(n, p), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"value function {self.name} failed for n={n} and an array of {p.size} success rates: {error}; it is "
                "called with an int and an array. Wrap a function of scalars in numpy.vectorize"
            ) from error
        if values.shape != p.shape:
            raise ValueError(
                f"value function {self.name} returned shape {values.shape} for {p.shape} success rates; expected one "
                "value for each. Wrap a function of scalars in numpy.vectorize"
            )
        is_finite = np.isfinite(values)
        if not is_finite.all():
            first = int(np.argmin(is_finite))
            raise ValueError(
                f"value function {self.name} gave {values[first]} for p={float(p[first])!r}, N={n}; expected a number"
            )
        return values

    def values_at(self, rollouts: Array, parameters: tuple[Array, ...]) -> Array:
        values = np.empty(len(rollouts))
        for n in np.unique(rollouts):
            has_n = rollouts == n
            values[has_n] = self.value(int(n), *(parameter[has_n] for parameter in parameters))
        return values

    def gains(self, parameters: tuple[Array, ...], n_low: int) -> Gains:
        return DifferencedGains(self.value, parameters, n_low)

    def gain_table(self, parameters: tuple[Array, ...], n_low: int, n_up: int) -> Array:
        gains = self.gains(parameters, n_low)
        columns = [gains.current()]
        for _ in range(n_low + 1, n_up):
            gains.advance()
            columns.append(gains.current())
        return np.stack(columns, axis=1)


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
    }
)
"""The built-in value functions by name."""


def resolve_value_function(value: str | ValueFunction | Callable[..., Any]) -> ValueFunction:
    """The value function behind a configuration entry.

    Args:
        value: ``grpo``, ``rloo``, ``reinforce``, ``remax``, ``expected``, ``package.module:function``, or a callable
            ``f(n, p)``. A user's function is called with n as an int and p as a (K,) float array of success rates
            strictly between 0 and 1, and returns (K,) finite numbers. A function of scalars can be wrapped in
            `numpy.vectorize`.

    Raises:
        ValueError: unknown name, or a function that cannot be imported or called.

    >>> float(resolve_value_function("grpo")(2, 0.5))
    0.0625
    """
    if isinstance(value, ValueFunction):
        return value
    if callable(value):
        return UserValue(value, getattr(value, "__qualname__", repr(value)))
    if isinstance(value, str) and value in VALUE_FUNCTIONS:
        return VALUE_FUNCTIONS[value]
    if isinstance(value, str) and ":" in value:
        return UserValue(_import_function(value), value)
    raise ValueError(
        f"unknown value function {value!r}; expected one of {', '.join(VALUE_FUNCTIONS)}, "
        "'package.module:function', or a callable f(n, p)"
    )


def _import_function(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        function = operator.attrgetter(function_name)(importlib.import_module(module_name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"value function {path!r} cannot be imported: {error}; expected 'package.module:function', with the "
            "package on the Python path"
        ) from error
    if not callable(function):
        raise ValueError(f"value function {path!r} is a {type(function).__name__}, expected a callable f(n, p)")
    return function  # type: ignore[no-any-return]
