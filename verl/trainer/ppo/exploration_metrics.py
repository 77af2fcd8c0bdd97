"""Metrics of exploration: is the budget spent where there is something to learn, and can the estimates be trusted?

Pure functions over arrays that return flat dicts. B is the number of rollouts of a step, M the number of its prompts.
`METRICS` explains every key. A metric that is not defined at a step (estimates, while nothing was seen yet) is left
out of the dict.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from verl.trainer.ppo.exploration_utils import rollouts_for_confidence

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
    "outcome_metrics",
    "prediction_metrics",
]


class MetricDescription(NamedTuple):
    """What a reader of a training curve needs to know about one metric."""

    unit: str
    meaning: str
    when_wrong: str


def compute_exploration_metrics(
    *,
    prompt_index: np.ndarray,
    successes: np.ndarray,
    scores: np.ndarray,
    effective: np.ndarray,
    success_rates: np.ndarray,
    budgets: np.ndarray,
    n_low: int,
    n_up: int,
    fallback_rollouts: int = 0,
    fallback_confidence: float = 0.9,
    predicted_effective_ratio: float | None = None,
) -> dict[str, float]:
    """All metrics of this module for one step.

    Args:
        prompt_index: (B,) integers in [0, M): the prompt of each rollout.
        successes: (B,) bool: did the rollout succeed?
        scores: (B,) float: sequence-level score of the rollout.
        effective: (B,) bool: is the rollout's policy gradient non-zero?
        success_rates: (M,) float: the estimates that the allocation used; NaN = unseen.
        budgets: (M,) integers: rollouts that the allocation gave to each prompt.
        n_low, n_up: bounds of the allocation, in rollouts.
        fallback_rollouts: rollouts that the fallback placed on prompts with success rate 0.
        fallback_confidence: alpha of Theorem 1, in (0, 1).
        predicted_effective_ratio: the allocation's forecast over seen prompts, in [0, 1]; None or NaN if it has none.

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
        **prediction_metrics(prompt_index, effective, success_rates, predicted_effective_ratio),
        **belief_metrics(prompt_index, successes, success_rates),
    }


def effective_gradient_metrics(prompt_index: np.ndarray, effective: np.ndarray, num_prompts: int) -> dict[str, float]:
    """Share and number of rollouts and prompts with a non-zero policy gradient (paper, equation 4).

    >>> effective_gradient_metrics(np.array([0, 0, 1, 1]), np.array([True, True, False, False]), 2)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'training/effective_gradient_ratio': 0.5, 'training/effective_prompt_ratio': 0.5,
     'training/num_effective_prompts': 1.0, 'training/num_effective_samples': 2.0}
    """
    rollouts = _rollouts_per_prompt(prompt_index, num_prompts)
    effective_rollouts = _sum_per_prompt(prompt_index, effective, num_prompts, "effective")
    num_effective_prompts = float(np.sum(effective_rollouts > 0))
    return {
        "training/effective_gradient_ratio": float(effective_rollouts.sum() / rollouts.sum()),
        "training/effective_prompt_ratio": num_effective_prompts / float(np.sum(rollouts > 0)),
        "training/num_effective_prompts": num_effective_prompts,
        "training/num_effective_samples": float(effective_rollouts.sum()),
    }


def outcome_metrics(
    prompt_index: np.ndarray, successes: np.ndarray, scores: np.ndarray, num_prompts: int
) -> dict[str, float]:
    """What the rollouts of this step say about the prompts, every prompt counted once.

    Prompts without rollouts are left out. Observed success rate p: successes / rollouts of the prompt in this step.
    """
    rollouts = _rollouts_per_prompt(prompt_index, num_prompts)
    is_sampled = rollouts > 0
    rollouts = rollouts[is_sampled]
    rates = _sum_per_prompt(prompt_index, successes, num_prompts, "successes")[is_sampled] / rollouts
    mean_scores = _sum_per_prompt(prompt_index, scores, num_prompts, "scores")[is_sampled] / rollouts
    metrics = {
        "prompt/all_positive_ratio": float(np.mean(rates == 1.0)),
        "prompt/all_negative_ratio": float(np.mean(rates == 0.0)),
        "prompt/positive_coverage_ratio": float(np.mean(rates > 0.0)),
        "prompt/negative_coverage_ratio": float(np.mean(rates < 1.0)),
        "training/prompt_mean_score": float(np.mean(mean_scores)),
    }
    for name, is_member in _difficulties(rates).items():
        metrics[f"prompt/{name}_count"] = float(np.sum(is_member))
        metrics[f"prompt/{name}_ratio"] = float(np.mean(is_member))
    return metrics


