"""Metrics of exploration: is the budget spent where there is something to learn, and can the estimates be trusted?

Pure functions over arrays that return flat dicts; each module holds its functions and what their keys mean. `METRICS`
explains every key. A metric that is not defined at a step (estimates, while nothing was seen yet) is left out.
"""

from __future__ import annotations

from knapsack_rl.metrics.allocation import ALLOCATION_METRICS, allocation_metrics
from knapsack_rl.metrics.balance import BALANCE_METRICS, imbalance
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.forecasts import (
    FORECAST_METRICS,
    belief_metrics,
    brier_score,
    calibration_error,
    prediction_metrics,
)
from knapsack_rl.metrics.gradient_shares import GRADIENT_SHARE_METRICS, gradient_share_metrics
from knapsack_rl.metrics.gradients import GRADIENT_METRICS, effective_gradient_metrics
from knapsack_rl.metrics.prompts import PROMPT_METRICS, outcome_metrics
from knapsack_rl.metrics.step import compute_exploration_metrics
from knapsack_rl.metrics.tokens import TOKEN_METRICS, token_metrics
from knapsack_rl.metrics.training import TRAINER_METRICS

__all__ = [
    "METRICS",
    "TRAINER_METRICS",
    "MetricDescription",
    "allocation_metrics",
    "belief_metrics",
    "brier_score",
    "calibration_error",
    "compute_exploration_metrics",
    "effective_gradient_metrics",
    "gradient_share_metrics",
    "imbalance",
    "outcome_metrics",
    "prediction_metrics",
    "token_metrics",
]

METRICS: dict[str, MetricDescription] = {
    **GRADIENT_METRICS,
    **GRADIENT_SHARE_METRICS,
    **PROMPT_METRICS,
    **ALLOCATION_METRICS,
    **TOKEN_METRICS,
    **FORECAST_METRICS,
    **BALANCE_METRICS,
}
"""Every key of this package's functions; `TRAINER_METRICS` has those that the trainer adds."""
