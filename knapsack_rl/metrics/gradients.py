"""Metrics of the gradient: which share of rollouts and prompts has one."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.per_prompt import rollouts_per_prompt, sum_per_prompt

__all__ = ["GRADIENT_METRICS", "effective_gradient_metrics"]


def effective_gradient_metrics(prompt_index: Array, effective: Array, num_prompts: int) -> dict[str, float]:
    """Share and number of rollouts and prompts with a non-zero policy gradient (paper, equation 4).

    >>> effective_gradient_metrics(np.array([0, 0, 1, 1]), np.array([True, True, False, False]), 2)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'training/effective_gradient_ratio': 0.5, 'training/effective_prompt_ratio': 0.5,
     'training/num_effective_prompts': 1.0, 'training/num_effective_samples': 2.0}
    """
    rollouts = rollouts_per_prompt(prompt_index, num_prompts)
    effective_rollouts = sum_per_prompt(prompt_index, effective, num_prompts, "effective")
    num_effective_prompts = float(np.sum(effective_rollouts > 0))
    return {
        "training/effective_gradient_ratio": float(effective_rollouts.sum() / rollouts.sum()),
        "training/effective_prompt_ratio": num_effective_prompts / float(np.sum(rollouts > 0)),
        "training/num_effective_prompts": num_effective_prompts,
        "training/num_effective_samples": float(effective_rollouts.sum()),
    }


GRADIENT_METRICS: dict[str, MetricDescription] = {
    "training/effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "rollouts with a non-zero policy gradient / all rollouts (paper, equation 4). It is read from the rewards that "
        "the advantage estimator compares, so a shaped score or a KL penalty gives a group of failures a gradient",
        "Falls towards 0: most rollouts teach nothing. Compare prompt/all_positive_ratio (data too easy) with "
        "prompt/all_negative_ratio (data too hard). High alone is no goal: without the fallback it is highest.",
    ),
    "training/effective_prompt_ratio": MetricDescription(
        "share of prompts",
        "prompts with at least one rollout that has a non-zero gradient / prompts",
        "Much lower than training/effective_gradient_ratio: the gradient comes from few prompts; lower n_up.",
    ),
    "training/num_effective_prompts": MetricDescription(
        "prompts",
        "number of prompts with at least one rollout that has a non-zero gradient",
        "Near 0: the update is noise from a handful of prompts; raise the total budget or change the data.",
    ),
    "training/num_effective_samples": MetricDescription(
        "rollouts",
        "number of rollouts with a non-zero policy gradient",
        "As training/effective_gradient_ratio.",
    ),
}
"""Keys of `effective_gradient_metrics`."""
