"""Fixtures of the tests that need verl 0.9: `make test-verl09`. In another environment none of them is collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from training_process import LoggedProcess


def _is_here() -> bool:
    try:
        return version("verl").startswith("0.9.")
    except PackageNotFoundError:
        return False


collect_ignore_glob = [] if _is_here() else ["test_*.py"]


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task's model and prompts, as verl 0.9 takes them."""
    from small_run import make_tiny_task

    from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start

    folder = tmp_path_factory.mktemp("tiny_task")
    make_warm_start(folder / "warm_start", WarmStartSettings(steps=400), show_progress=False)
    return make_tiny_task(folder / "warm_start", folder)


@pytest.fixture(scope="module")
def start(tiny_task: Path) -> Iterator[Callable[..., LoggedProcess]]:
    """Start trainings; what still runs at the end of the module is killed."""
    from small_run import command, environment

    started: list[LoggedProcess] = []

    def start(run_folder: Path, *overrides: str, ranks: int = 1, **variables: str) -> LoggedProcess:
        started.append(
            LoggedProcess(
                command(tiny_task, run_folder, *overrides, ranks=ranks),
                {**environment(tiny_task), **variables},
                run_folder,
                cwd=run_folder,
            )
        )
        return started[-1]

    yield start
    for training in started:
        if training.process.poll() is None:
            training.kill()


@pytest.fixture(scope="module")
def train(start: Callable[..., LoggedProcess]) -> Callable[..., LoggedProcess]:
    """Run a training to its end; fail if it does not succeed."""

    def train(run_folder: Path, *overrides: str, **options: str) -> LoggedProcess:
        training = start(run_folder, *overrides, **options)
        assert training.finish() == 0, training.log[-6000:]
        return training

    return train
