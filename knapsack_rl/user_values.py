"""A user's own value function: which arguments it wants, read from their names, and what it returns, checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gains import DifferencedGains, Gains
from knapsack_rl.gradient_rules import MIXED_GROUP, GradientRule
from knapsack_rl.messages import reason_of
from knapsack_rl.training_state import TrainingState
from knapsack_rl.value_function import ValueFunction

__all__ = ["UserValue", "user_value"]

_COLUMNS = {"p": "success_rates", "alpha": "alpha", "beta": "beta"}
"""What the estimates call the arrays that a function gets under these names."""
_OFFERED = "n, then p or alpha and beta, then state if it depends on the state of training"
_ONE_PER_ARGUMENT = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


@dataclass(frozen=True)
class UserValue(ValueFunction):
    """A user's function, called with n as an int and (K,) arrays, its results checked at every call.

    Attributes:
        function: what is called.
        name: how configuration names it.
        positional, keywords: what it is called with: ``n``, ``p`` or ``alpha`` and ``beta``, ``state``.
        state: of training; None where the function depends on none, or is not bound to one yet.
    """

    function: Callable[..., Any]
    name: str
    positional: tuple[str, ...] = ("n", "p")
    keywords: tuple[str, ...] = ()
    state: TrainingState | None = None
    parameters: tuple[str, ...] = ("success_rates",)
    gradient_rule: GradientRule = MIXED_GROUP
    minimum_rollouts: int = 1
    is_known_concave: bool = False

    @property
    def needs_state(self) -> bool:
        return "state" in self.positional + self.keywords

    def for_state(self, state: TrainingState) -> ValueFunction:
        return replace(self, state=state) if self.needs_state else self

    def value(self, n: Any, *parameters: Any) -> Array:
        if self.needs_state and self.state is None:
            raise ValueError(
                f"value function {self.name} depends on the state of training: use "
                "resolve_value_function(value).for_state(TrainingState(...))"
            )
        shape = np.shape(parameters[0])
        what = "success rates" if self.parameters == ("success_rates",) else "beliefs"
        try:
            # Copies, in and out: a function may work in place, or hand out its own buffer again and again.
            returned = np.asarray(self._call(n, [np.array(column) for column in parameters]))
            if np.iscomplexobj(returned):
                raise TypeError("it returned complex numbers")
            values = np.array(returned, dtype=np.float64)
        except Exception as error:
            raise ValueError(
                f"value function {self.name} failed for n={n} and an array of {np.size(parameters[0])} {what}"
                f"{self._in_state}: {reason_of(error)}; it is called with an int and an array. "
                "Wrap a function of scalars in numpy.vectorize"
            ) from error
        if values.shape != shape:
            raise ValueError(
                f"value function {self.name} returned shape {values.shape} for {shape} {what}; expected one "
                "value for each. Wrap a function of scalars in numpy.vectorize"
            )
        is_finite = np.isfinite(values)
        if not is_finite.all():
            first = int(np.argmin(is_finite))
            given = self.described([column[first] for column in parameters])
            raise ValueError(
                f"value function {self.name} gave {values[first]} for {given}, N={n}{self._in_state}; expected a number"
            )
        return values

    def _call(self, n: Any, parameters: Sequence[Any]) -> Any:
        known = {"n": n, "state": self.state, **dict(zip(self.parameters, parameters, strict=True))}
        arguments = {name: known[_COLUMNS.get(name, name)] for name in self.positional + self.keywords}
        positional = [arguments[name] for name in self.positional]
        return self.function(*positional, **{name: arguments[name] for name in self.keywords})

    @property
    def _in_state(self) -> str:
        return "" if self.state is None else f" in {self.state}"

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


def user_value(function: Callable[..., Any], name: str) -> UserValue:
    """The value function behind a plain function, whose parameters say by their names what it depends on.

    Args:
        function: ``f(n, p)``, ``f(n, alpha, beta)``, or either with ``state``. A parameter with a default keeps it. A
            function whose parameters Python cannot tell, or whose two are positional-only, is taken for ``f(n, p)``.
        name: how messages name it.

    Raises:
        ValueError: it depends on something that is not offered, or on no estimate.

    >>> user_value(lambda n, alpha, beta, state: alpha, "example").parameters
    ('alpha', 'beta')
    """
    if isinstance(function, np.vectorize) and function.otypes is None:
        # NumPy would take the type of the first value: an integer there cuts off the fractions of all others.
        function = np.vectorize(function.pyfunc, otypes=[float], excluded=function.excluded)
    positional, keywords = _wanted(function)
    wanted = set(positional + keywords)
    unknown = [argument for argument in positional + keywords if argument not in ("n", "state", *_COLUMNS)]
    if unknown:
        raise ValueError(f"value function {name} depends on {', '.join(unknown)}, not offered: expected {_OFFERED}")
    if "n" not in wanted or wanted & set(_COLUMNS) not in ({"p"}, {"alpha", "beta"}):
        raise ValueError(f"value function {name} depends on {', '.join(sorted(wanted))}: expected {_OFFERED}")
    parameters = ("success_rates",) if "p" in wanted else ("alpha", "beta")
    return UserValue(function, name, positional, keywords, parameters=parameters)


def _wanted(function: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the parameters that have no default, those given by position and those by keyword."""
    try:
        # numpy.vectorize hides the parameters of what it wraps.
        parameters = inspect.signature(getattr(function, "pyfunc", function)).parameters.values()
    except (TypeError, ValueError):
        return ("n", "p"), ()
    required = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    kinds = [parameter.kind for parameter in required]
    if inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.KEYWORD_ONLY not in kinds:
        return ("n", "p"), ()
    is_named = any(parameter.name in ("n", "state", *_COLUMNS) for parameter in required)
    if kinds == [inspect.Parameter.POSITIONAL_ONLY] * 2 and not is_named:
        return ("n", "p"), ()  # names that nobody can call it by, such as NumPy's x1 and x2
    positional = tuple(parameter.name for parameter in required if parameter.kind in _ONE_PER_ARGUMENT)
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    return positional, tuple(parameter.name for parameter in required if parameter.kind is keyword_only)
