"""Shared fixtures: one small warm start for all tests, and real training runs in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests run beside each other's Ray workers on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from recipe.knapsack.warm_start import WarmStartSettings, make_warm_start

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "examples" / "knapsack_trainer" / "run_tiny_cpu.sh"
# 16 prompts with 4 rollouts each a step: two steps of a real run take about a second.
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
TIME_LIMIT_SECONDS = 240


@pytest.fixture(scope="session")
def warm_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny task's model and data, pre-trained for a few steps only."""
    folder = tmp_path_factory.mktemp("warm_start")
    make_warm_start(folder, WarmStartSettings(steps=120), show_progress=False)
    return folder


class TrainingProcess:
    """A run of ``python3 -m verl.trainer.main_ppo`` on the tiny task."""

    def __init__(self, warm_start: Path, run_folder: Path, overrides: tuple[str, ...]) -> None:
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = run_folder
        self.log_path = run_folder / "train.log"
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "WARM_START": str(warm_start),
            "RUN_FOLDER": str(run_folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                ["bash", str(SCRIPT), *SMALL_RUN, *overrides],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Everything the run has printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until ``condition`` holds; fail if the run ends or the time is up before."""
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log[-3000:]}"
            assert time.monotonic() < deadline, f"no {what} in {TIME_LIMIT_SECONDS} s:\n{self.log[-3000:]}"
            time.sleep(0.02)

    def finish(self) -> int:
        """Wait for the end of the run and return its exit status."""
        try:
            return self.process.wait(timeout=TIME_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill every process of the run at once, as a machine that goes down would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start_training(warm_start: Path):
    """Start real training runs; whatever still runs at the end of the test is killed."""
    started: list[TrainingProcess] = []

    def start(run_folder: Path, *overrides: str) -> TrainingProcess:
        started.append(TrainingProcess(warm_start, run_folder, overrides))
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            training.kill()


@pytest.fixture
def train(start_training):
    """Run a training to its end and return it; fail if it does not succeed."""

    def run(run_folder: Path, *overrides: str) -> TrainingProcess:
        training = start_training(run_folder, *overrides)
        assert training.finish() == 0, training.log[-5000:]
        return training

    return run


@pytest.fixture
def repository() -> Path:
    """The folder of the checkout."""
    return ROOT


@pytest.fixture
def tiny_overrides(warm_start: Path) -> Callable[[Path], list[str]]:
    """The Hydra overrides of ``run_tiny_cpu.sh`` for a small run, read from the script itself."""

    def overrides(run_folder: Path) -> list[str]:
        environment = {**os.environ, "PYTHON": "echo", "WARM_START": str(warm_start), "RUN_FOLDER": str(run_folder)}
        command = subprocess.run(
            ["bash", str(SCRIPT), *SMALL_RUN], env=environment, capture_output=True, text=True, check=True
        )
        return command.stdout.split()[2:]

    return overrides
