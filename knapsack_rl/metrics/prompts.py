"""Metrics of the prompts: what the rollouts of a step say about them, every prompt counted once."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.classes import DIFFICULTIES, difficulty_of
from knapsack_rl.metrics.descriptions import MetricDescription
from knapsack_rl.metrics.per_prompt import rollouts_per_prompt, sum_per_prompt

__all__ = ["PROMPT_METRICS", "outcome_metrics"]


def outcome_metrics(prompt_index: Array, successes: Array, scores: Array, num_prompts: int) -> dict[str, float]:
    """What the rollouts of this step say about the prompts, every prompt counted once.

    Prompts without rollouts are left out. Observed success rate p: successes / rollouts of the prompt in this step.
    """
    rollouts = rollouts_per_prompt(prompt_index, num_prompts)
    is_sampled = rollouts > 0
    rollouts = rollouts[is_sampled]
    rates = sum_per_prompt(prompt_index, successes, num_prompts, "successes")[is_sampled] / rollouts
    mean_scores = sum_per_prompt(prompt_index, scores, num_prompts, "scores")[is_sampled] / rollouts
    metrics = {
        "prompt/all_positive_ratio": float(np.mean(rates == 1.0)),
        "prompt/all_negative_ratio": float(np.mean(rates == 0.0)),
        "prompt/positive_coverage_ratio": float(np.mean(rates > 0.0)),
        "prompt/negative_coverage_ratio": float(np.mean(rates < 1.0)),
        "training/prompt_mean_score": float(np.mean(mean_scores)),
    }
    for difficulty, count in zip(DIFFICULTIES, np.bincount(difficulty_of(rates), minlength=len(DIFFICULTIES))):
        metrics[f"prompt/{difficulty.name}_count"] = float(count)
        metrics[f"prompt/{difficulty.name}_ratio"] = float(count / len(rates))
    return metrics


def _difficulty_descriptions() -> dict[str, MetricDescription]:
    advice = {
        "extremely_hard": "Stays high: no signal reaches these prompts. Check that the answers can be right at all "
        "(reward function, response length), that the fallback is on and n_up is large.",
        "hard": "Normal to shrink slowly. Grows while accuracy falls: the policy gets worse, lower the learning rate.",
        "medium": "The prompts with most to learn from. Near 0: the data are too easy or too hard for this model.",
        "easy": "Normal to grow as training goes on.",
        "extremely_easy": "Near 1: training is saturated, harder data are needed.",
    }
    descriptions = {}
    for name, interval in DIFFICULTIES:
        meaning = f"prompts whose success rate in this step is {interval}"
        descriptions[f"prompt/{name}_count"] = MetricDescription("prompts", f"number of {meaning}", advice[name])
        descriptions[f"prompt/{name}_ratio"] = MetricDescription(
            "share of prompts", f"share of {meaning}", advice[name]
        )
    return descriptions


PROMPT_METRICS: dict[str, MetricDescription] = {
    "training/prompt_mean_score": MetricDescription(
        "score",
        "mean over prompts of the mean score of the prompt's rollouts; unlike critic/score/mean it does not weight "
        "prompts by their budget",
        "Compare runs by this one. Falls while critic/score/mean rises: easy prompts are being forgotten; raise n_low.",
    ),
    "prompt/all_positive_ratio": MetricDescription(
        "share of prompts",
        "prompts whose rollouts all succeeded / prompts",
        "High: training is saturated, harder data are needed.",
    ),
    "prompt/all_negative_ratio": MetricDescription(
        "share of prompts",
        "prompts whose rollouts all failed / prompts. It is read from success (acc, or score above the threshold), "
        "not from the gradient",
        "Near 1 from the start: check the reward function, the answer format and the response length.",
    ),
    "prompt/positive_coverage_ratio": MetricDescription(
        "share of prompts",
        "prompts with at least one success / prompts",
        "Stays low: hard prompts are not reached; raise n_up or the total budget, keep the fallback on.",
    ),
    "prompt/negative_coverage_ratio": MetricDescription(
        "share of prompts",
        "prompts with at least one failure / prompts",
        "Near 0: training is saturated, harder data are needed.",
    ),
    **_difficulty_descriptions(),
}
"""Keys of `outcome_metrics`."""
