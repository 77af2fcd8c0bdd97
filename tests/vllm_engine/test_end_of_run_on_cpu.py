"""How a run with vLLM ends when it does not finish: with the cause, soon, and with none of its processes left."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from test_training_as_on_gpus_on_cpu import ASYNC, ROLLOUT, SCRIPT, WORKERS, steps_of
from training_process import TrainingProcess

pytestmark = [pytest.mark.end_to_end, pytest.mark.needs_gpu_pins]

SECONDS_TO_END = 60
SECONDS_BETWEEN_LOOKS = 0.5
REASON = "the device is on fire"
MODES = {
    "sync": (WORKERS, f"{ROLLOUT}.free_cache_engine=true"),
    "async": (*ASYNC, f"{ROLLOUT}.free_cache_engine=true", f"{ROLLOUT}.agent.num_workers=1"),
}
ENDLESS = ("trainer.total_training_steps=100000", "actor_rollout_ref.actor.optim.lr=0")


class Family:
    """All processes that a run has started so far, also those whose parents have ended since."""

    def __init__(self, driver: psutil.Process) -> None:
        self._driver = driver
        self._seen: set[psutil.Process] = {driver}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._driver.is_running():
            parents = {process.pid for process in self._seen}
            for process in psutil.process_iter():  # ascending, so that mostly a child comes after its parent
                with suppress(psutil.NoSuchProcess):
                    if process.ppid() in parents:
                        parents.add(process.pid)
                        self._seen.add(process)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def alive(self) -> list[psutil.Process]:
        """Those that run; a process that only waits to be reaped does not."""
        return [process for process in list(self._seen) if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start(copying_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Start a run of the trainer; what is left of it at the end is killed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]))
    families: list[Family] = []

    def start_run(*overrides: str) -> tuple[TrainingProcess, Family]:
        training = TrainingProcess(SCRIPT, copying_task, tmp_path / "run", overrides)
        families.append(Family(psutil.Process(training.process.pid)))
        return training, families[-1]

    yield start_run
    for process in (process for family in families for process in family.alive()):
        process.kill()


def assert_nothing_is_left(training: TrainingProcess, family: Family) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    training.process.wait(timeout=SECONDS_TO_END)
    while family.alive() and time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    assert [(process.pid, process.name()) for process in family.alive()] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_no_process_outlives_a_driver_that_is_told_to_end_or_killed(start, mode, how):
    training, family = start(*MODES[mode], *ENDLESS)
    training.wait_until(lambda: steps_of(training.run_folder) >= 1, "first step")
    assert len(family.alive()) > 4
    training.process.send_signal(how)
    assert_nothing_is_left(training, family)


@pytest.mark.parametrize(
    ("failure", "parallel", "cause"),
    [
        ("load_model:1:raise", 1, REASON),
        ("wake_up:2:raise", 1, REASON),
        ("execute_model:3:raise", 2, REASON),
        ("execute_model:3:kill", 2, "worker 0"),
    ],
)
def test_a_failing_worker_of_an_asynchronous_engine_ends_the_run_with_its_cause(
    start, monkeypatch, failure, parallel, cause
):
    monkeypatch.setenv("ENGINE_FAILURE", failure)
    monkeypatch.setenv("ENGINE_FAILURE_REASON", REASON)
    training, family = start(
        *MODES["async"],
        WORKERS,
        *ENDLESS,
        f"{ROLLOUT}.tensor_model_parallel_size={parallel}",
        "actor_rollout_ref.model.external_lib=failing_engine",
    )
    assert training.finish() not in (0, None)
    assert_nothing_is_left(training, family)
    log = training.log
    assert "asynchronous rollout engine failed" in log and cause in log[log.rindex("RolloutEngineError") :]


def test_a_vllm_for_gpus_without_a_platform_for_cpus_is_refused_before_ray_starts(start, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    training, _ = start(f"{ROLLOUT}.free_cache_engine=false")
    assert training.finish() == 2
    assert "the installed 0.10.2 is built for GPUs" in training.log
    assert len(training.log.splitlines()) == 1
