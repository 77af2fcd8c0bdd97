"""Metrics of the estimates: how well they foretold what came."""

from __future__ import annotations

import numpy as np

from knapsack_rl.allocation import effective_ratio
from knapsack_rl.arrays import Array
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.per_prompt import check_same_shape, rollouts_per_prompt, sum_per_prompt

__all__ = ["FORECAST_METRICS", "belief_metrics", "brier_score", "calibration_error", "prediction_metrics"]


def prediction_metrics(
    prompt_index: Array, effective: Array, budgets: Array, predicted_shares: Array
) -> dict[str, float]:
    """The plan's forecast of the effective-gradient ratio against what came, on prompts that have a forecast.

    Args:
        prompt_index: (B,) int in [0, M): the prompt of each rollout.
        effective: (B,) bool: has the rollout a gradient?
        budgets: (M,) int: rollouts planned for each prompt.
        predicted_shares: (M,) float in [0, 1]: share of them expected to have a gradient; NaN = no forecast.

    Returns:
        Empty if no prompt has a forecast, or none that has one was sampled.

    >>> effective, budgets, shares = np.array([True, True, False]), np.array([2, 1]), np.array([0.5, np.nan])
    >>> prediction_metrics(np.array([0, 0, 1]), effective, budgets, shares)  # doctest: +NORMALIZE_WHITESPACE
    {'allocation/predicted_effective_gradient_ratio': 0.5, 'allocation/observed_effective_gradient_ratio': 1.0,
     'allocation/effective_gradient_ratio_error': -0.5}
    """
    check_same_shape("budgets", np.asarray(budgets), "predicted_shares", predicted_shares)
    is_known = ~np.isnan(predicted_shares)
    rollouts = rollouts_per_prompt(prompt_index, len(is_known))[is_known]
    effective_rollouts = sum_per_prompt(prompt_index, effective, len(is_known), "effective")[is_known]
    if rollouts.sum() == 0:
        return {}
    predicted, observed = effective_ratio(budgets, predicted_shares), float(effective_rollouts.sum() / rollouts.sum())
    return {
        "allocation/predicted_effective_gradient_ratio": predicted,
        "allocation/observed_effective_gradient_ratio": observed,
        "allocation/effective_gradient_ratio_error": predicted - observed,
    }


def belief_metrics(prompt_index: Array, successes: Array, success_rates: Array) -> dict[str, float]:
    """How well the estimates foretold this step's outcomes, on seen prompts only, every prompt counted once.

    Empty if no rollout belongs to a seen prompt.
    """
    success_rates = np.asarray(success_rates, dtype=np.float64)
    rollouts = rollouts_per_prompt(prompt_index, len(success_rates))
    success_counts = sum_per_prompt(prompt_index, successes, len(success_rates), "successes")
    is_known = ~np.isnan(success_rates) & (rollouts > 0)
    if not is_known.any():
        return {}
    known = success_rates[is_known], success_counts[is_known], rollouts[is_known]
    return {
        "beliefs/brier_score": brier_score(*known),
        "beliefs/calibration_error": calibration_error(*known),
        "beliefs/mean_estimate": float(np.mean(known[0])),
        "beliefs/mean_observed": float(np.mean(known[1] / known[2])),
    }


def brier_score(predicted: Array, successes: Array, rollouts: Array) -> float:
    """Mean squared difference of predicted success rates and single outcomes (Brier 1950); lower is better.

    The mean goes over the rollouts of a prompt first, then over prompts: were every rollout counted alike, the score
    would depend on the allocation. A perfect prediction p still scores p * (1 - p).

    Args:
        predicted: (M,) predicted success rates in [0, 1]; prompts with NaN are left out.
        successes: (M,) number of successful rollouts of each prompt.
        rollouts: (M,) number of rollouts of each prompt; prompts with 0 are left out.

    Returns:
        The score in [0, 1]; NaN if no prompt is left.

    >>> brier_score(np.array([1.0, 0.5]), np.array([4, 1]), np.array([4, 2]))
    0.125
    """
    predicted, observed = _predicted_and_observed(predicted, successes, rollouts)
    if len(predicted) == 0:
        return float("nan")
    return float(np.mean(observed * (1.0 - predicted) ** 2 + (1.0 - observed) * predicted**2))


