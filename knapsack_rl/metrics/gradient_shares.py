"""Metrics of the update: which prompts it comes from, by their number of rollouts."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.classes import budget_range, budget_range_bounds, budget_range_label
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.per_prompt import rollouts_per_prompt, sum_per_prompt

__all__ = ["GRADIENT_SHARE_METRICS", "gradient_share_metrics"]

_LAST_RANGE = 7  # its ranges end at n_up = 255; what is beyond counts with it


def _range_key(index: int) -> str:
    label = budget_range_label(index).replace("-", "_")
    return f"gradient_share/budget_{label if index < _LAST_RANGE else f'{budget_range_bounds(index)[0]}_up'}"


_RANGE_KEYS = tuple(_range_key(index) for index in range(_LAST_RANGE + 1))


def gradient_share_metrics(prompt_index: Array, pull: Array) -> dict[str, float]:
    """From which prompts the update of a step comes.

    Args:
        prompt_index: (B,) integers from 0: the prompt of each rollout that is trained on.
        pull: (B,) float, at least 0: how much each rollout pulls, ``|advantage|`` as the loss aggregates it.

    Returns:
        The share of the pull by the number of the prompt's rollouts, the largest share of one prompt, and the number
        of prompts that would give as even a pull, ``(sum of g_i)^2 / sum of g_i^2``. Empty if nothing pulls.

    Raises:
        ValueError: shapes differ, or there is no rollout.

    >>> metrics = gradient_share_metrics(np.array([0, 0, 1, 1, 1, 1]), np.array([1.0, 1, 0.5, 0.5, 0.5, 0.5]))
    >>> metrics["gradient_share/budget_2_3"], metrics["gradient_share/budget_4_7"], metrics["gradient_share/prompts"]
    (0.5, 0.5, 2.0)
    """
    num_prompts = int(np.max(prompt_index, initial=-1)) + 1
    rollouts = rollouts_per_prompt(prompt_index, num_prompts)
    pulls = sum_per_prompt(prompt_index, pull, num_prompts, "pull")[rollouts > 0]
    if not pulls.any():
        return {}
    shares = pulls / pulls.sum()
    ranges = np.minimum(budget_range(rollouts[rollouts > 0]), _LAST_RANGE)
    by_range = np.bincount(ranges, weights=shares, minlength=len(_RANGE_KEYS))
    return {
        **{key: float(share) for key, share in zip(_RANGE_KEYS, by_range, strict=True)},
        "gradient_share/largest_prompt": float(shares.max()),
        "gradient_share/prompts": float(1.0 / np.sum(shares**2)),
    }


def _range_description(index: int) -> MetricDescription:
    low, high = budget_range_bounds(index)
    rollouts = f"{low} to {high}" if low < high else "one rollout"
    rollouts = f"{low} and more" if index == _LAST_RANGE else rollouts
    named = rollouts if low == high else f"{rollouts} rollouts"
    return MetricDescription(
        "share of the gradient",
        f"part of the sum of |advantage|, as the loss aggregates it, that is from prompts with {named} in this step",
        "The large budgets have nearly all of it: few prompts move the policy. Set algorithm.prompt_weight to sqrt.",
    )


GRADIENT_SHARE_METRICS: dict[str, MetricDescription] = {
    **{key: _range_description(index) for index, key in enumerate(_RANGE_KEYS)},
    "gradient_share/largest_prompt": MetricDescription(
        "share of the gradient",
        "part of the sum of |advantage|, as the loss aggregates it, that is from the one prompt with most of it",
        "Above 0.2: the step is about one prompt; set algorithm.prompt_weight to sqrt, or lower n_up.",
    ),
    "gradient_share/prompts": MetricDescription(
        "prompts",
        "number of equal prompts that would give as even a gradient: (sum of g_i)^2 / sum of g_i^2, with g_i the sum "
        "of |advantage| of a prompt as the loss aggregates it",
        "Far below training/num_effective_prompts: few of them decide; set algorithm.prompt_weight to sqrt.",
    ),
}
"""Keys of `gradient_share_metrics`."""
