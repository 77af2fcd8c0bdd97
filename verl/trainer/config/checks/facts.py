"""What the start-up checks need to know of the machine besides the configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import torch
from packaging.version import Version

from verl.utils.newer_versions import vllm_version
from verl.utils.vllm_platform import has_cpu_platform

CURRENT_CLUSTER_FILE = Path("/tmp/ray/ray_current_cluster")
"""Where ``ray start`` leaves the address of the cluster that this machine belongs to."""
OPTIONAL_PACKAGES = (
    "flash_attn",
    "clearml",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "volcengine_ml_platform",
    "wandb",
)
_SECONDS_TO_ANSWER = 3.0


@dataclass(frozen=True)
class RayCluster:
    """A running Ray cluster that the training would join.

    Attributes:
        address: ``host:port``, ``ray://host:port``, or ``auto``.
        named_by: the environment variable or the file that names it.
        answers: whether something listens at the address.
    """

    address: str
    named_by: str
    answers: bool


@dataclass(frozen=True)
class Facts:
    """What is known of the machine that starts the training.

    Attributes:
        trains_here: whether this machine is to start the training now. A dry run does not: GPUs, files and logins may
            be on another machine, and what is not here is no error.
        has_gpu: whether this machine has a CUDA device.
        cluster: the Ray cluster that would be joined; None if the run would start its own.
        vllm: the installed version; None if vLLM is not installed.
        vllm_runs_on_cpu: whether that vLLM is built for CPUs or has a plug-in for one.
        packages: those of `OPTIONAL_PACKAGES` that are installed.
        environment: the environment variables.
    """

    trains_here: bool = True
    has_gpu: bool = False
    cluster: RayCluster | None = None
    vllm: Version | None = None
    vllm_runs_on_cpu: bool = False
    packages: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)


def look_around(*, trains_here: bool = True) -> Facts:
    """Return the facts of this machine and its environment.

    Args:
        trains_here: see `Facts`.
    """
    return Facts(
        trains_here=trains_here,
        has_gpu=torch.cuda.is_available(),
        cluster=_find_cluster(os.environ.get("RAY_ADDRESS", "")),
        vllm=vllm_version(),
        vllm_runs_on_cpu=has_cpu_platform(),
        packages=frozenset(package for package in OPTIONAL_PACKAGES if find_spec(package) is not None),
        environment=dict(os.environ),
    )


def joins_existing_cluster() -> bool:
    """Whether Ray, started without an address, joins a cluster: one named by RAY_ADDRESS or running on this machine."""
    return bool(os.environ.get("RAY_ADDRESS")) or CURRENT_CLUSTER_FILE.exists()


def _find_cluster(ray_address: str) -> RayCluster | None:
    if ray_address == "local":
        return None
    if ray_address not in ("", "auto"):
        return RayCluster(ray_address, "RAY_ADDRESS", _answers(ray_address))
    if CURRENT_CLUSTER_FILE.is_file():
        address = CURRENT_CLUSTER_FILE.read_text(encoding="utf-8").strip()
        return RayCluster(address, str(CURRENT_CLUSTER_FILE), _answers(address))
    # Ray looks for a head process on this machine, and says at once if there is none.
    return RayCluster("auto", "RAY_ADDRESS", answers=True) if ray_address else None


def _answers(address: str) -> bool:
    """Whether something accepts connections at ``[ray://]host:port``."""
    try:
        target = urlsplit(address if "://" in address else f"ray://{address}")
        with socket.create_connection((target.hostname or "", target.port or 0), timeout=_SECONDS_TO_ANSWER):
            return True
    except (OSError, ValueError):
        return False
