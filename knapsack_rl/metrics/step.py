"""All metrics of one step's exploration."""

from __future__ import annotations

from knapsack_rl.arrays import Array
from knapsack_rl.metrics.allocation import allocation_metrics
from knapsack_rl.metrics.forecasts import belief_metrics, prediction_metrics
from knapsack_rl.metrics.gradients import effective_gradient_metrics
from knapsack_rl.metrics.prompts import outcome_metrics

__all__ = ["compute_exploration_metrics"]


def compute_exploration_metrics(
    *,
    prompt_index: Array,
    successes: Array,
    scores: Array,
    effective: Array,
    success_rates: Array,
    budgets: Array,
    predicted_shares: Array,
    n_low: int,
    n_up: int,
    fallback_rollouts: int = 0,
    fallback_confidence: float = 0.9,
) -> dict[str, float]:
    """The metrics of the plan and the outcomes of one step; B is the number of its rollouts, M of its prompts.

    Args:
        prompt_index: (B,) integers in [0, M): the prompt of each rollout.
        successes: (B,) bool: did the rollout succeed?
        scores: (B,) float: sequence-level score of the rollout.
        effective: (B,) bool: is the rollout's policy gradient non-zero?
        success_rates: (M,) float: the estimates that the allocation used; NaN = unseen.
        budgets: (M,) integers: rollouts that the allocation gave to each prompt.
        predicted_shares: (M,) float: share of each prompt's rollouts expected to have a gradient; NaN = no forecast.
        n_low, n_up: bounds of the allocation, in rollouts.
        fallback_rollouts: rollouts that the fallback placed on prompts with success rate 0.
        fallback_confidence: alpha of Theorem 1, in (0, 1).

    Raises:
        ValueError: shapes differ, or a prompt index lies outside [0, M).
    """
    num_prompts = len(budgets)
    return {
        **effective_gradient_metrics(prompt_index, effective, num_prompts),
        **outcome_metrics(prompt_index, successes, scores, num_prompts),
        **allocation_metrics(
            budgets,
            success_rates,
            n_low,
            n_up,
            fallback_rollouts=fallback_rollouts,
            fallback_confidence=fallback_confidence,
        ),
        **prediction_metrics(prompt_index, effective, budgets, predicted_shares),
        **belief_metrics(prompt_index, successes, success_rates),
    }
