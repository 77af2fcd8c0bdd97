"""A CPU platform for verl 0.9, which ships none: for tests. Loaded by ``VERL_USE_EXTERNAL_MODULES=cpu_platform``.

The processes of a run take Ray's resource "GPU", of which the tests give a local cluster as many as it has ranks.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed
import wrapt

from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, set_platform

# Beside each other's processes on few cores; Ray sets its own default in every worker.
torch.set_num_threads(1)


class CpuDevice(types.ModuleType):
    """What verl expects of ``torch.cuda``, on a CPU."""

    _ANSWERS: dict[str, Any] = {
        "memory_allocated": 0,
        "memory_reserved": 0,
        "max_memory_allocated": 0,
        "max_memory_reserved": 0,
        "mem_get_info": (1 << 30, 1 << 30),
        "get_device_name": "CPU",
    }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if hasattr(torch.cpu, name):
            return getattr(torch.cpu, name)
        if name == "get_rng_state":
            return lambda *args, **kwargs: torch.get_rng_state()
        if name == "set_rng_state":
            return lambda state, *args, **kwargs: torch.set_rng_state(state)
        return lambda *args, **kwargs: self._ANSWERS.get(name)


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = CpuDevice("cpu_device")

    def is_available(self) -> bool:
        return False

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextlib.contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    profiler_stop = profiler_start

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


set_platform(CpuPlatform())


@wrapt.patch_function_wrapper("torch.distributed", "init_process_group")
def _name_gloo_once(wrapped: Any, instance: Any, args: tuple, kwargs: dict) -> Any:
    # verl asks for "cpu:gloo,<device>:<its backend>", which torch refuses where both are the CPU's.
    if str(kwargs.get("backend", "")).count("cpu:gloo") > 1:
        kwargs["backend"] = "cpu:gloo"
    return wrapped(*args, **kwargs)


@wrapt.when_imported("verl.workers.engine.fsdp.transformer_impl")
def _register_fsdp(engines: Any) -> None:
    engines.EngineRegistry.register("language_model", ["fsdp", "fsdp2"], "cpu")(engines.FSDPEngineWithLMHead)
