"""The paper's equations: when a group of rollouts has a gradient, and what such a gradient is worth.

n is a number of rollouts (integers >= 1), p a success rate in [0, 1], alpha and beta the pseudo-counts of a Beta belief
about p. All functions broadcast, and return float64 arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy

from knapsack_rl.arrays import Array

__all__ = [
    "beta_moment",
    "expected_prob_nonzero_gradient",
    "expected_rollouts_until_nonzero_gradient",
    "expected_value",
    "grpo_value",
    "info_gain",
    "prob_nonzero_gradient",
    "reinforce_value",
    "remax_value",
    "rollouts_for_confidence",
]


def prob_nonzero_gradient(n: Any, p: Any) -> Array:
    """Probability that a group of n rollouts holds both a success and a failure: ``1 - p^n - (1-p)^n``.

    Paper, section 3.2. Evaluated without cancellation, also for p close to 0 or 1.

    Args:
        n: number of rollouts, integers >= 1, any shape that broadcasts with `p`.
        p: success rates in [0, 1].

    >>> prob_nonzero_gradient([1, 2, 8], 0.5).tolist()
    [0.0, 0.5, 0.9921875]
    """
    n, p = np.asarray(n), np.asarray(p, dtype=np.float64)
    # p + (1-p) = 1 turns the formula into p (1 - p^(n-1)) + (1-p) (1 - (1-p)^(n-1)): two terms that are never negative.
    log_others_succeed, log_others_fail = scipy.special.xlogy(n - 1, p), scipy.special.xlog1py(n - 1, -p)
    probability: Array = 0.0 - p * np.expm1(log_others_succeed) - (1.0 - p) * np.expm1(log_others_fail)
    return probability


def info_gain(p: Any) -> Array:
    """First-order increase of the success rate through one policy-gradient update: ``p (1-p)^2``.

    Paper, proposition 1. Largest at p = 1/3.

    >>> float(info_gain(0.5))
    0.125
    """
    p = np.asarray(p, dtype=np.float64)
    gain: Array = p * (1.0 - p) ** 2
    return gain


def grpo_value(n: Any, p: Any) -> Array:
    """Value of n rollouts for GRPO and RLOO (paper, section 4.1): `prob_nonzero_gradient` times `info_gain`."""
    return prob_nonzero_gradient(n, p) * info_gain(p)


def reinforce_value(n: Any, p: Any) -> Array:
    """Value of n rollouts for REINFORCE (paper, appendix B): ``(1 - (1-p)^n) p (1-p)^2``."""
    value: Array = -np.expm1(scipy.special.xlog1py(n, -np.asarray(p, dtype=np.float64))) * info_gain(p)
    return value


def remax_value(n: Any, p: Any, a: Any) -> Array:
    """Value of n rollouts for ReMax (paper, appendix B): ``(1 - a^n) p (1-p)^2``.

    Args:
        n: number of rollouts, integers >= 1.
        p: success rates in [0, 1].
        a: probability that a rollout earns what the greedy response earned, in [0, 1].
    """
    value: Array = -np.expm1(scipy.special.xlogy(n, np.asarray(a, dtype=np.float64))) * info_gain(p)
    return value


def expected_value(n: Any, alpha: Any, beta: Any) -> Array:
    """Expectation of `grpo_value` when p is uncertain with a Beta(alpha, beta) belief.

    A prompt seen 0 times of 8 or 8 times of 8 keeps a positive value, so it needs no rule of its own.

    The closed form is ``[B(alpha+1, beta+2) - B(alpha+n+1, beta+2) - B(alpha+1, beta+n+2)] / B(alpha, beta)`` with the
    Beta function B. It is summed up from its increments, each a product of ratios near 1, which is exact to rounding
    however large the counts are; the difference of logarithms of Beta functions is not.

    Args:
        n: number of rollouts, integers >= 1, any shape that broadcasts with `alpha` and `beta`.
        alpha: pseudo-count of successes, greater than 0.
        beta: pseudo-count of failures, greater than 0.

    >>> round(float(expected_value(2, 1.0, 1.0)), 6)  # the integral of 2 p (1-p) * p (1-p)^2 over [0, 1] is 1/30
    0.033333
    """
    return _sum_of_expected_gains(n, alpha, beta, successes=1, failures=2)


def expected_prob_nonzero_gradient(n: Any, alpha: Any, beta: Any) -> Array:
    """Expectation of `prob_nonzero_gradient` when p has a Beta(alpha, beta) belief. Arguments: see `expected_value`.

    >>> round(float(expected_prob_nonzero_gradient(2, 1.0, 1.0)), 6)
    0.333333
    """
    return _sum_of_expected_gains(n, alpha, beta, successes=0, failures=0)


def rollouts_for_confidence(p: Any, confidence: float = 0.9) -> Array:
    """Rollouts that suffice for a non-zero gradient with probability `confidence` (Theorem 1, first part).

    ``ln(1 - confidence) / ln(max(p, 1-p))``, not rounded; infinite for p = 0 and p = 1.

    >>> rollouts_for_confidence([0.01, 0.9]).round(2).tolist()
    [229.11, 21.85]
    """
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        rollouts: Array = np.log1p(-confidence) / np.log1p(-np.minimum(p, 1.0 - p))
        return rollouts


def expected_rollouts_until_nonzero_gradient(p: Any) -> Array:
    """Mean number of rollouts until both a success and a failure have been seen: ``1/p + 1/(1-p) - 1``.

    Theorem 1, second part; infinite for p = 0 and p = 1.

    >>> float(expected_rollouts_until_nonzero_gradient(0.5))
    3.0
    """
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        rollouts: Array = 1.0 / p + 1.0 / (1.0 - p) - 1.0
        return rollouts


def _rising_ratio(upper: Array, lower: Array, steps: Any) -> Array:
    """Product of ``(upper + j) / (lower + j)`` over j < steps, broadcasting."""
    upper, lower, steps = np.broadcast_arrays(upper, lower, steps)
    product = np.ones(steps.shape)
    for j in range(int(steps.max(initial=0))):
        np.multiply(product, (upper + j) / (lower + j), out=product, where=j < steps)
    return product


def beta_moment(alpha: Array, beta: Array, successes: Any, failures: Any) -> Array:
    """E[p^successes (1-p)^failures] for p ~ Beta(alpha, beta).

    >>> round(float(beta_moment(np.array(1.0), np.array(1.0), 1, 1)), 6)  # the integral of p (1-p) over [0, 1] is 1/6
    0.166667
    """
    total = alpha + beta
    return _rising_ratio(alpha, total, successes) * _rising_ratio(beta, total + successes, failures)


def _sum_of_expected_gains(n: Any, alpha: Any, beta: Any, successes: int, failures: int) -> Array:
    """E[(1 - p^n - (1-p)^n) p^successes (1-p)^failures], summed over what each rollout after the first adds."""
    n, alpha, beta = np.broadcast_arrays(n, np.asarray(alpha, np.float64), np.asarray(beta, np.float64))
    shape, by_rollouts = n.shape, np.argsort(-n, axis=None, kind="stable")
    n, alpha, beta = (array.ravel()[by_rollouts] for array in (n, alpha, beta))
    more_successes = beta_moment(alpha, beta, 1 + successes, 1 + failures)
    more_failures = more_successes.copy()
    drawn = alpha + beta + successes + failures
    sums = np.zeros(n.size)
    for k in range(1, int(n.max(initial=1))):
        # Entries are sorted by n, so those that still have rollouts to come are at the front.
        size = int(np.searchsorted(-n, -k))
        sums[:size] += more_successes[:size] + more_failures[:size]
        more_successes[:size] *= (alpha[:size] + successes + k) / (drawn[:size] + k + 1)
        more_failures[:size] *= (beta[:size] + failures + k) / (drawn[:size] + k + 1)
    total = np.empty(n.size)
    total[by_rollouts] = sums
    return total.reshape(shape)
