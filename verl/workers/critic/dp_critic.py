"""Overlay of ``verl.workers.critic.dp_critic``: the gradient of a mini-batch does not depend on how it is cut."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.upstream import keep_upstream_names
from verl.upstream.workers.critic.dp_critic import DataParallelPPOCritic as UpstreamCritic
from verl.workers.mini_batch_loss import MiniBatchLoss

__all__ = ["DataParallelPPOCritic"]


class DataParallelPPOCritic(MiniBatchLoss, UpstreamCritic):
    """Upstream's FSDP critic, with the losses of :mod:`verl.workers.mini_batch_loss`.

    ``critic.loss_scale_by=micro_batch`` keeps upstream's. Megatron's critic always has upstream's.
    """

    loss_metrics = ("critic/vf_loss",)
    token_metrics = ("critic/vf_clipfrac", "critic/vpred_mean")

    def update_critic(self, data: DataProto) -> dict[str, Any]:
        """Update as upstream does; the metrics hold one value per mini-batch."""
        return self._update_by_mini_batch(super().update_critic, data)


keep_upstream_names(globals())
