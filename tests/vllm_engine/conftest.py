"""Fixtures for tests with a real vLLM on a CPU: a model that copies, an engine in this process, runs of the trainer.

Everything here is skipped where vLLM is not installed: ``make test-vllm`` has an environment of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "examples" / "knapsack_trainer" / "run_tiny_vllm_cpu.sh"
# 16 prompts with 4 rollouts each a step; an epoch of the copying task takes two steps.
SMALL_RUN = (
    "data.train_batch_size=16",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=16",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
    "exploration.n_up=16",
    "trainer.test_freq=-1",
    "trainer.val_before_train=false",
    "trainer.save_freq=-1",
)
LONGEST_PROMPT, RESPONSE_LENGTH = 320, 8
TIME_LIMIT_SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where there is no vLLM."""
    if find_spec("vllm") is not None:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs vLLM, which has an environment of its own: make test-vllm"))


@pytest.fixture(scope="session")
def copying_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the copying task and a model that has learned it, in the layout of a warm start."""
    from copying_task import make_copying_task

    folder = tmp_path_factory.mktemp("copying_task")
    make_copying_task(folder)
    return folder


def script_environment(task: Path, run_folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHON": sys.executable,
        "WARM_START": str(task),
        "RUN_FOLDER": str(run_folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


@pytest.fixture(scope="session")
def train(copying_task: Path) -> Callable[..., Path]:
    """Run ``run_tiny_vllm_cpu.sh`` on the copying task to its end and return the run's folder."""

    def run(run_folder: Path, *overrides: str) -> Path:
        run_folder.mkdir(parents=True, exist_ok=True)
        log = run_folder / "train.log"
        with log.open("a") as stream:
            process = subprocess.Popen(
                ["bash", str(SCRIPT), *SMALL_RUN, *overrides],
                env=script_environment(copying_task, run_folder),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            status = process.wait(TIME_LIMIT_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert status == 0, log.read_text(errors="replace")[-5000:]
        return run_folder

    return run


@pytest.fixture(scope="session")
def worker(copying_task: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """verl's actor and rollout worker in this process: an FSDP2 actor and a vLLM engine, for prompts of 320 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _rank_of_one_worker().items():
            patch.setenv(name, value)
        import torch

        config = _worker_config(copying_task, tmp_path_factory.mktemp("worker"))
        from verl.workers.fsdp_workers import ActorRolloutRefWorker

        worker = ActorRolloutRefWorker(config=config, role="actor_rollout")
        worker.init_model()
        yield worker
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _rank_of_one_worker() -> dict[str, str]:
    return {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


def _worker_config(task: Path, run_folder: Path) -> Any:
    """Compose the ``actor_rollout_ref`` section as the script would, from the script itself."""
    import hydra
    from omegaconf import OmegaConf

    environment = {**script_environment(task, run_folder), "PYTHON": "echo"}
    lengths = (f"data.max_prompt_length={LONGEST_PROMPT}", f"data.max_response_length={RESPONSE_LENGTH}")
    command = subprocess.run(
        ["bash", str(SCRIPT), *SMALL_RUN, *lengths], env=environment, capture_output=True, text=True, check=True
    )
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer", overrides=command.stdout.split()[2:])
    OmegaConf.resolve(config)
    return config.actor_rollout_ref
