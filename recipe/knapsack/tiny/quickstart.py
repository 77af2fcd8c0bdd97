"""GRPO, and Knapsack-GRPO as in the paper and as recommended, on the tiny task, through the real trainer on a CPU.

    python -m recipe.knapsack.quickstart --output runs/quickstart

trains each from the same warm start and ends with a table and a picture. Started again, it resumes what was
interrupted and keeps what is finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from tqdm import tqdm

from knapsack_rl.run_folder import HISTORY_FOLDER

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

from knapsack_rl.history import read_history  # noqa: E402
from knapsack_rl.metrics_file import read_metrics  # noqa: E402
from recipe.knapsack.processes.child_processes import ended_by_sigterm  # noqa: E402
from recipe.knapsack.report.run_data import RunSummary, load_run, summarize  # noqa: E402
from recipe.knapsack.tiny.tiny_runs import ACCURACY, EFFECTIVE_RATIO, ROLLOUTS, TinyRun  # noqa: E402
from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start  # noqa: E402

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Method:
    """One of the runs compared: its name in table and picture, its Hydra overrides, and how it is drawn."""

    name: str
    folder: str
    overrides: tuple[str, ...]
    color: str
    line: str


METHODS = (
    Method("GRPO (8 each)", "grpo", ("exploration.allocator=homogeneous",), "tab:orange", "--"),
    Method("Knapsack-GRPO", "knapsack", ("exploration.allocator=knapsack",), "tab:blue", "-"),
    Method("recommended", "recommended", ("exploration.preset=recommended",), "tab:green", "-"),
)


def train(method: Method, warm_start: Path, run_folder: Path, steps: int) -> None:
    """Train ``method`` in a process of its own, with a progress bar; its output goes to ``run_folder/train.log``.

    Raises:
        SystemExit: the training failed; the end of its log is shown.
    """
    always = (f"trainer.total_training_steps={steps}", "exploration.dump_rollouts=all")
    run = TinyRun(warm_start, run_folder, [*method.overrides, *always])
    with tqdm(total=steps, desc=f"{method.name:14}", unit="step") as bar:
        run.start()
        try:
            while run.is_running:
                _show_progress(bar, run)
                time.sleep(_POLL_SECONDS)
        finally:
            run.stop()
        _show_progress(bar, run)
    if run.failure():
        sys.exit(run.failure())


def _show_progress(bar: tqdm, run: TinyRun) -> None:
    progress = run.progress()
    if progress.accuracy is not None and progress.effective_ratio is not None:
        bar.set_postfix_str(
            f"held-out accuracy {progress.accuracy:.3f}, effective {progress.effective_ratio:.2f}", refresh=False
        )
    bar.n = progress.step
    bar.refresh()


def table(summaries: dict[str, RunSummary]) -> str:
    """Lay the summaries out as text."""
    columns = ("held-out accuracy", "effective ratio", "never solved", "largest budget", "wall time")
    lines = [f"{'':16}" + "".join(f"{column:>20}" for column in columns)]
    for name, run in summaries.items():
        cells = (
            f"{run.accuracy:.3f}",
            f"{run.effective_ratio:.3f}",
            str(run.never_solved),
            str(run.largest_budget),
            f"{run.seconds:.0f} s",
        )
        lines.append(f"{name:16}" + "".join(f"{cell:>20}" for cell in cells))
    lines.append("effective ratio: share of rollouts with a gradient, mean over the last quarter of the steps.")
    lines.append("never solved: training prompts without a single right rollout in the whole run.")
    return "\n".join(lines)


def draw(run_folders: dict[Method, Path], picture: Path) -> None:
    """Draw the effective-gradient ratio, held-out accuracy against rollouts, and the budgets, side by side."""
    figure, (ratio, accuracy, budgets) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for method, folder in run_folders.items():
        style = {"color": method.color, "linestyle": method.line, "label": method.name}
        metrics = read_metrics(folder)
        steps = [record for record in metrics if EFFECTIVE_RATIO in record]
        ratio.plot(
            [record["step"] for record in steps],
            _moving_average([record[EFFECTIVE_RATIO] for record in steps], width=8),
            **style,
        )
        validations = [record for record in metrics if ACCURACY in record]
        accuracy.plot(
            [record.get(ROLLOUTS, 0) / 1000 for record in validations],
            [record[ACCURACY] for record in validations],
            marker="o",
            markersize=3,
            **style,
        )
        per_prompt = read_history(folder / HISTORY_FOLDER).to_pandas()["budget"]
        budgets.hist(per_prompt, bins=np.geomspace(1, 130, 30), histtype="step", linewidth=1.8, log=True, **style)
    ratio.set(xlabel="training step", ylabel="effective-gradient ratio", ylim=(0, 1), title="Rollouts with a gradient")
    accuracy.set(
        xlabel="cumulative rollouts (thousands)",
        ylabel="held-out accuracy (avg@4)",
        title="What is learned per rollout",
    )
    budgets.set(xlabel="rollouts for one prompt in one step", ylabel="how often", title="Budgets", xscale="log")
    budgets.set_xticks([1, 2, 4, 8, 16, 32, 64, 128], [1, 2, 4, 8, 16, 32, 64, 128])
    for axes in (ratio, accuracy, budgets):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def _moving_average(values: list[float], width: int) -> np.ndarray:
    """Mean over the latest ``width`` values, one epoch of the tiny task."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart"), help="folder of the runs")
    parser.add_argument("--steps", type=int, default=200, help="training steps of each run (1024 rollouts each)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the task and its warm start")
    options = parser.parse_args(arguments)
    output = options.output.absolute()
    make_warm_start(output / "warm_start", WarmStartSettings(seed=options.seed))
    run_folders = {method: output / method.folder for method in METHODS}
    with ended_by_sigterm():
        for method, folder in run_folders.items():
            train(method, output / "warm_start", folder, options.steps)
    print("\n" + table({method.name: summarize(load_run(folder)) for method, folder in run_folders.items()}))
    picture = output / "quickstart.png"
    draw(run_folders, picture)
    print(f"\nPicture: {picture}")
    print(f"Prompts and rollouts: python -m recipe.knapsack.view {' '.join(map(str, run_folders.values()))}")


if __name__ == "__main__":
    main()
