"""Overlay of ``verl.utils.device``: the CPU as a device on which the whole trainer runs.

``torch.cpu`` lacks many functions that verl calls on ``torch.cuda``. :class:`CPUDevice` supplies them, so that
upstream's workers run unchanged where there is no accelerator. With an accelerator everything is upstream's.
"""

import platform
from typing import Any

import psutil
import torch

from verl.upstream import keep_upstream_names
from verl.upstream.utils import device as upstream_device
from verl.upstream.utils.device import (
    get_device_name,
    get_visible_devices_keyword,
    is_cuda_available,
    is_npu_available,
    is_torch_npu_available,
)

__all__ = [
    "CPUDevice",
    "get_device_id",
    "get_device_name",
    "get_nccl_backend",
    "get_torch_device",
    "get_visible_devices_keyword",
    "is_cuda_available",
    "is_npu_available",
    "is_torch_npu_available",
]


class CPUDevice:
    """``torch.cpu`` with the functions of ``torch.cuda`` that verl's workers call.

    Memory figures are those of this process (resident set) and of the machine, in bytes.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        # verl asks this to learn whether tensors can be placed on an accelerator.
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> str:
        return "cpu"

    def set_device(self, device: Any) -> None:
        """Do nothing: there is one CPU."""

    def get_device_name(self, device: Any = None) -> str:
        return platform.processor() or "cpu"

    def get_device_capability(self, device: Any = None) -> tuple[None, None]:
        return (None, None)

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    def memory_allocated(self, device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Do nothing: the resident set has no peak counter to reset."""

    def empty_cache(self) -> None:
        """Do nothing: the CPU allocator keeps no cache of its own."""

    def ipc_collect(self) -> None:
        """Do nothing: CPU tensors are not shared through device handles."""

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, new_state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(new_state)


_CPU_DEVICE = CPUDevice()


def get_torch_device() -> Any:
    """Return torch's namespace for the device in use (``torch.cuda``, ``torch.npu``), or a :class:`CPUDevice`."""
    return _CPU_DEVICE if get_device_name() == "cpu" else upstream_device.get_torch_device()


def get_device_id() -> int | str:
    """Return the index of the current device; ``"cpu"`` on a CPU."""
    return get_torch_device().current_device()


def get_nccl_backend() -> str:
    """Return torch.distributed's backend for the device in use: nccl, hccl, or gloo on a CPU."""
    return "gloo" if get_device_name() == "cpu" else upstream_device.get_nccl_backend()


keep_upstream_names(globals())
