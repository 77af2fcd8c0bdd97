"""Overlay of ``verl.workers.actor.dp_actor``: the gradient of a mini-batch does not depend on how it is cut."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.upstream import keep_upstream_names
from verl.upstream.workers.actor.dp_actor import DataParallelPPOActor as UpstreamActor
from verl.workers.mini_batch_loss import MiniBatchLoss

__all__ = ["DataParallelPPOActor"]


class DataParallelPPOActor(MiniBatchLoss, UpstreamActor):
    """Upstream's FSDP actor, with the losses of :mod:`verl.workers.mini_batch_loss`.

    ``actor_rollout_ref.actor.loss_scale_by=micro_batch`` keeps upstream's. Megatron's actor always has upstream's.
    """

    loss_metrics = ("actor/pg_loss", "actor/kl_loss")
    token_metrics = ("actor/pg_clipfrac", "actor/ppo_kl", "actor/pg_clipfrac_lower")

    def update_policy(self, data: DataProto) -> dict[str, Any]:
        """Update as upstream does; the metrics hold one value per mini-batch."""
        return self._update_by_mini_batch(super().update_policy, data)


keep_upstream_names(globals())
