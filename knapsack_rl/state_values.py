"""GRPO's value with more weight on hard prompts: always somewhat, or the more the further training has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from knapsack_rl.analytic_value import AnalyticValue
from knapsack_rl.arrays import Array
from knapsack_rl.gains import Gains
from knapsack_rl.gradient_rules import MIXED_GROUP, GradientRule
from knapsack_rl.theory import prob_nonzero_gradient
from knapsack_rl.training_state import TrainingState
from knapsack_rl.value_function import ValueFunction

__all__ = ["EASY_TO_HARD", "HARD_LEANING", "StateValue", "grpo_value_leaning_to_hard", "hardness"]


@dataclass(frozen=True)
class StateValue(ValueFunction):
    """A value that is analytic at every state of training.

    Attributes:
        of_state: the value at a state; only what it returns can be evaluated.
    """

    name: str
    of_state: Callable[[TrainingState], AnalyticValue]
    parameters: tuple[str, ...] = ("success_rates",)
    gradient_rule: GradientRule = MIXED_GROUP
    minimum_rollouts: int = 2
    is_known_concave: bool = True

    @property
    def needs_state(self) -> bool:
        return True

    def for_state(self, state: TrainingState) -> ValueFunction:
        return self.of_state(state)

    def value(self, n: Any, *parameters: Any) -> Array:
        raise self._unbound()

    def values_at(self, rollouts: Array, parameters: tuple[Array, ...]) -> Array:
        raise self._unbound()

    def gains(self, parameters: tuple[Array, ...], n_low: int) -> Gains:
        raise self._unbound()

    def gain_table(self, parameters: tuple[Array, ...], n_low: int, n_up: int) -> Array:
        raise self._unbound()

    def _unbound(self) -> ValueError:
        return ValueError(
            f"value={self.name!r} depends on the state of training: use "
            f"resolve_value_function({self.name!r}).for_state(TrainingState(...))"
        )


def hardness(state: TrainingState) -> float:
    """How far the weight has moved from easy to hard prompts, in [0, 1]: the mean success rate.

    >>> hardness(TrainingState(mean_success_rate=0.25))
    0.25
    """
    return min(max(state.mean_success_rate, 0.0), 1.0)


def grpo_value_leaning_to_hard(name: str, k: float) -> AnalyticValue:
    """`grpo_value` times ``p^-k``: the paper's value (equation 7) at k = 0, and at k = 1 that without its p.

    Args:
        name: of the value.
        k: in [0, 1].
    """
    return AnalyticValue(
        name=name,
        parameters=("success_rates",),
        function=lambda n, p: prob_nonzero_gradient(n, p) * p ** (1.0 - k) * (1.0 - p) ** 2,
        gradient_rule=MIXED_GROUP,
        minimum_rollouts=2,
        gain_terms=lambda n, p: (p ** (n + 1 - k) * (1.0 - p) ** 3, p ** (2 - k) * (1.0 - p) ** (n + 2)),
        gain_ratios=lambda n, p: (p, 1.0 - p),
    )


HARD_LEANING = grpo_value_leaning_to_hard("hard_leaning", 0.25)
"""A value that counts what a hard prompt will earn when it is easier, which the paper's leaves out."""

EASY_TO_HARD = StateValue("easy_to_hard", lambda state: grpo_value_leaning_to_hard("easy_to_hard", hardness(state)))
"""A value whose weight moves from easy to hard prompts as training saturates."""
