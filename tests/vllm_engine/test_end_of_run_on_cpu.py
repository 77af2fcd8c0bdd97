"""How a run with vLLM ends when it does not finish: with the cause, soon, and with none of its processes left."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path

import psutil
import pytest
from test_training_as_on_gpus_on_cpu import ASYNC, ROLLOUT, WORKERS, steps_of
from training_process import SCRIPTS, TrainingProcess

pytestmark = [pytest.mark.end_to_end, pytest.mark.needs_gpu_pins]

MARK = "RUN_OF_THIS_TEST"
SECONDS_TO_END = 60
REASON = "the device is on fire"
MODES = {
    "sync": (WORKERS, f"{ROLLOUT}.free_cache_engine=true"),
    "async": (*ASYNC, f"{ROLLOUT}.agent.num_workers=1"),
}
ENDLESS = ("trainer.total_training_steps=100000", "actor_rollout_ref.actor.optim.lr=0")


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark in the environment of every process that the test starts."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ["PYTHONPATH"]]))
    return mark


def processes_with(mark: str) -> list[psutil.Process]:
    """The processes of this machine, but this one, that were started with ``mark`` in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def start(copying_task: Path, tmp_path: Path, mark: str):
    """Start a run of the trainer whose processes bear the mark; what is left of it at the end is killed."""

    def start_run(*overrides: str) -> TrainingProcess:
        return TrainingProcess(SCRIPTS / "run_tiny_vllm_cpu.sh", copying_task, tmp_path / "run", overrides)

    yield start_run
    for process in processes_with(mark):
        process.kill()


def assert_nothing_is_left(mark: str, training: TrainingProcess) -> None:
    deadline = time.monotonic() + SECONDS_TO_END
    training.process.wait(timeout=SECONDS_TO_END)
    while processes_with(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [(process.pid, " ".join(process.cmdline())[:80]) for process in processes_with(mark)] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_no_process_outlives_a_driver_that_is_told_to_end_or_killed(start, mark, mode, how):
    training = start(*MODES[mode], *ENDLESS)
    training.wait_until(lambda: steps_of(training.run_folder) >= 1, "first step")
    assert len(processes_with(mark)) > 4
    training.process.send_signal(how)
    assert_nothing_is_left(mark, training)


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
    start, mark, monkeypatch, failure, parallel, cause
):
    monkeypatch.setenv("ENGINE_FAILURE", failure)
    monkeypatch.setenv("ENGINE_FAILURE_REASON", REASON)
    training = start(
        *MODES["async"],
        WORKERS,
        *ENDLESS,
        f"{ROLLOUT}.tensor_model_parallel_size={parallel}",
        "actor_rollout_ref.model.external_lib=failing_engine",
    )
    assert training.finish() not in (0, None)
    assert_nothing_is_left(mark, training)
    log = training.log
    assert "asynchronous rollout engine failed" in log and cause in log[log.rindex("RolloutEngineError") :]


def test_a_vllm_for_gpus_without_a_platform_for_cpus_is_refused_before_ray_starts(start, mark, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    training = start(f"{ROLLOUT}.free_cache_engine=false")
    assert training.finish() == 2
    assert "the installed 0.10.2 is built for GPUs" in training.log
    assert len(training.log.splitlines()) == 1
