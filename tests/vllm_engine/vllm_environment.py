"""Which vLLM the tests of this folder can run on this machine, and how."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from verl.utils.newer_versions import LAST_SUPPORTED_VLLM, vllm_version
from verl.utils.vllm_platform import is_built_for_cpus

TEST_PLATFORM = Path(__file__).parents[1] / "vllm_platform"
KV_CACHE_GIB = "1"


def needs_test_platform() -> bool:
    """Whether the installed vLLM is the GPU users' one, for which ``tests/vllm_platform`` is written."""
    installed = vllm_version()
    return installed is not None and not is_built_for_cpus() and installed.base_version == str(LAST_SUPPORTED_VLLM)


def reason_to_skip() -> str | None:
    """Return why no test with vLLM can run here, or None."""
    installed = vllm_version()
    if installed is None:
        return "needs vLLM, which has environments of its own: make test-pins (as GPU users have it), make test-vllm"
    if torch.cuda.is_available():
        return "trains on the CPU, and verl takes the GPU where it sees one: set CUDA_VISIBLE_DEVICES to nothing"
    if not is_built_for_cpus() and not needs_test_platform():
        return f"the test platform is written for vLLM {LAST_SUPPORTED_VLLM}, not {installed}"
    return None


def use_test_platform() -> None:
    """Let this process and those that it starts find the platform of ``tests/vllm_platform``."""
    sys.path.append(str(TEST_PLATFORM))
    paths = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(TEST_PLATFORM)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", KV_CACHE_GIB)
