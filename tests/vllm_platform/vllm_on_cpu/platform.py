"""The platform: vLLM's own CPU platform without the C++ kernels that only wheels built for CPUs have."""

from typing import Any

from vllm.platforms.cpu import CpuPlatform

_CPU_WORKER = "vllm.v1.worker.cpu_worker.CPUWorker"


class PlainTorchPlatform(CpuPlatform):
    """Runs every layer by its PyTorch implementation, in the executor that it is given."""

    # A C++ compiler would take every process 20 seconds for a function of the sampler.
    simple_compile_backend = "eager"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        parallel_config = vllm_config.parallel_config
        executor = parallel_config.distributed_executor_backend
        super().check_and_update_config(vllm_config)
        # vLLM's CPU platform would start processes of its own for tensor parallelism; verl brings its workers.
        parallel_config.distributed_executor_backend = executor
        vllm_config.compilation_config.custom_ops = ["none"]
        if parallel_config.worker_cls == _CPU_WORKER:
            parallel_config.worker_cls = "vllm_on_cpu.worker.PlainTorchWorker"

    @classmethod
    def get_attn_backend_cls(cls, *args: Any, **kwargs: Any) -> str:
        super().get_attn_backend_cls(*args, **kwargs)  # refuses what needs kernels
        return "vllm_on_cpu.attention.PlainTorchBackend"

    def is_sleep_mode_available(self) -> bool:
        return True
