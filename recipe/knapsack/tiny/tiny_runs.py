"""Training runs of the tiny task in processes of their own, through ``examples/knapsack_trainer/run_tiny_cpu.sh``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from knapsack_rl.metrics_file import read_metrics
from recipe.knapsack.processes.child_processes import end

SCRIPT = Path(__file__).parents[3] / "examples" / "knapsack_trainer" / "run_tiny_cpu.sh"
ACCURACY = "val-core/knapsack_tiny_task/acc/mean@4"
EFFECTIVE_RATIO = "training/effective_gradient_ratio"
ROLLOUTS = "training/cumulative_rollouts"
ROLLOUTS_PER_STEP = 1024
LOG = "train.log"
_LINES_OF_LOG_SHOWN = 30


@dataclass(frozen=True)
class Progress:
    """How far a run has got; accuracy and ratio are the latest, None before the first."""

    step: int = 0
    rollouts: int = 0
    accuracy: float | None = None
    effective_ratio: float | None = None


class TinyRun:
    """A run with the given Hydra overrides that continues what ``run_folder`` holds.

    Args:
        warm_start: folder of the warm start.
        run_folder: the run's folder; its console output goes to ``train.log`` there.
        overrides: Hydra overrides, the last of a key wins.
    """

    def __init__(self, warm_start: Path, run_folder: Path, overrides: Sequence[str]) -> None:
        self.warm_start = warm_start
        self.run_folder = run_folder
        self.overrides = tuple(overrides)
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "WARM_START": str(self.warm_start),
            "RUN_FOLDER": str(self.run_folder),
        }
        with (self.run_folder / LOG).open("w") as log:
            self.process = subprocess.Popen(
                ["bash", str(SCRIPT), *self.overrides], env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """End the process, if it runs, and wait for it."""
        if self.process is not None:
            end(self.process)

    def progress(self) -> Progress:
        """Read how far the run has got, also while it writes; what it has not written yet has its default."""
        try:
            metrics = read_metrics(self.run_folder)
        except FileNotFoundError:
            return Progress()
        accuracies = [record[ACCURACY] for record in metrics if ACCURACY in record]
        trained = [record for record in metrics if EFFECTIVE_RATIO in record and ROLLOUTS in record]
        return Progress(
            step=metrics[-1]["step"] if metrics else 0,
            rollouts=trained[-1][ROLLOUTS] if trained else 0,
            accuracy=accuracies[-1] if accuracies else None,
            effective_ratio=trained[-1][EFFECTIVE_RATIO] if trained else None,
        )

    def failure(self) -> str | None:
        """Return the end of the log if the process ended with an error, else None."""
        if self.process is None or not self.process.returncode:
            return None
        tail = (self.run_folder / LOG).read_text(errors="replace").splitlines()[-_LINES_OF_LOG_SHOWN:]
        reason = f"error: the run ended with status {self.process.returncode}; see {self.run_folder / LOG}"
        return "\n".join([*tail, reason])
