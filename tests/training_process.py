"""Runs of the trainer in a process of their own, on 16 prompts with 4 rollouts each a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "examples" / "knapsack_trainer"
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
# Ends a run that hangs; a run on a busy machine may take many times as long as on a quiet one.
TIME_LIMIT_SECONDS = int(os.environ.get("TRAINING_TIME_LIMIT_SECONDS", "900"))


def script_environment(warm_start: Path, run_folder: Path) -> dict[str, str]:
    """Return the environment in which a script trains from ``warm_start`` with this Python."""
    return {
        **os.environ,
        "PYTHON": sys.executable,
        "WARM_START": str(warm_start),
        "RUN_FOLDER": str(run_folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }


def overrides_of(script: Path, warm_start: Path, run_folder: Path, *further: str) -> list[str]:
    """Return the Hydra overrides with which ``script`` would start a small run, read from the script itself."""
    environment = {**script_environment(warm_start, run_folder), "PYTHON": "echo"}
    command = subprocess.run(
        ["bash", str(script), *SMALL_RUN, *further], env=environment, capture_output=True, text=True, check=True
    )
    return command.stdout.split()[2:]


class LoggedProcess:
    """A process group of its own for a run, whose output goes to ``train.log`` in the run's folder.

    Args:
        command: what to start.
        env: its whole environment.
        run_folder: made if it is not there.
        cwd: where it starts; None = here.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], run_folder: Path, cwd: Path | None = None
    ) -> None:
        run_folder.mkdir(parents=True, exist_ok=True)
        self.run_folder = run_folder
        self.log_path = run_folder / "train.log"
        with self.log_path.open("a") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
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


class TrainingProcess(LoggedProcess):
    """A small run that ``script`` starts."""

    def __init__(self, script: Path, warm_start: Path, run_folder: Path, overrides: tuple[str, ...]) -> None:
        super().__init__(
            ["bash", str(script), *SMALL_RUN, *overrides], script_environment(warm_start, run_folder), run_folder
        )
