"""The same tiny runs with rollouts by transformers and by vLLM: do they learn alike?

Run in the environment that has vLLM:

    .venv-vllm/bin/python -m recipe.knapsack.compare_engines --output runs/engines --seeds 3 --steps 30

Both engines start from one warm start; a seed is that of the sampling. Prints, per engine, the mean effective-gradient
ratio of the steps and the held-out accuracy after the last, with their spread over the seeds. Finished runs are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.run_folder import METRICS_FILE
from recipe.knapsack.processes.child_processes import ended_by_sigterm, run_logged
from recipe.knapsack.tiny.tiny_runs import ACCURACY, EFFECTIVE_RATIO, LOG, SCRIPT
from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start

SCRIPTS = {"transformers": SCRIPT, "vLLM": SCRIPT.with_name("run_tiny_vllm_cpu.sh")}


@dataclass(frozen=True)
class Outcome:
    """What one run comes to; ``generation_seconds`` of a step: the median, without the first (which warms up)."""

    effective_ratio: float
    accuracy: float
    generation_seconds: float


def train(engine: str, seed: int, steps: int, warm_start: Path, run_folder: Path) -> Outcome:
    """Run the tiny task with ``engine`` and return its outcome; a run that has finished is not repeated.

    Raises:
        SystemExit: the run failed; says where its log is.
    """
    if not _has_finished(run_folder, steps):
        run_folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHON": sys.executable,
            "WARM_START": str(warm_start),
            "RUN_FOLDER": str(run_folder),
        }
        overrides = [
            f"exploration.seed={seed}",
            f"trainer.total_training_steps={steps}",
            f"trainer.test_freq={steps}",
            "trainer.val_before_train=false",
            "trainer.save_freq=-1",
        ]
        (run_folder / LOG).write_text("")
        command = ["bash", str(SCRIPTS[engine]), *overrides]
        status = run_logged(command, environment, run_folder / LOG, f"{engine}, seed {seed}")
        if status:
            raise SystemExit(f"error: the run ended with status {status}; see {run_folder / LOG}")
    return read_outcome(run_folder)


def _has_finished(run_folder: Path, steps: int) -> bool:
    return (run_folder / METRICS_FILE).exists() and read_metrics(run_folder)[-1]["step"] == steps


def read_outcome(run_folder: Path) -> Outcome:
    """Read a finished run's outcome."""
    metrics = read_metrics(run_folder)
    return Outcome(
        effective_ratio=float(np.mean([step[EFFECTIVE_RATIO] for step in metrics])),
        accuracy=metrics[-1][ACCURACY],
        generation_seconds=float(np.median([step["timing_s/gen"] for step in metrics[1:]])),
    )


def print_table(outcomes: dict[str, list[Outcome]]) -> None:
    """One line per engine: mean and standard deviation over the seeds, and the seconds that generation takes."""
    print(f"{'rollouts by':<14}{'effective-gradient ratio':>26}{'held-out accuracy':>22}{'seconds to generate':>22}")
    for engine, runs in outcomes.items():
        ratios = np.array([run.effective_ratio for run in runs])
        accuracies = np.array([run.accuracy for run in runs])
        seconds = np.median([run.generation_seconds for run in runs])
        spread = {"ddof": 1} if len(runs) > 1 else {}
        print(
            f"{engine:<14}{ratios.mean():>17.3f} ± {ratios.std(**spread):.3f} {accuracies.mean():>14.3f} ± "
            f"{accuracies.std(**spread):.3f}{seconds:>22.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--steps", type=int, default=30, help="training steps of a run (default 30)")
    arguments = parser.parse_args()
    warm_start = arguments.output.absolute() / "warm_start"
    make_warm_start(warm_start, WarmStartSettings())
    outcomes: dict[str, list[Outcome]] = {engine: [] for engine in SCRIPTS}
    with ended_by_sigterm():
        for seed in range(arguments.seeds):
            for engine, runs in outcomes.items():
                folder = arguments.output.absolute() / f"{engine.lower()}_seed{seed}"
                runs.append(train(engine, seed, arguments.steps, warm_start, folder))
                print(f"{engine}, seed {seed}: {runs[-1]}", flush=True)
    print_table(outcomes)


if __name__ == "__main__":
    main()
