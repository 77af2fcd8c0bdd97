"""Which rollouts have a policy gradient: the share to expect of n rollouts, before they are drawn.

A rule has two forms: for success rates taken at face value, and for Beta beliefs about them. `advantage_estimators`
says which rule holds for which estimator, and reads from rewards which rollouts had a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.theory import beta_moment, expected_prob_nonzero_gradient, prob_nonzero_gradient

__all__ = [
    "DIFFERS_FROM_GREEDY",
    "EVERY_ROLLOUT",
    "MIXED_GROUP",
    "SINGLE_SUCCESS",
    "SUCCESSES",
    "UNKNOWN",
    "GradientRule",
]


@dataclass(frozen=True)
class GradientRule:
    """A rule that tells which rollouts have a gradient.

    Attributes:
        name: in words.
        share: ``share(n, success_rates, greedy_match_rates)``: (M,) expected share of n rollouts with a gradient; NaN
            where a success rate or match rate that it needs is NaN.
        expected_share: ``expected_share(n, alpha, beta, greedy_match_rates)``: the same under Beta beliefs.
    """

    name: str
    share: Callable[[Any, Any, Any], Array]
    expected_share: Callable[[Any, Any, Any, Any], Array]


def _single_success(n: Any, p: Any, a: Any) -> Array:
    return np.asarray(p) * (1.0 - np.asarray(p)) ** (np.asarray(n) - 1)


def _constant(n: Any, *estimates: Any) -> Array:
    # A prompt without an estimate counts as unknown here too, so that all rules speak of the same prompts.
    shares: Array = np.where(np.isnan(np.asarray(estimates[0], dtype=np.float64)), np.nan, 1.0) + 0.0 * np.asarray(n)
    return shares


MIXED_GROUP = GradientRule(
    "all rollouts of a group with both a success and a failure",
    lambda n, p, a: prob_nonzero_gradient(n, p),
    lambda n, alpha, beta, a: expected_prob_nonzero_gradient(n, alpha, beta),
)
SINGLE_SUCCESS = GradientRule(
    "the success, in a group with exactly one",
    _single_success,
    lambda n, alpha, beta, a: beta_moment(np.asarray(alpha), np.asarray(beta), 1, np.asarray(n) - 1),
)
SUCCESSES = GradientRule(
    "every success",
    lambda n, p, a: np.asarray(p, dtype=np.float64) + 0.0 * np.asarray(n),
    lambda n, alpha, beta, a: np.asarray(alpha) / (np.asarray(alpha) + np.asarray(beta)) + 0.0 * np.asarray(n),
)
DIFFERS_FROM_GREEDY = GradientRule(
    "every rollout that earns something else than the greedy response",
    lambda n, p, a: 1.0 - np.asarray(a, dtype=np.float64) + 0.0 * np.asarray(n),
    lambda n, alpha, beta, a: 1.0 - np.asarray(a, dtype=np.float64) + 0.0 * np.asarray(n),
)
EVERY_ROLLOUT = GradientRule("every rollout", _constant, _constant)
UNKNOWN = GradientRule(
    "not known in advance",
    lambda n, p, a: np.nan * np.asarray(n),
    lambda n, alpha, beta, a: np.nan * np.asarray(n),
)
