"""Value functions whose gains are known in closed form, and which are therefore provably concave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gains import AnalyticGains, Gains
from knapsack_rl.gradient_rules import GradientRule
from knapsack_rl.value_function import ValueFunction

__all__ = ["AnalyticValue"]


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