def calibration_error(predicted: Array, successes: Array, rollouts: Array, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015): of prompts predicted at p, is a share p really solved?

    Prompts are sorted into equally wide bins by predicted rate; the error is the mean over prompts of
    |mean predicted rate - mean observed rate| of their bin. A single noisy estimate does not raise it as long as the
    errors within a bin cancel out; `brier_score` sees those.

    Args:
        predicted, successes, rollouts: as in `brier_score`.
        bins: number of bins, at least 1.

    Returns:
        The error in [0, 1]; NaN if no prompt is left.

    >>> calibration_error(np.array([0.5, 0.5]), np.array([0, 4]), np.array([4, 4]))
    0.0
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    predicted, observed = _predicted_and_observed(predicted, successes, rollouts)
    if len(predicted) == 0:
        return float("nan")
    bin_index = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    summed_differences = np.bincount(bin_index, weights=predicted - observed, minlength=bins)
    return float(np.sum(np.abs(summed_differences)) / len(predicted))


def _predicted_and_observed(predicted: Array, successes: Array, rollouts: Array) -> tuple[Array, Array]:
    """(predicted, observed) success rates of the prompts that have both."""
    predicted = np.asarray(predicted, dtype=np.float64)
    successes, rollouts = np.asarray(successes), np.asarray(rollouts)
    check_same_shape("predicted", predicted, "successes", successes)
    check_same_shape("predicted", predicted, "rollouts", rollouts)
    is_known = ~np.isnan(predicted) & (rollouts > 0)
    predicted, successes, rollouts = predicted[is_known], successes[is_known], rollouts[is_known]
    if np.any((predicted < 0) | (predicted > 1)):
        raise ValueError(f"predicted success rates must be in [0, 1], got {predicted.min()} to {predicted.max()}")
    if np.any((successes < 0) | (successes > rollouts)):
        worst = int(np.argmax(np.maximum(successes - rollouts, -successes)))
        raise ValueError(f"{successes[worst]} successes among {rollouts[worst]} rollouts is impossible")
    return predicted, successes / rollouts


FORECAST_METRICS: dict[str, MetricDescription] = {
    "allocation/predicted_effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "rollouts expected to have a gradient, by the estimates and the rule of the advantage estimator / rollouts, "
        "over seen prompts; under GRPO sum of N_i (1 - p_i^N_i - (1-p_i)^N_i) / sum of N_i",
        "See allocation/effective_gradient_ratio_error.",
    ),
    "allocation/observed_effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "rollouts with a non-zero gradient / rollouts, over the same prompts",
        "See allocation/effective_gradient_ratio_error.",
    ),
    "allocation/effective_gradient_ratio_error": MetricDescription(
        "share of rollouts",
        "predicted - observed effective-gradient ratio on seen prompts",
        "Far from 0 for many steps: the estimates are stale or noisy; try the window or beta estimator.",
    ),
    "beliefs/brier_score": MetricDescription(
        "squared probability",
        "mean over seen prompts of the mean of (estimate - outcome)^2 over the prompt's rollouts; 0 is perfect, "
        "always predicting 0.5 gives 0.25",
        "Above 0.25: worse than no estimate at all; check that prompts are recognised and rewards are deterministic.",
    ),
    "beliefs/calibration_error": MetricDescription(
        "probability",
        "mean over seen prompts of |mean estimate - mean observed rate| of their tenth of the estimates' range",
        "Above about 0.1: estimates are biased, mostly stale; try the window or beta estimator.",
    ),
    "beliefs/mean_estimate": MetricDescription(
        "probability",
        "mean estimated success rate of the seen prompts",
        "Below beliefs/mean_observed: normal while the policy improves. Far above it: the policy got worse.",
    ),
    "beliefs/mean_observed": MetricDescription(
        "probability",
        "mean over seen prompts of the success rate in this step",
        "See beliefs/mean_estimate.",
    ),
}
"""Keys of `prediction_metrics` and `belief_metrics`."""