def allocation_metrics(
    budgets: np.ndarray,
    success_rates: np.ndarray,
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
    _check_same_shape("budgets", budgets, "success_rates", success_rates)
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


def prediction_metrics(
    prompt_index: np.ndarray,
    effective: np.ndarray,
    success_rates: np.ndarray,
    predicted_effective_ratio: float | None,
) -> dict[str, float]:
    """The allocation's forecast of the effective-gradient ratio against what came, on seen prompts only.

    Empty if there is no forecast or no rollout belongs to a seen prompt.
    """
    is_seen = ~np.isnan(np.asarray(success_rates, dtype=np.float64))
    rollouts = _rollouts_per_prompt(prompt_index, len(is_seen))[is_seen]
    effective_rollouts = _sum_per_prompt(prompt_index, effective, len(is_seen), "effective")[is_seen]
    if predicted_effective_ratio is None or np.isnan(predicted_effective_ratio) or rollouts.sum() == 0:
        return {}
    observed = float(effective_rollouts.sum() / rollouts.sum())
    return {
        "allocation/predicted_effective_gradient_ratio": float(predicted_effective_ratio),
        "allocation/observed_effective_gradient_ratio": observed,
        "allocation/effective_gradient_ratio_error": float(predicted_effective_ratio) - observed,
    }


def belief_metrics(prompt_index: np.ndarray, successes: np.ndarray, success_rates: np.ndarray) -> dict[str, float]:
    """How well the estimates foretold this step's outcomes, on seen prompts only, every prompt counted once.

    Empty if no rollout belongs to a seen prompt.
    """
    success_rates = np.asarray(success_rates, dtype=np.float64)
    rollouts = _rollouts_per_prompt(prompt_index, len(success_rates))
    success_counts = _sum_per_prompt(prompt_index, successes, len(success_rates), "successes")
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


def brier_score(predicted: np.ndarray, successes: np.ndarray, rollouts: np.ndarray) -> float:
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


def calibration_error(predicted: np.ndarray, successes: np.ndarray, rollouts: np.ndarray, bins: int = 10) -> float:
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


def _predicted_and_observed(
    predicted: np.ndarray, successes: np.ndarray, rollouts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, observed) success rates of the prompts that have both."""
    predicted = np.asarray(predicted, dtype=np.float64)
    successes, rollouts = np.asarray(successes), np.asarray(rollouts)
    _check_same_shape("predicted", predicted, "successes", successes)
    _check_same_shape("predicted", predicted, "rollouts", rollouts)
    is_known = ~np.isnan(predicted) & (rollouts > 0)
    predicted, successes, rollouts = predicted[is_known], successes[is_known], rollouts[is_known]
    if np.any((predicted < 0) | (predicted > 1)):
        raise ValueError(f"predicted success rates must be in [0, 1], got {predicted.min()} to {predicted.max()}")
    if np.any((successes < 0) | (successes > rollouts)):
        worst = int(np.argmax(np.maximum(successes - rollouts, -successes)))
        raise ValueError(f"{successes[worst]} successes among {rollouts[worst]} rollouts is impossible")
    return predicted, successes / rollouts


def _difficulties(rates: np.ndarray) -> dict[str, np.ndarray]:
    """Members of the five difficulty classes of the paper's figure 7; every rate belongs to exactly one."""
    return {
        "extremely_hard": rates == 0.0,
        "hard": (rates > 0.0) & (rates <= 0.2),
        "medium": (rates > 0.2) & (rates < 0.8),
        "easy": (rates >= 0.8) & (rates < 1.0),
        "extremely_easy": rates == 1.0,
    }


def _rollouts_per_prompt(prompt_index: np.ndarray, num_prompts: int) -> np.ndarray:
    prompt_index = np.asarray(prompt_index)
    if prompt_index.ndim != 1 or len(prompt_index) == 0:
        raise ValueError(f"prompt_index must hold the prompt of at least one rollout, got shape {prompt_index.shape}")
    if prompt_index.min() < 0 or prompt_index.max() >= num_prompts:
        raise ValueError(
            f"prompt_index must lie in [0, {num_prompts}), got {prompt_index.min()} to {prompt_index.max()}"
        )
    return np.bincount(prompt_index, minlength=num_prompts)


def _sum_per_prompt(prompt_index: np.ndarray, values: np.ndarray, num_prompts: int, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    _check_same_shape("prompt_index", np.asarray(prompt_index), name, values)
    return np.bincount(prompt_index, weights=values, minlength=num_prompts)


def _check_same_shape(name: str, array: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if array.shape != other.shape:
        raise ValueError(f"{name} and {other_name} must have the same shape, got {array.shape} and {other.shape}")


def _difficulty_descriptions() -> dict[str, MetricDescription]:
    advice = {
        "extremely_hard": "Stays high: no signal reaches these prompts. Check that the answers can be right at all "
        "(reward function, response length), that the fallback is on and n_up is large.",
        "hard": "Normal to shrink slowly. Grows while accuracy falls: the policy gets worse, lower the learning rate.",
        "medium": "The prompts with most to learn from. Near 0: the data are too easy or too hard for this model.",
        "easy": "Normal to grow as training goes on.",
        "extremely_easy": "Near 1: training is saturated, harder data are needed.",
    }
    ranges = {
        "extremely_hard": "p = 0",
        "hard": "0 < p <= 0.2",
        "medium": "0.2 < p < 0.8",
        "easy": "0.8 <= p < 1",
        "extremely_easy": "p = 1",
    }
    descriptions = {}
    for name, interval in ranges.items():
        meaning = f"prompts whose success rate in this step is {interval}"
        descriptions[f"prompt/{name}_count"] = MetricDescription("prompts", f"number of {meaning}", advice[name])
        descriptions[f"prompt/{name}_ratio"] = MetricDescription(
            "share of prompts", f"share of {meaning}", advice[name]
        )
    return descriptions


_IMBALANCE_ADVICE = "Well above 1: workers wait for the fullest one. Try the other dispatch mode or fewer workers."

METRICS: dict[str, MetricDescription] = {
    "training/effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "rollouts with a non-zero policy gradient / all rollouts (paper, equation 4)",
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
        "prompts whose rollouts all failed / prompts",
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
    "allocation/predicted_effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "sum of N_i (1 - p_i^N_i - (1-p_i)^N_i) / sum of N_i over seen prompts, p_i being the estimates",
        "See allocation/effective_gradient_ratio_error.",
    ),
    "allocation/observed_effective_gradient_ratio": MetricDescription(
        "share of rollouts",
        "rollouts of seen prompts with a non-zero gradient / rollouts of seen prompts",
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
    "dispatch/row_imbalance": MetricDescription(
        "ratio", "most rollouts on a worker / mean rollouts of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/token_imbalance": MetricDescription(
        "ratio", "most response tokens on a worker / mean response tokens of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/time_imbalance": MetricDescription(
        "ratio", "longest generation time of a worker / mean generation time of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/split_prompts": MetricDescription(
        "prompts",
        "number of prompts whose rollouts lie on more than one worker",
        "At least the number of workers although dispatch is packed: the order did not reach the workers.",
    ),
    "dispatch/workers_per_prompt": MetricDescription(
        "workers",
        "mean number of workers that a prompt's rollouts lie on; each of them processes the prompt itself",
        "High with long prompts: the same prompt is processed again and again; set dispatch to packed.",
    ),
}

TRAINER_METRICS: dict[str, MetricDescription] = {
    "training/cumulative_rollouts": MetricDescription(
        "rollouts",
        "rollouts generated since the start of training, resumed parts and filtered ones included",
        "Compare runs at equal values of this, not at equal steps, once their budgets differ.",
    ),
    "actor/adv_clip_ratio": MetricDescription(
        "share of tokens",
        "response tokens whose advantage was clipped to +-algorithm.adv_clip",
        "Above a few percent: one success among N has advantage (N-1)/sqrt(N), so large groups are being clipped; "
        "lower n_up or raise adv_clip.",
    ),
    "training/rollout_probs_diff_mean": MetricDescription(
        "probability",
        "mean over response tokens of |rollout engine's - training policy's| token probability, same weights",
        "Above 0.01: the engines compute different policies; check dtypes, set exploration.rollout_is_cap.",
    ),
    "training/rollout_probs_diff_max": MetricDescription(
        "probability", "as the mean, the largest", "As training/rollout_probs_diff_mean."
    ),
    "training/rollout_probs_diff_std": MetricDescription(
        "probability", "as the mean, the standard deviation", "As training/rollout_probs_diff_mean."
    ),
    "training/rollout_is_weight_mean": MetricDescription(
        "ratio",
        "mean truncated importance weight min(pi_training / pi_rollout, exploration.rollout_is_cap) over tokens",
        "Far below 1: the rollout engine samples from another policy than is trained.",
    ),
    "training/rollout_is_capped_ratio": MetricDescription(
        "share of tokens",
        "response tokens whose importance weight reached the cap",
        "Above 0.01: the rollout engine samples from another policy than is trained.",
    ),
    "training/num_generations": MetricDescription(
        "batches",
        "batches generated for this step (dynamic sampling)",
        "At exploration.dynamic_sampling.max_generations: few prompts have mixed rewards; combine with the knapsack.",
    ),
    "training/reached_max_generations": MetricDescription(
        "0 or 1",
        "1 if the step trained on what it had at the cap on generations (dynamic sampling)",
        "1 at most steps: raise max_generations or turn dynamic sampling off.",
    ),
    "timing_s/allocate": MetricDescription(
        "seconds",
        "estimating success rates, solving the knapsack and ordering the rows",
        "Above 0.1: a custom value function is slow or not concave (then the dynamic programme solves it).",
    ),
    "timing_s/observe": MetricDescription(
        "seconds", "recording the outcomes in task status and history", "Above 0.1: the run folder's disk is slow."
    ),
}
"""Keys that the trainer adds to those of this module's functions."""
