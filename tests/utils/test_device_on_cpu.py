"""The CPU as a device: every function of torch.cuda that verl's workers call exists and answers sensibly."""

import re
from pathlib import Path

import pytest
import torch

import verl
from verl.utils import device

pytestmark = pytest.mark.skipif(device.get_device_name() != "cpu", reason="the machine has an accelerator")


def functions_that_workers_call() -> set[str]:
    sources = [
        *(verl.UPSTREAM_FOLDER / "workers").glob("*.py"),
        *(verl.UPSTREAM_FOLDER / "workers").glob("[as]*/**/*.py"),
    ]
    sources += (verl.UPSTREAM_FOLDER / "utils").glob("*.py")
    called = {
        name for source in sources for name in re.findall(r"get_torch_device\(\)\.(\w+)\(", Path(source).read_text())
    }
    return called - {"synchronize"}


def test_every_function_that_upstreams_workers_call_exists():
    namespace = device.get_torch_device()
    assert len(functions_that_workers_call()) > 5
    assert [name for name in functions_that_workers_call() if not callable(getattr(namespace, name, None))] == []


def test_names_and_backend():
    assert device.get_device_name() == "cpu"
    assert device.get_nccl_backend() == "gloo"
    assert torch.zeros(1, device=device.get_device_id()).device.type == "cpu"


def test_random_state_can_be_saved_and_restored():
    namespace = device.get_torch_device()
    namespace.manual_seed(3)
    state = namespace.get_rng_state()
    first = torch.rand(4)
    namespace.set_rng_state(state)
    assert torch.equal(first, torch.rand(4))


def test_memory_is_that_of_process_and_machine():
    namespace = device.get_torch_device()
    free, total = namespace.mem_get_info()
    assert 0 < namespace.memory_allocated() < total and 0 < free <= total
