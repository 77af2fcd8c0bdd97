"""What torch's gloo back end does differently from NCCL, and what is done about it on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.distributed import ReduceOp
from torch.distributed.fsdp import FSDPModule

__all__ = ["averages", "divide_gradients", "without_connection_messages"]

_STDOUT = 1


def averages() -> bool:
    """Whether the default process group averages where it is asked to; every rank has to call this.

    The gloo of torch 2.8 sums.
    """
    world_size = torch.distributed.get_world_size()
    average = torch.empty(1)
    torch.distributed.reduce_scatter_tensor(average, torch.ones(world_size), op=ReduceOp.AVG)
    return average.item() == 1.0


def divide_gradients(modules: Iterable[torch.nn.Module]) -> None:
    """Let FSDP2 divide summed gradients by itself where the process group does not average; every rank has to call it.

    Args:
        modules: modules with FSDP2 modules among their submodules.
    """
    if torch.distributed.get_world_size() == 1 or averages():
        return
    for module in modules:
        for submodule in module.modules():
            if isinstance(submodule, FSDPModule):
                submodule.set_force_sum_reduction_for_comms(True)


@contextmanager
def without_connection_messages() -> Iterator[None]:
    """Within the context, the lines that gloo prints about every new group do not reach standard output.

    They come from C++, past Python's streams. What else is written meanwhile appears at the end of the context.
    """
    _flush()
    stdout = os.dup(_STDOUT)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), _STDOUT)
        try:
            yield
        finally:
            _flush()
            os.dup2(stdout, _STDOUT)
            os.close(stdout)
            captured.seek(0)
            for line in captured:
                if not line.startswith(b"[Gloo] Rank "):
                    os.write(_STDOUT, line)


def _flush() -> None:
    sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
