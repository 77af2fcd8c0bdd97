"""Prompts that learn by GRPO: each is a softmax policy of its own, as in the paper's proposition 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.special import expit

from knapsack_rl import prompt_weights

__all__ = ["REGIMES", "LearningPrompts", "Regime", "pull_of_groups"]

# Where the updates are normalised, the log-odds of the prompts of a batch move by this (root mean square) at rate 1.
_NORMALISED_MOVE = 0.3
# GRPO's, in verl: a group's standard deviation is divided by only after this was added.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Regime:
    """How a gradient becomes an update.

    Attributes:
        learning_rate: factor on the update.
        normalised: whether every step moves its prompts equally far on average, however large the gradient is. That is
            what Adam's division by the gradient's size does, roughly.
        interference: every step also moves all prompts at random, by this times the size of its own update: prompts
            that share a model disturb each other.
    """

    learning_rate: float
    normalised: bool
    interference: float = 0.0


REGIMES: Mapping[str, Regime] = MappingProxyType(
    {
        "normalised": Regime(1.0, True),
        "normalised-slow": Regime(0.4, True),
        "interference": Regime(1.0, True, 0.05),
        "plain": Regime(0.5, False),
    }
)
"""The regimes that the simulation compares rules in, by name."""


def pull_of_groups(
    successes: np.ndarray, rollouts: np.ndarray, rates: np.ndarray, adv_clip: float | None, prompt_weight: str
) -> np.ndarray:
    """(M,) GRPO's gradient by each prompt's log-odds: the mean over all rows of advantage times score function.

    The advantages are clipped, then weighted by prompt, as the trainer does it. The score function of a success is
    1 - p, of a failure -p. The mean is taken per prompt of the batch, so that equal budgets of any size compare.

    Args:
        successes, rollouts: (M,) integers; a group of one has no advantage.
        rates: (M,) float, the true success rates p.
        adv_clip: ``algorithm.adv_clip``.
        prompt_weight: ``algorithm.prompt_weight``.

    >>> pull_of_groups(np.array([1, 2]), np.array([2, 2]), np.array([0.5, 0.5]), 5.0, "rows").round(3)
    array([0.354, 0.   ])
    """
    observed = successes / rollouts
    deviation = np.sqrt(observed * (1.0 - observed) * rollouts / np.maximum(rollouts - 1, 1)) + _EPSILON
    bound = np.inf if adv_clip is None else adv_clip
    of_success = np.minimum((1.0 - observed) / deviation, bound)
    of_failure = np.maximum(-observed / deviation, -bound)
    pull = successes * of_success * (1.0 - rates) - (rollouts - successes) * of_failure * rates
    is_mixed = (successes > 0) & (successes < rollouts)
    return np.where(is_mixed, pull, 0.0) * prompt_weights(rollouts, prompt_weight) / rollouts.mean()


class LearningPrompts:
    """A population whose success rates its own training changes.

    A third of the prompts is hard (log-odds normal around -6), the rest spread around -0.5.

    Args:
        num_prompts: P.
        regime: how gradients become updates.
        seed: of the population and of the interference.

    Attributes:
        rates: (P,) float, the true success rates.
    """

    def __init__(self, num_prompts: int, regime: Regime, seed: int) -> None:
        self._generator = np.random.default_rng([seed, 0])
        is_hard = self._generator.random(num_prompts) < 0.35
        hard, usual = self._generator.normal([[-6.0], [-0.5]], [[1.5], [2.0]], (2, num_prompts))
        self._log_odds = np.where(is_hard, hard, usual)
        self._regime = regime
        self.rates = expit(self._log_odds)

    def update(self, prompts: np.ndarray, pull: np.ndarray) -> None:
        """Move (M,) different prompts by the gradient of their log-odds."""
        size = float(np.sqrt(np.mean(pull**2)))
        scale = _NORMALISED_MOVE / (size + 1e-8) if self._regime.normalised else 1.0
        step = self._regime.learning_rate * scale
        self._log_odds[prompts] += step * pull
        if self._regime.interference:
            noise = self._generator.standard_normal(len(self._log_odds), dtype=np.float32)
            self._log_odds += self._regime.interference * step * size * noise
            self.rates = expit(self._log_odds)
        else:
            self.rates[prompts] = expit(self._log_odds[prompts])
