"""Overlay of ``verl.trainer.ppo.metric_utils``: upstream's metrics and those of exploration."""

from __future__ import annotations

import torch

from verl import DataProto
from verl.trainer.ppo.validation_metrics import process_validation_metrics
from verl.upstream import keep_upstream_names
from verl.upstream.trainer.ppo.metric_utils import (
    bootstrap_metric,
    calc_maj_val,
    compute_data_metrics,
    compute_throughout_metrics,
    compute_timing_metrics,
    reduce_metrics,
)

__all__ = [
    "bootstrap_metric",
    "calc_maj_val",
    "compute_data_metrics",
    "compute_rollout_policy_metrics",
    "compute_throughout_metrics",
    "compute_timing_metrics",
    "process_validation_metrics",
    "reduce_metrics",
]


def compute_rollout_policy_metrics(batch: DataProto) -> dict[str, float]:
    """Compare the rollout engine's token probabilities with the training policy's at the same weights.

    Returns:
        ``training/rollout_probs_diff_{max,mean,std}`` over the response tokens; empty if the batch has no
        ``rollout_log_probs``. A mean above 0.01 says that the two engines compute different policies.
    """
    if "rollout_log_probs" not in batch.batch:
        return {}
    on_response = batch.batch["response_mask"].bool()
    rollout = torch.exp(batch.batch["rollout_log_probs"])[on_response]
    training = torch.exp(batch.batch["old_log_probs"])[on_response]
    difference = (rollout - training).abs()
    return {
        "training/rollout_probs_diff_max": difference.max().item(),
        "training/rollout_probs_diff_mean": difference.mean().item(),
        "training/rollout_probs_diff_std": difference.std().item(),
    }


keep_upstream_names(globals())
