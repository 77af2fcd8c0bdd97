"""The gradient of a mini-batch, which does not depend on how the mini-batch is cut.

Upstream's actor and critic aggregate the loss of each micro-batch by itself and weigh the results alike, or by their
rows. So the gradient depends on ``ppo_micro_batch_size_per_gpu``, on the dynamic batches, and on how rows meet on the
workers: a token counts for more beside short responses than beside long ones. With an uneven number of rollouts per
prompt that bias favours some prompts over others.

Here a mini-batch is all rows, of all workers, that one optimizer step is made from. Its loss, and the weight that the
loss of a micro-batch of ``t`` tokens and ``s`` rows has in it, are by ``loss_agg_mode``:

========================  ===============================================  ======
loss_agg_mode             loss of T tokens and S rows                      weight
========================  ===============================================  ======
token-mean                sum of all tokens' losses / T                    t / T
seq-mean-token-sum        sum of all tokens' losses / S                    s / S
seq-mean-token-mean       sum of the rows' mean losses / S                 s / S
seq-mean-token-sum-norm   sum of all tokens' losses / (response length)    1
========================  ===============================================  ======

The entropy and KL terms are aggregated in the same way, and therefore have the same weights. What upstream computes
within a micro-batch by other rules stays as it is: which tokens ``clip_cov`` and ``kl_cov`` select.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from verl import DataProto

LOSS_SCALES = ("mini_batch", "micro_batch")
"""Values of ``loss_scale_by``: by the mini-batch, as described above; by the micro-batch, as upstream does."""


@dataclass(frozen=True)
class BatchSize:
    """How much a batch holds: its rows, and the response tokens in them that the loss counts."""

    rows: int
    tokens: int


def micro_batch_weight(loss_agg_mode: str, micro_batch: BatchSize, mini_batch: BatchSize) -> float:
    """Return the weight of a micro-batch's aggregated loss in the loss of the mini-batch that it is a part of.

    Raises:
        ValueError: ``loss_agg_mode`` is unknown.

    Example:
        >>> micro_batch_weight("token-mean", BatchSize(rows=8, tokens=30), BatchSize(rows=32, tokens=90))
        0.3333333333333333
        >>> micro_batch_weight("seq-mean-token-mean", BatchSize(rows=8, tokens=30), BatchSize(rows=32, tokens=90))
        0.25
    """
    if loss_agg_mode == "token-mean":
        return micro_batch.tokens / mini_batch.tokens if mini_batch.tokens else 0.0
    if loss_agg_mode in ("seq-mean-token-sum", "seq-mean-token-mean"):
        return micro_batch.rows / mini_batch.rows
    if loss_agg_mode == "seq-mean-token-sum-norm":
        return 1.0
    raise ValueError(f"loss_agg_mode={loss_agg_mode!r} has no known weights of micro-batches.")


@dataclass
class _MiniBatch:
    """A mini-batch and the weights of those of its micro-batches that this worker has computed, in their order."""

    size: BatchSize
    loss_weights: list[float] = field(default_factory=list)
    token_weights: list[float] = field(default_factory=list)


class MiniBatchLoss:
    """Mixin for upstream's data-parallel actor and critic: their losses get the weights of this module.

    The configuration's ``loss_scale_by`` chooses (:data:`LOSS_SCALES`, ``mini_batch`` by default). The gradient is
    scaled where it enters the model's output, so that it does not matter which loss is computed from that. Nothing is
    scaled where a micro-batch is the whole mini-batch, on one worker.

    The metrics that upstream reports per micro-batch are reported per mini-batch: the losses as defined above, the
    fractions and means over tokens as means over all its tokens; both of all workers.
    """

    loss_metrics: tuple[str, ...] = ()
    """Upstream's metrics that are aggregated by ``loss_agg_mode``."""

    token_metrics: tuple[str, ...] = ()
    """Upstream's metrics that are means over the tokens of a micro-batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mini_batches: deque[_MiniBatch] = deque()
        self._scales_by_mini_batch = loss_scale_by(self.config) == "mini_batch"

    def _update_by_mini_batch(self, update: Callable[[DataProto], dict[str, Any]], data: DataProto) -> dict[str, Any]:
        """Call ``update`` with ``data`` while gradients are scaled; return its metrics, losses per mini-batch."""
        if not self._scales_by_mini_batch:
            return update(data)
        mask = data.batch["response_mask"]
        sizes = global_mini_batch_sizes(mask, self.config.ppo_mini_batch_size, self.ulysses_sequence_parallel_size)
        mini_batches = [_MiniBatch(size) for _ in range(self.config.ppo_epochs) for size in sizes]
        self._mini_batches = deque(mini_batches)
        try:
            metrics = update(data)
        finally:
            self._mini_batches.clear()
        metrics.update(self._metrics_by_mini_batch(metrics, mini_batches, mask.device))
        return metrics

    def _forward_micro_batch(self, micro_batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        outputs = super()._forward_micro_batch(micro_batch, *args, **kwargs)
        if self._mini_batches:
            scale = self._gradient_scale(micro_batch["response_mask"], self._mini_batches[0])
            for output in outputs if isinstance(outputs, tuple) else (outputs,):
                scale_gradient(output, scale)
        return outputs

    def _optimizer_step(self) -> torch.Tensor:
        grad_norm = super()._optimizer_step()
        if self._mini_batches:
            self._mini_batches.popleft()
        return grad_norm

    def _gradient_scale(self, response_mask: torch.Tensor, mini_batch: _MiniBatch) -> float:
        """Return what to multiply upstream's gradient of a micro-batch by, and note the weights of its metrics."""
        size = BatchSize(rows=response_mask.shape[0], tokens=int(response_mask.sum()))
        weight = micro_batch_weight(self.config.loss_agg_mode, size, mini_batch.size)
        mini_batch.loss_weights.append(weight)
        mini_batch.token_weights.append(micro_batch_weight("token-mean", size, mini_batch.size))
        # Gradients are averaged over the workers, but the weights are shares of all workers' mini-batch.
        num_workers = torch.distributed.get_world_size() // self.ulysses_sequence_parallel_size
        return weight * num_workers / self._upstream_weight(size)

    def _upstream_weight(self, micro_batch: BatchSize) -> float:
        if self.config.use_dynamic_bsz:
            return micro_batch.rows / self.config.ppo_mini_batch_size
        return 1 / (self.config.ppo_mini_batch_size // self.config.ppo_micro_batch_size_per_gpu)

    def _metrics_by_mini_batch(
        self, metrics: Mapping[str, Any], mini_batches: Sequence[_MiniBatch], device: torch.device
    ) -> dict[str, list[float]]:
        kinds = ((self.loss_metrics, "loss_weights"), (self.token_metrics, "token_weights"))
        weights_by_name = {
            name: [getattr(mini_batch, weights) for mini_batch in mini_batches]
            for names, weights in kinds
            for name in names
            if name in metrics
        }
        sums = [_weighted_sums(metrics[name], weights) for name, weights in weights_by_name.items()]
        sums = _sum_over_workers(sums, self.ulysses_sequence_parallel_size, device)
        return dict(zip(weights_by_name, sums, strict=True))


def loss_scale_by(config: Any) -> str:
    """Return the ``loss_scale_by`` of an actor's or critic's configuration, ``mini_batch`` where it has none.

    Raises:
        ValueError: it is none of :data:`LOSS_SCALES`.
    """
    value = config.get("loss_scale_by", LOSS_SCALES[0])
    if value not in LOSS_SCALES:
        raise ValueError(f"loss_scale_by={value!r} is not accepted: expected one of {', '.join(LOSS_SCALES)}.")
    return value


def global_mini_batch_sizes(response_mask: torch.Tensor, rows_per_mini_batch: int, copies: int = 1) -> list[BatchSize]:
    """Return the sizes of all mini-batches, each counted over the parts that the workers hold of it.

    Args:
        response_mask: (B, response length), nonzero on the tokens that the loss counts; this worker's rows.
        rows_per_mini_batch: this worker's rows of a mini-batch; the last one has the rest.
        copies: on how many workers every row is (the size of the sequence parallelism).
    """
    parts = response_mask.sum(dim=-1).split(rows_per_mini_batch)
    counts = torch.stack([torch.tensor([len(part), int(part.sum())]) for part in parts]).to(response_mask.device)
    torch.distributed.all_reduce(counts)
    return [BatchSize(rows, tokens) for rows, tokens in (counts // copies).tolist()]


def scale_gradient(output: torch.Tensor | None, scale: float) -> None:
    """Multiply every gradient that will flow back into ``output`` by ``scale``; 1 leaves it untouched."""
    if scale != 1.0 and output is not None and output.requires_grad:
        output.register_hook(lambda gradient: gradient * scale)


def _weighted_sums(values: Sequence[float], weights_of_parts: Sequence[Sequence[float]]) -> list[float]:
    """Return the weighted sum of each part of ``values``; the parts follow each other and are as long as weights."""
    remaining = iter(values)
    return [sum(weight * next(remaining) for weight in weights) for weights in weights_of_parts]


def _sum_over_workers(values: list[list[float]], copies: int, device: torch.device) -> list[list[float]]:
    """Return the sums over all workers, on ``copies`` of which every value is."""
    if torch.distributed.get_world_size() == 1 or not values:
        return values
    summed = torch.tensor(values, device=device)
    torch.distributed.all_reduce(summed)
    return (summed / copies).tolist()
