"""What is known of the M prompts of a step before they are sampled, and by which rule each of them gets rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gradient_rules import GradientRule
from knapsack_rl.value_function import ValueFunction

__all__ = ["Estimates", "PromptClasses"]


@dataclass(frozen=True, eq=False)  # equality of arrays is not a truth value
class Estimates:
    """Success rates, or beliefs about them, of M prompts.

    Attributes:
        success_rates: (M,) float in [0, 1], NaN = unseen; None where beliefs are all that is known.
        greedy_match_rates: (M,) float in [0, 1]: probability that a rollout earns what the greedy response earned; NaN
            = unknown. None where no greedy response is drawn.
        beliefs: ``(alpha, beta)``, (M,) float each and above 0; None where rates are taken at face value.
    """

    success_rates: Array | None = None
    greedy_match_rates: Array | None = None
    beliefs: tuple[Array, Array] | None = None

    @classmethod
    def check(
        cls, function: ValueFunction, success_rates: Any, greedy_match_rates: Any = None, beliefs: Any = None
    ) -> Estimates:
        """Check and keep what a value function depends on.

        Raises:
            ValueError: something it needs is missing or malformed; the message names the first wrong prompt.
        """
        if "alpha" in function.parameters:
            return cls(beliefs=_check_beliefs(beliefs, function.name))
        rates = _as_rates(success_rates, "success_rates")
        if "greedy_match_rates" not in function.parameters:
            return cls(rates)
        if greedy_match_rates is None:
            raise ValueError(f"value={function.name!r} needs greedy_match_rates, one per prompt; got None")
        matches = _as_rates(greedy_match_rates, "greedy_match_rates")
        if matches.shape != rates.shape:
            raise ValueError(f"greedy_match_rates has shape {matches.shape}, expected {rates.shape} as success_rates")
        return cls(rates, matches)

    def take(self, chosen: Array) -> Estimates:
        """What is known of the prompts with these indices."""
        beliefs = None if self.beliefs is None else (self.beliefs[0][chosen], self.beliefs[1][chosen])
        rates = None if self.success_rates is None else self.success_rates[chosen]
        matches = None if self.greedy_match_rates is None else self.greedy_match_rates[chosen]
        return Estimates(rates, matches, beliefs)

    def __len__(self) -> int:
        """M."""
        return len(self._any)

    @property
    def _any(self) -> Array:
        if self.success_rates is not None:
            return self.success_rates
        assert self.beliefs is not None, "estimates hold success rates, beliefs, or both"
        return self.beliefs[0]

    def parameters(self, function: ValueFunction) -> tuple[Array, ...]:
        """What ``function`` depends on besides n, (M,) each."""
        alpha, beta = self.beliefs if self.beliefs is not None else (None, None)
        known = {
            "success_rates": self.success_rates,
            "greedy_match_rates": self.greedy_match_rates,
            "alpha": alpha,
            "beta": beta,
        }
        return tuple(column for name in function.parameters if (column := known[name]) is not None)

    def effective_shares(self, rollouts: Any, rule: GradientRule) -> Array:
        """(M,) expected share of each prompt's rollouts with a gradient; NaN where too little is known.

        Beliefs are averaged over where they are known; else success rates are taken at face value.

        Args:
            rollouts: (M,) integers of at least 1.
            rule: which rollouts have a gradient.
        """
        unknown = np.full(len(self), np.nan)
        matches = unknown if self.greedy_match_rates is None else self.greedy_match_rates
        if self.beliefs is None:
            return rule.share(rollouts, self.success_rates, matches)
        shares = rule.expected_share(rollouts, *self.beliefs, matches)
        return shares if self.success_rates is None else np.where(np.isnan(self.success_rates), np.nan, shares)


@dataclass(frozen=True, eq=False)
class PromptClasses:
    """By which rule each prompt gets rollouts: four (M,) bool masks that partition the prompts."""

    is_unseen: Array
    is_unsolved: Array
    is_mixed: Array
    is_solved: Array

    @classmethod
    def of(cls, estimates: Estimates) -> PromptClasses:
        """The classes of prompts with these estimates; with beliefs alone, the knapsack decides on all of them."""
        rates = estimates.success_rates
        if rates is None:
            everyone = np.ones(len(estimates), dtype=bool)
            return cls(~everyone, ~everyone, everyone, ~everyone)
        is_mixed = (rates > 0.0) & (rates < 1.0)
        is_unseen = np.isnan(rates)
        if estimates.greedy_match_rates is not None:
            is_unseen |= is_mixed & np.isnan(estimates.greedy_match_rates)
        return cls(is_unseen, rates == 0.0, is_mixed & ~is_unseen, rates == 1.0)


def _as_rates(values: Any, name: str) -> Array:
    rates = _as_vector(values, name)
    is_valid = np.isnan(rates) | ((rates >= 0.0) & (rates <= 1.0))
    if not is_valid.all():
        first = int(np.argmin(is_valid))
        raise ValueError(f"{name} must lie in [0, 1], or be NaN where unknown; prompt {first} has {rates[first]}")
    return rates


def _as_vector(values: Any, name: str) -> Array:
    if values is None:
        raise ValueError(f"{name} is needed, one number per prompt; got None")
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, one per prompt: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(
            f"{name} must be a vector with one number per prompt and at least one prompt; got shape {vector.shape}"
        )
    return vector


def _check_beliefs(beliefs: Any, name: str) -> tuple[Array, Array]:
    if beliefs is None or len(beliefs) != 2:
        raise ValueError(
            f"value={name!r} needs beliefs=(alpha, beta), two arrays with one number per prompt; got {beliefs!r}"
        )
    alpha, beta = _as_vector(beliefs[0], "alpha"), _as_vector(beliefs[1], "beta")
    if alpha.shape != beta.shape:
        raise ValueError(
            f"beliefs must have one alpha and one beta per prompt; got shapes {alpha.shape} and {beta.shape}"
        )
    for label, counts in (("alpha", alpha), ("beta", beta)):
        is_valid = (counts > 0.0) & np.isfinite(counts)
        if not is_valid.all():
            first = int(np.argmin(is_valid))
            raise ValueError(f"{label} of a belief must be a finite number above 0; prompt {first} has {counts[first]}")
    return alpha, beta
