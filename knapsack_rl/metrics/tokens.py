"""Metrics of tokens: how many a plan was expected to generate, and how many came."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.metrics.descriptions import MetricDescription

__all__ = ["TOKEN_METRICS", "token_metrics", "total_token_metrics"]


def token_metrics(
    budgets: Array, expected_lengths: Array | None, response_tokens: Array, max_tokens: float | None = None
) -> dict[str, float]:
    """Tokens that one plan was expected to generate, against what came of it.

    Args:
        budgets: (M,) rollouts of each prompt.
        expected_lengths: (M,) response tokens expected of a rollout of each prompt.
        response_tokens: (B,) response tokens of the rollouts that came.
        max_tokens: the limit of the plan; None without one.

    Returns:
        Empty while no length was known.

    >>> metrics = token_metrics(np.array([6, 2]), np.array([10.0, 30.0]), np.array([10] * 8), max_tokens=150.0)
    >>> metrics["allocation/planned_tokens"], metrics["allocation/homogeneous_tokens"]
    (120.0, 160.0)
    """
    if expected_lengths is None or np.isnan(expected_lengths).any():
        return {}
    metrics = {
        "allocation/planned_tokens": float(budgets @ expected_lengths),
        "allocation/homogeneous_tokens": float(budgets.sum() * expected_lengths.mean()),
        "allocation/generated_tokens": float(np.sum(response_tokens)),
    }
    return metrics if max_tokens is None else {**metrics, "allocation/token_limit": float(max_tokens)}


def total_token_metrics(of_plans: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums over the plans of a step; empty unless lengths were known to all of them."""
    if not all(of_plans):
        return {}
    names = set.intersection(*(set(metrics) for metrics in of_plans)) if of_plans else set()
    return {name: sum(metrics[name] for metrics in of_plans) for name in TOKEN_METRICS if name in names}


TOKEN_METRICS: dict[str, MetricDescription] = {
    "allocation/planned_tokens": MetricDescription(
        "tokens",
        "sum over prompts of budget times mean response length at earlier visits (absent while no length is known)",
        "Far above allocation/homogeneous_tokens: steps take longer than with equal budgets; set "
        "exploration.max_expected_tokens to 1.0x.",
    ),
    "allocation/homogeneous_tokens": MetricDescription(
        "tokens",
        "what the same number of rollouts, the same for every prompt, was expected to generate",
        "See allocation/planned_tokens.",
    ),
    "allocation/generated_tokens": MetricDescription(
        "tokens",
        "response tokens of all rollouts of this step",
        "Stays far from allocation/planned_tokens: responses grow or shrink from visit to visit; a limit on expected "
        "tokens then bounds the real ones less well.",
    ),
    "allocation/token_limit": MetricDescription(
        "tokens",
        "most tokens that the plan was allowed (absent without exploration.max_expected_tokens)",
        "Above what the key asks for: it could not be met, and the least possible was planned; raise it.",
    ),
}
"""Keys of `token_metrics`."""
