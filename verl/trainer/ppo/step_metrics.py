"""verl's own metrics of a step: data, timing, throughput."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.trainer.ppo.metric_utils import compute_data_metrics, compute_throughout_metrics, compute_timing_metrics

__all__ = ["batch_metrics"]


def batch_metrics(batch: DataProto, timing: dict[str, float], *, use_critic: bool, num_gpus: int) -> dict[str, Any]:
    """Return what verl logs of a batch that was trained on, and of the seconds that each phase took."""
    return {
        **compute_data_metrics(batch=batch, use_critic=use_critic),
        **compute_timing_metrics(batch=batch, timing_raw=timing),
        **compute_throughout_metrics(batch=batch, timing_raw=timing, n_gpus=num_gpus),
    }
