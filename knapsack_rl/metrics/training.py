"""What the trainer itself adds to the metrics of exploration."""

from __future__ import annotations

from knapsack_rl.metrics.descriptions import MetricDescription

__all__ = ["TRAINER_METRICS"]

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
