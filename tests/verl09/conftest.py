"""Fixtures of the tests that need verl 0.9: `make test-verl09`. In another environment none of them is collected."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest


def _is_here() -> bool:
    try:
        return version("verl").startswith("0.9.")
    except PackageNotFoundError:
        return False


collect_ignore_glob = [] if _is_here() else ["test_*.py"]
TIME_LIMIT_SECONDS = 1500


class Training:
    """A training in a process group of its own, whose output goes to a file."""

    def __init__(self, command: list[str], environment: dict[str, str], run_folder: Path) -> None:
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = run_folder
        self.log_path = run_folder / "train.log"
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=run_folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIME_LIMIT_SECONDS
        while not condition():
            assert self.process.poll() is None, f"the run ended before {what}:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"no {what} in {TIME_LIMIT_SECONDS} s:\n{self.log[-4000:]}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the run at once; what Ray started for it ends with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> int:
        return self.process.wait(timeout=TIME_LIMIT_SECONDS)


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task's model and prompts, as verl 0.9 takes them."""
    from small_run import make_tiny_task

    from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start

    folder = tmp_path_factory.mktemp("tiny_task")
    make_warm_start(folder / "warm_start", WarmStartSettings(steps=400), show_progress=False)
    return make_tiny_task(folder / "warm_start", folder)


@pytest.fixture(scope="module")
def start(tiny_task: Path) -> Iterator[Callable[..., Training]]:
    """Start trainings; what still runs at the end of the module is killed."""
    from small_run import command, environment

    started: list[Training] = []

    def start(run_folder: Path, *overrides: str, ranks: int = 1, **variables: str) -> Training:
        started.append(
            Training(
                command(tiny_task, run_folder, *overrides, ranks=ranks),
                {**environment(tiny_task), **variables},
                run_folder,
            )
        )
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            training.kill()


@pytest.fixture(scope="module")
def train(start: Callable[..., Training]) -> Callable[..., Training]:
    """Run a training to its end; fail if it does not succeed."""

    def train(run_folder: Path, *overrides: str, **options: str) -> Training:
        training = start(run_folder, *overrides, **options)
        assert training.finish() == 0, training.log[-6000:]
        return training

    return train
