"""The worker: vLLM's own CPU worker with a sleep that is noticed by whoever reads what slept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from vllm.model_executor.utils import set_random_seed
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import init_worker_distributed_environment


class PlainTorchWorker(CPUWorker):
    """Sleeps as a GPU's worker does: what is offloaded or discarded is NaN until it is woken or written anew.

    Level 1 keeps a copy of the weights and gives it back; level 2 keeps buffers only. The key-value cache is never
    given back: it stays NaN until new tokens are written to it.
    """

    _kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def init_device(self) -> None:
        """Join the process group and make the model runner, as vLLM does but for the binding of threads to cores.

        Binding is a C++ kernel's work, and counts verl's ranks wrong as soon as there are several engines.
        """
        init_worker_distributed_environment(
            self.vllm_config, self.rank, self.distributed_init_method, self.local_rank, "gloo"
        )
        set_random_seed(self.model_config.seed)
        self.model_runner = CPUModelRunner(self.vllm_config, torch.device("cpu"))

    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager:
        return nullcontext()

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        self.model_runner.initialize_kv_cache(kv_cache_config)

    @torch.inference_mode()
    def sleep(self, level: int = 1) -> None:
        """Fill the weights and the key-value cache with NaN."""
        if self._kept is not None:
            return
        kept = self._weights() if level == 1 else self._buffers()
        self._kept = [(tensor, tensor.clone()) for tensor in kept]
        for tensor in (*self._weights(), *self.model_runner.kv_caches):
            tensor.fill_(torch.nan)

    @torch.inference_mode()
    def wake_up(self, tags: list[str] | None = None) -> None:
        """Give back what was kept of the weights, unless only the cache (``tags``) is woken."""
        if self._kept is None or (tags is not None and "weights" not in tags):
            return
        for tensor, copy in self._kept:
            tensor.copy_(copy)
        self._kept = None

    def _weights(self) -> list[torch.Tensor]:
        floating = (tensor for tensor in self.model_runner.model.parameters() if tensor.is_floating_point())
        return [*floating, *self._buffers()]

    def _buffers(self) -> Iterator[torch.Tensor]:
        return (tensor for tensor in self.model_runner.model.buffers() if tensor.is_floating_point())
