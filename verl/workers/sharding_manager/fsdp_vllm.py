"""Overlay of ``verl.workers.sharding_manager.fsdp_vllm``: weights go from the actor to vLLM, and its caches with them.

Upstream leaves vLLM's prefix cache as it is unless the engine sleeps between rollouts: with
``rollout.free_cache_engine=false`` prompts longer than a cache block would be continued from keys and values of the
previous weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from verl.utils.device import get_device_id, get_device_name
from verl.utils.newer_versions import apply_vllm_shims, reload_weights, reloads_weights_from_iterator

apply_vllm_shims()

from verl.upstream.workers.sharding_manager import fsdp_vllm as upstream  # noqa: E402  (needs the shims)

__all__ = ["FSDPVLLMShardingManager"]


class FSDPVLLMShardingManager(upstream.FSDPVLLMShardingManager):
    """Upstream's sharding manager, on a GPU or a CPU, whose weight sync leaves nothing behind of the old weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        construct = upstream.FSDPVLLMShardingManager.__init__
        if get_device_name() == "cpu":
            # Upstream's decorator refuses a machine without an accelerator.
            construct = inspect.unwrap(construct)
        construct(self, *args, **kwargs)

    def update_params(self, updated_params: Mapping[str, torch.Tensor], peft_config: Any = None) -> None:
        """Load ``updated_params``, the actor's state by parameter name, into vLLM; forget what was computed before.

        Raises:
            RuntimeError: vLLM could not drop its prefix cache, because requests are still running.
        """
        if peft_config is None and reloads_weights_from_iterator(self.model_runner):
            reload_weights(self.model_runner, _gathered(updated_params.items()))
            self.base_sync_done = True
        else:
            super().update_params(updated_params, peft_config=peft_config)
        self._reset_prefix_cache()

    def _reset_prefix_cache(self) -> None:
        # With asynchronous rollouts, which only upstream's trainer accepts, the engine is a worker without the
        # scheduler: it has no prefix cache to reset.
        reset = getattr(self.inference_engine, "reset_prefix_cache", None)
        if reset is not None and reset() is False:
            raise RuntimeError(
                "vLLM did not drop its prefix cache after a weight sync (requests still running): its rollouts would "
                "mix old and new weights."
            )


def _gathered(parameters: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    device = get_device_id()
    for name, parameter in parameters:
        if isinstance(parameter, DTensor):
            parameter = parameter.to(device, non_blocking=True).full_tensor()
        yield name, parameter
