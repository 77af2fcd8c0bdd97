"""Metrics of the allocation: how the budget of a step was spread over its prompts."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.per_prompt import check_same_shape
from knapsack_rl.theory import rollouts_for_confidence

__all__ = ["ALLOCATION_METRICS", "allocation_metrics"]


def allocation_metrics(
    budgets: Array,
    success_rates: Array,
    n_low: int,
    n_up: int,
    *,
    fallback_rollouts: int = 0,
    fallback_confidence: float = 0.9,
) -> dict[str, float]:
    """How the budget of one step was spread over its prompts; arguments as in `compute_exploration_metrics`.

    >>> paper_table_3 = np.array([29, 23, 2, 2, 2, 2, 2, 2]), np.array([0, 0.9, 1, 1, 1, 1, 1, 1])
    >>> metrics = allocation_metrics(*paper_table_3, n_low=2, n_up=128, fallback_rollouts=27)
    >>> metrics["allocation/max_budget"], metrics["allocation/covered_prompts"], metrics["allocation/budget_fallback"]
    (29.0, 1.0, 27.0)
    """
    budgets, success_rates = np.asarray(budgets), np.asarray(success_rates, dtype=np.float64)
    check_same_shape("budgets", budgets, "success_rates", success_rates)
    is_mixed = (success_rates > 0) & (success_rates < 1)
    costs = rollouts_for_confidence(success_rates[is_mixed], fallback_confidence)
    metrics = {
        "allocation/max_budget": float(budgets.max()),
        "allocation/min_budget": float(budgets.min()),
        "allocation/mean_budget": float(budgets.mean()),
        "allocation/covered_prompts": float(np.sum(budgets[is_mixed] >= costs)),
        "allocation/budget_fallback": float(fallback_rollouts),
        "allocation/unseen_ratio": float(np.mean(np.isnan(success_rates))),
        "allocation/at_n_low_ratio": float(np.mean(budgets == n_low)),
        "allocation/at_n_up_ratio": float(np.mean(budgets == n_up)),
    }
    for name, is_member in (("unsolved", success_rates == 0), ("mixed", is_mixed), ("solved", success_rates == 1)):
        if is_member.any():
            metrics[f"allocation/mean_budget_{name}"] = float(budgets[is_member].mean())
    return metrics


ALLOCATION_METRICS: dict[str, MetricDescription] = {
    "allocation/max_budget": MetricDescription(
        "rollouts",
        "largest budget of a prompt in this step",
        "Equal to n_up at most steps: the bound binds; raise n_up if there is memory for it.",
    ),
    "allocation/min_budget": MetricDescription(
        "rollouts",
        "smallest budget of a prompt in this step",
        "Above n_low: nothing is taken from solved prompts; few prompts are solved, or none was seen yet.",
    ),
    "allocation/mean_budget": MetricDescription(
        "rollouts",
        "total budget / prompts",
        "Differs from what you expect: check exploration.total_budget and its schedule.",
    ),
    "allocation/mean_budget_unsolved": MetricDescription(
        "rollouts",
        "mean budget of the prompts with estimated success rate 0 (absent if there are none)",
        "At n_low although the fallback is on: the others need the whole budget; raise the total budget.",
    ),
    "allocation/mean_budget_mixed": MetricDescription(
        "rollouts",
        "mean budget of the prompts with estimated success rate strictly between 0 and 1 (absent if there are none)",
        "Near n_low: the budget is too small for the number of prompts.",
    ),
    "allocation/mean_budget_solved": MetricDescription(
        "rollouts",
        "mean budget of the prompts with estimated success rate 1 (absent if there are none)",
        "Above n_low: the budget could not be placed elsewhere; raise n_up or lower the total budget.",
    ),
    "allocation/covered_prompts": MetricDescription(
        "prompts",
        "number of prompts with 0 < p < 1 whose budget is at least ln(1 - alpha) / ln(max(p, 1 - p)) (paper, "
        "Theorem 1): a non-zero gradient has probability of about alpha",
        "Far below the number of such prompts: the total budget or n_up is too small to reach the hard ones.",
    ),
    "allocation/budget_fallback": MetricDescription(
        "rollouts",
        "rollouts that the fallback placed on prompts with estimated success rate 0",
        "0 while prompt/extremely_hard_ratio is high: no budget is left for unsolved prompts; raise the total budget.",
    ),
    "allocation/unseen_ratio": MetricDescription(
        "share of prompts",
        "prompts without an estimate / prompts; they get the homogeneous share",
        "Stays 1 after the first epoch: prompts are not recognised (their content changes from epoch to epoch) or the "
        "status was not restored on resume.",
    ),
    "allocation/at_n_low_ratio": MetricDescription(
        "share of prompts",
        "prompts with a budget of exactly n_low / prompts",
        "Near 1 together with allocation/at_n_up_ratio above 0: a few prompts take everything; lower n_up.",
    ),
    "allocation/at_n_up_ratio": MetricDescription(
        "share of prompts",
        "prompts with a budget of exactly n_up / prompts",
        "Above a few percent: the bound decides instead of the knapsack; raise n_up.",
    ),
}
"""Keys of `allocation_metrics`."""
