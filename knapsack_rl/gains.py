"""Gains: what one more rollout adds to the value of each of G groups of equal prompts, from level to level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["AnalyticGains", "DifferencedGains", "Gains"]


class Gains(Protocol):
    """A stream of gains that never increase."""

    def current(self) -> Array:
        """(G,) gain of the next rollout."""

    def advance(self) -> None:
        """Give every group one more rollout."""

    def keep(self, is_kept: Array) -> None:
        """Forget the groups that are False in the (G,) mask."""


class AnalyticGains:
    """Gains given as sums of terms, each of which shrinks by a ratio from one rollout to the next.

    Args:
        gain_terms: ``gain_terms(n, *parameters)``: tuple of (G,) arrays whose sum is the gain of rollout n + 1.
        gain_ratios: ``gain_ratios(n, *parameters)``: by what each term is multiplied from n to n + 1.
        parameters: (G,) arrays.
        n_low: rollouts that every group has.
    """

    def __init__(
        self,
        gain_terms: Callable[..., tuple[Array, ...]],
        gain_ratios: Callable[..., tuple[Array, ...]],
        parameters: tuple[Array, ...],
        n_low: int,
    ) -> None:
        self._gain_ratios = gain_ratios
        self._parameters = parameters
        self._n = n_low
        self._terms = gain_terms(n_low, *parameters)

    def current(self) -> Array:
        """(G,) gain of the next rollout."""
        gain: Array = np.sum(self._terms, axis=0)
        return gain

    def advance(self) -> None:
        """Give every group one more rollout."""
        ratios = self._gain_ratios(self._n, *self._parameters)
        self._terms = tuple(term * ratio for term, ratio in zip(self._terms, ratios, strict=True))
        self._n += 1

    def keep(self, is_kept: Array) -> None:
        """Forget the groups that are False in the (G,) mask."""
        self._parameters = tuple(parameter[is_kept] for parameter in self._parameters)
        self._terms = tuple(term[is_kept] for term in self._terms)


class DifferencedGains:
    """Differences of a concave function's values, with rounding noise ironed out.

    Args:
        value: ``value(n, *parameters)``: (G,) values of n rollouts.
        parameters: (G,) arrays.
        n_low: rollouts that every group has.
    """

    def __init__(self, value: Callable[..., Any], parameters: tuple[Array, ...], n_low: int) -> None:
        self._value = value
        self._parameters = parameters
        self._n = n_low
        self._values = value(n_low, *parameters)
        self._gains = np.full(len(self._values), np.inf)
        self._difference()

    def _difference(self) -> None:
        values = self._value(self._n + 1, *self._parameters)
        self._gains = np.minimum(self._gains, values - self._values)
        self._values = values

    def current(self) -> Array:
        """(G,) gain of the next rollout."""
        return self._gains

    def advance(self) -> None:
        """Give every group one more rollout."""
        self._n += 1
        self._difference()

    def keep(self, is_kept: Array) -> None:
        """Forget the groups that are False in the (G,) mask."""
        self._parameters = tuple(parameter[is_kept] for parameter in self._parameters)
        self._values, self._gains = self._values[is_kept], self._gains[is_kept]
