"""Fixtures for tests with a real vLLM on a CPU: a model that copies, an engine in this process, runs of the trainer.

``make test-pins`` runs them with the vLLM of the GPU users, on the platform of ``tests/vllm_platform``, and
``make test-vllm`` with a newer one that is built for CPUs. Where neither can run they are skipped.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from run_processes import SCRIPT, WatchedTraining
from training_process import overrides_of
from vllm_environment import needs_test_platform, reason_to_skip, use_test_platform

LONGEST_PROMPT, RESPONSE_LENGTH = 320, 8

if needs_test_platform():
    use_test_platform()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests of this folder where no vLLM can run, and those of sleeping engines where none can sleep."""
    reason = reason_to_skip()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("needs_gpu_pins") and not needs_test_platform():
            item.add_marker(pytest.mark.skip(reason="needs the vLLM of requirements/vllm.txt: make test-pins"))


@pytest.fixture(scope="session")
def copying_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the copying task and a model that has learned it, in the layout of a warm start; made once."""
    from copying_task import make_copying_task

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "copying_task"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make_copying_task(folder)
    return folder


@pytest.fixture(scope="module")
def start_run(copying_task: Path) -> Iterator[Callable[..., WatchedTraining]]:
    """Start a run of the trainer on the copying task; what is left of it at the end of the module is killed.

    Its processes can import the modules of this folder. Keyword arguments are environment variables of the run.
    """
    started: list[WatchedTraining] = []

    def start(run_folder: Path, *overrides: str, script: Path = SCRIPT, **environment: str) -> WatchedTraining:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            for name, value in environment.items():
                patch.setenv(name, value)
            started.append(WatchedTraining(copying_task, run_folder, overrides, script))
        return started[-1]

    yield start
    for training in started:
        training.kill_all()


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """A process group of one, for all engines of a module: vLLM keeps what it has joined first.

    It is gone after the module, also when no engine could be made: other tests make groups of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _rank_of_one_worker().items():
            patch.setenv(name, value)
        yield
        # vLLM has to forget it too: tests of other modules may run between those of this one.
        from vllm.distributed import destroy_distributed_environment, destroy_model_parallel

        destroy_model_parallel()
        destroy_distributed_environment()  # torch's group with it


SLEEPS = pytest.param(True, id="sleeping", marks=pytest.mark.needs_gpu_pins)


@pytest.fixture(scope="module", params=[pytest.param(False, id="awake"), SLEEPS])
def worker(request: pytest.FixtureRequest, process_group: None, copying_task: Path, tmp_path_factory: Any) -> Any:
    """verl's actor and rollout worker in this process: an FSDP2 actor and a vLLM engine, for prompts of 320 tokens.

    Once with an engine that stays awake, once with one that sleeps between rollouts (``free_cache_engine``).
    """
    config = _worker_config(copying_task, tmp_path_factory.mktemp("worker"))
    config.rollout.free_cache_engine = request.param
    from verl.workers.fsdp_workers import ActorRolloutRefWorker

    worker = ActorRolloutRefWorker(config=config, role="actor_rollout")
    worker.init_model()
    return worker


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

    lengths = (f"data.max_prompt_length={LONGEST_PROMPT}", f"data.max_response_length={RESPONSE_LENGTH}")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer", overrides=overrides_of(SCRIPT, task, run_folder, *lengths))
    OmegaConf.resolve(config)
    return config.actor_rollout_ref
