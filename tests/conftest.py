"""Shared fixtures: one small warm start for all tests, and real training runs in processes of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

# Tests run beside each other's Ray workers on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings
from training_process import ROOT, SCRIPTS, TrainingProcess, overrides_of

from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start

# A suite in the background (nohup, &) is started with Ctrl-C ignored, and so would be the processes that it interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is slow; that is no fault of the code. The same examples come every time.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

SCRIPT = SCRIPTS / "run_tiny_cpu.sh"


@pytest.fixture(scope="session")
def warm_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny task's model and data, pre-trained for a few steps only; made once for all processes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "warm_start"
    with FileLock(f"{folder}.lock"):
        make_warm_start(folder, WarmStartSettings(steps=120), show_progress=False)
    return folder


@pytest.fixture
def start_training(warm_start: Path):
    """Start real training runs; whatever still runs at the end of the test is killed."""
    started: list[TrainingProcess] = []

    def start(run_folder: Path, *overrides: str) -> TrainingProcess:
        started.append(TrainingProcess(SCRIPT, warm_start, run_folder, overrides))
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
        return overrides_of(SCRIPT, warm_start, run_folder)

    return overrides
