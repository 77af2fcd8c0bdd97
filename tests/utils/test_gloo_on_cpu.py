"""FSDP2 over gloo: gradients are averaged over ranks, and its messages stay out of the console."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.fsdp import fully_shard

from verl.utils.gloo import averages, divide_gradients

RANKS = 2


def input_of(rank: int) -> torch.Tensor:
    return torch.full((1, 4), float(rank + 1))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))


def _gradients_of_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=f"file://{folder}/rendezvous")
    mesh = torch.distributed.init_device_mesh("cpu", (RANKS,))
    model = make_model()
    fully_shard(model[0], mesh=mesh)  # the other layer is a part of the root
    fully_shard(model, mesh=mesh)
    divide_gradients([model])
    model(input_of(rank)).sum().backward()
    gradients = [parameter.grad.full_tensor() for parameter in model.parameters()]
    if rank == 0:
        torch.save({"gradients": gradients, "averages": averages()}, folder / "result.pt")
    else:
        averages()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("gloo")
    multiprocessing.start_processes(_gradients_of_rank, args=(folder,), nprocs=RANKS, start_method="spawn")
    return torch.load(folder / "result.pt")


@pytest.mark.slow
def test_gradients_are_the_mean_over_ranks_whatever_gloo_does(sharded):
    model = make_model()
    torch.stack([model(input_of(rank)).sum() for rank in range(RANKS)]).mean().backward()
    for gradient, parameter in zip(sharded["gradients"], model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


@pytest.mark.slow
def test_what_gloo_does_is_known_by_what_it_does(sharded):
    assert sharded["averages"] == (not torch.__version__.startswith("2.8."))


@pytest.mark.slow
def test_its_messages_stay_out_of_the_console_and_all_else_is_shown(repository):
    program = """
import ctypes, torch
from verl.utils.gloo import without_connection_messages
print("before", flush=True)
with without_connection_messages():
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, init_method="tcp://127.0.0.1:0")
    ctypes.CDLL(None).puts(b"from C")
    print("from Python")
print("after")
"""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert set(output.stdout.split("\n")) == {"before", "from C", "from Python", "after", ""}
