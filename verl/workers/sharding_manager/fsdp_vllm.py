"""Overlay of ``verl.workers.sharding_manager.fsdp_vllm``: weights go from the actor to vLLM, and its caches with them.

Upstream leaves vLLM's prefix cache as it is unless the engine sleeps between rollouts: with
``rollout.free_cache_engine=false`` prompts longer than a cache block would be continued from keys and values of the
previous weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from verl.utils.device import get_device_id, get_device_name
from verl.utils.newer_versions import apply_vllm_shims, reload_weights, reloads_weights_from_iterator

apply_vllm_shims()

from verl.upstream import keep_upstream_names  # noqa: E402  (needs the shims)
from verl.upstream.workers.sharding_manager import fsdp_vllm as upstream  # noqa: E402
from verl.utils.vllm_utils import TensorLoRARequest  # noqa: E402

__all__ = ["ADAPTER_ID", "FSDPVLLMShardingManager", "cached_blocks"]

# The number by which requests to an asynchronous engine name the actor's LoRA adapter.
ADAPTER_ID = 1


class FSDPVLLMShardingManager(upstream.FSDPVLLMShardingManager):
    """Upstream's sharding manager, on a GPU or a CPU, whose weight sync leaves nothing behind of the old weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        construct = upstream.FSDPVLLMShardingManager.__init__
        if get_device_name() == "cpu":
            # Upstream's decorator refuses a machine without an accelerator.
            construct = inspect.unwrap(construct)
        construct(self, *args, **kwargs)
        if self.inference_engine is None:
            # An asynchronous engine, made later, reads its weights from the model's files (load_format "auto").
            self.base_sync_done = True

    def update_params(self, updated_params: Mapping[str, torch.Tensor], peft_config: Any = None) -> None:
        """Load ``updated_params``, the actor's state by parameter name, into vLLM; forget what was computed before.

        Raises:
            RuntimeError: vLLM could not drop its prefix cache, because requests are still running.
        """
        if peft_config is not None and self._is_asynchronous:
            self._replace_adapter(updated_params, peft_config)
        elif peft_config is None and reloads_weights_from_iterator(self.model_runner):
            reload_weights(self.model_runner, _gathered(updated_params.items()))
            self.base_sync_done = True
        else:
            super().update_params(updated_params, peft_config=peft_config)
        self._reset_prefix_cache()

    @property
    def _is_asynchronous(self) -> bool:
        """Whether the engine here is one worker of it only, whose scheduler is in another process."""
        return not hasattr(self.inference_engine, "llm_engine")

    def _replace_adapter(self, tensors: Mapping[str, torch.Tensor], peft_config: Any) -> None:
        worker = self.inference_engine.worker
        worker.remove_lora(ADAPTER_ID)
        worker.add_lora(
            TensorLoRARequest(
                lora_name="actor",
                lora_int_id=ADAPTER_ID,
                lora_path="in memory",
                peft_config=asdict(peft_config),
                lora_tensors=tensors,
            )
        )

    def _reset_prefix_cache(self) -> None:
        if self._is_asynchronous:
            return  # StrictScheduler looks after it
        has_dropped = self.inference_engine.reset_prefix_cache()
        if has_dropped is None:  # vLLM 0.10.2 and before never tell
            has_dropped = not cached_blocks(self.inference_engine.llm_engine)
        if not has_dropped:
            raise RuntimeError(
                "vLLM did not drop its prefix cache after a weight sync (requests still running): its rollouts would "
                "mix old and new weights."
            )


def cached_blocks(llm_engine: Any) -> int:
    """Return how many blocks of keys and values an engine in this process would share with further requests."""
    scheduler = llm_engine.engine_core.engine_core.scheduler
    return len(scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block)


def _gathered(parameters: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    device = get_device_id()
    for name, parameter in parameters:
        if isinstance(parameter, DTensor):
            parameter = parameter.to(device, non_blocking=True).full_tensor()
        yield name, parameter


keep_upstream_names(globals())
