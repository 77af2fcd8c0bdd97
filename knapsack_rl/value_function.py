"""What the solvers ask of a value function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from knapsack_rl.arrays import Array
from knapsack_rl.gains import Gains
from knapsack_rl.gradient_rules import GradientRule
from knapsack_rl.training_state import TrainingState

__all__ = ["ValueFunction"]


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

    def described(self, parameters: Sequence[Any]) -> str:
        """The parameters of one prompt in words, as in ``p=0.5``."""
        names = ("p" if name == "success_rates" else name for name in self.parameters)
        return ", ".join(f"{name}={float(value)!r}" for name, value in zip(names, parameters, strict=True))

    @property
    def needs_state(self) -> bool:
        """Whether it depends on the state of training: then it is to be used as `for_state` returns it."""
        return False

    def for_state(self, state: TrainingState) -> ValueFunction:
        """The value function at a state of training; itself where it depends on none."""
        return self
