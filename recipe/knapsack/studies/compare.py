"""An honest comparison on a CPU: methods and ablations on the tiny task, over seeds, through the real trainer.

    python -m recipe.knapsack.compare --output runs/compare --seeds 4

Every seed has a world, a warm start and a sampling of its own, shared by all methods. Started again, it resumes what
was interrupted and keeps what is finished. ``--seeds 1 --steps 40`` is the short form.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import psutil
from tqdm import tqdm

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from recipe.knapsack.report.run_data import Run, load_run, summarize  # noqa: E402
from recipe.knapsack.tiny.tiny_runs import ROLLOUTS_PER_STEP, TinyRun  # noqa: E402
from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start  # noqa: E402

BASELINE = "GRPO, N = 8"
KNAPSACK = "Knapsack-GRPO"
FINISHED = "finished.json"
_POLL_SECONDS = 1.0
_MEMORY_OF_A_RUN = 3 * 2**30  # bytes, of all its Ray processes
_CPUS_OF_A_RUN = 2
_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: what the table calls it.
        folder: where its runs go.
        overrides: Hydra overrides.
        group: ``main`` rows run with every seed, ``ablation`` and ``rollouts`` (figure 9) rows with
            ``--ablation-seeds``.
        rollouts_per_step: rollouts that a step generates at least; all methods but figure 9's spend equal rollouts.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]
    group: str = "ablation"
    rollouts_per_step: int = ROLLOUTS_PER_STEP


_BETA = ("exploration.success_rate.estimator=beta",)
# Ended by a signal at their rollouts, these runs keep the history only up to the last checkpoint.
_DYNAMIC = ("exploration.dynamic_sampling.enable=true", "trainer.test_freq=5", "trainer.save_freq=5")
_HOMOGENEOUS = ("exploration.allocator=homogeneous",)

# The rows of figure 9 by N, the rollouts per prompt.
_BY_ROLLOUTS_PER_PROMPT = {
    "GRPO": {4: "GRPO, N = 4", 8: BASELINE, 16: "GRPO, N = 16"},
    KNAPSACK: {4: "Knapsack-GRPO, N = 4", 8: KNAPSACK, 16: "Knapsack-GRPO, N = 16"},
}
# What a row is compared with, where that is not `BASELINE`: GRPO with as many rollouts.
_BASELINE_OF = {_BY_ROLLOUTS_PER_PROMPT[KNAPSACK][n]: name for n, name in _BY_ROLLOUTS_PER_PROMPT["GRPO"].items()}


def _with_rollouts_per_prompt(n: int) -> tuple[Variant, Variant]:
    grpo, knapsack = (rows[n] for rows in _BY_ROLLOUTS_PER_PROMPT.values())
    override, rollouts_per_step = f"actor_rollout_ref.rollout.n={n}", n * ROLLOUTS_PER_STEP // 8
    return (
        Variant(grpo, f"grpo_{n}", (*_HOMOGENEOUS, override), "rollouts", rollouts_per_step),
        Variant(knapsack, f"knapsack_{n}", (override,), "rollouts", rollouts_per_step),
    )


VARIANTS = (
    Variant(BASELINE, "grpo", _HOMOGENEOUS, "main"),
    Variant(KNAPSACK, "knapsack", (), "main"),
    Variant("knapsack, beta estimates", "beta", _BETA, "main"),
    Variant("knapsack, expected value", "expected", (*_BETA, "exploration.value=expected"), "main"),
    Variant("dynamic sampling, equal rollouts", "dynamic", (*_HOMOGENEOUS, *_DYNAMIC), "main"),
    Variant("dynamic sampling + knapsack", "dynamic_knapsack", _DYNAMIC, "main"),
    Variant("knapsack, window of 16", "window", ("exploration.success_rate.estimator=window",)),
    Variant("knapsack without fallback", "no_fallback", ("exploration.fallback=false",)),
    Variant("knapsack, n_low = 4", "n_low_4", ("exploration.n_low=4",)),
    Variant("knapsack, n_up = 16", "n_up_16", ("exploration.n_up=16",)),
    Variant("knapsack, n_up = 32", "n_up_32", ("exploration.n_up=32",)),
    *_with_rollouts_per_prompt(4),
    *_with_rollouts_per_prompt(16),
)


@dataclass
class Job:
    """One run of the comparison."""

    variant: Variant
    seed: int
    run: TinyRun
    steps: int

    @property
    def rollouts(self) -> int:
        """Where the run ends: where GRPO with as many rollouts a step is after ``steps`` steps."""
        return self.steps * self.variant.rollouts_per_step

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end, now or in an earlier session."""
        return (self.run.run_folder / FINISHED).exists()

    def rollouts_so_far(self) -> int:
        """The rollouts that the run has taken, now or in an earlier session, up to where it ends."""
        return self.rollouts if self.is_finished else min(self.run.progress().rollouts, self.rollouts)

    def poll(self) -> int:
        """Note how far the run has got, end it at its rollouts, and return the rollouts."""
        progress = self.run.progress()
        if progress.rollouts >= self.rollouts:
            if progress.step >= self.steps:
                self.run.process.wait()
                if self.run.failure():
                    return self.rollouts  # its last checkpoint or history may be missing: not finished
            self.run.stop()
            (self.run.run_folder / FINISHED).write_text(json.dumps({"rollouts": progress.rollouts}))
        return min(progress.rollouts, self.rollouts)


def make_jobs(output: Path, variants: Sequence[Variant], seeds: int, ablation_seeds: int, steps: int) -> list[Job]:
    """Return all runs: the main rows seed by seed, then the others, so that an interrupted comparison is of use."""
    in_turn = [
        (variant, seed)
        for is_main, group_seeds in ((True, seeds), (False, ablation_seeds))
        for seed in range(group_seeds)
        for variant in variants
        if (variant.group == "main") == is_main
    ]
    jobs = []
    for variant, seed in in_turn:
        overrides = (
            *variant.overrides,
            f"exploration.seed={seed}",
            f"trainer.total_training_steps={steps}",
            "trainer.max_actor_ckpt_to_keep=1",
        )
        folder = output / f"seed_{seed}"
        jobs.append(Job(variant, seed, TinyRun(folder / "warm_start", folder / variant.folder, overrides), steps))
    return jobs


def run_jobs(jobs: list[Job], parallel: int) -> None:
    """Run what is not finished, ``parallel`` at a time, with progress and time left.

    Raises:
        SystemExit: a run failed; the end of its log is shown.
    """
    waiting = [job for job in jobs if not job.is_finished]
    running: list[Job] = []
    rollouts = {job.run.run_folder: job.rollouts_so_far() for job in jobs}
    all_rollouts = sum(job.rollouts for job in jobs)
    bar = tqdm(total=all_rollouts, initial=sum(rollouts.values()), unit="rollout", unit_scale=True, smoothing=0.05)
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.pop(0)
                make_warm_start(job.run.warm_start, WarmStartSettings(seed=job.seed), show_progress=False)
                running.append(job)  # before it starts: what is listed here is stopped, come what may
                job.run.start()
            time.sleep(_POLL_SECONDS)
            # Before their progress is read: a run that reaches its end and exits after that has not ended early.
            had_ended = [not job.run.is_running for job in running]
            rollouts.update({job.run.run_folder: job.poll() for job in running})
            for job, ended in zip(running, had_ended, strict=True):
                if ended and not job.is_finished:
                    sys.exit(job.run.failure() or f"error: {job.run.run_folder} ended early")
            bar.n = sum(rollouts.values())
            running = [job for job in running if not job.is_finished]
            names = ", ".join(f"{job.variant.folder}/{job.seed}" for job in running)
            bar.set_description_str(f"{len(waiting)} waiting, running {names}")
    finally:
        bar.close()
        for job in running:
            job.run.stop()


@dataclass(frozen=True)
class Outcome:
    """What a run comes to at its end.

    ``accuracy_curve`` is (rollouts, held-out accuracy) of every validation; ``never_solved`` is None for a run that
    was ended before it wrote a history.
    """

    accuracy: float
    effective_ratio: float
    never_solved: int | None
    largest_budget: int
    minutes: float
    accuracy_curve: np.ndarray

    def rollouts_to_reach(self, accuracy: float) -> float:
        """Return the rollouts at the first validation with at least ``accuracy``; NaN if there is none."""
        reached = self.accuracy_curve[self.accuracy_curve[:, 1] >= accuracy]
        return float(reached[0, 0]) if len(reached) else float("nan")


def outcome_of(run: Run, rollouts: int) -> Outcome:
    """Reduce a run to its outcome at ``rollouts``."""
    summary = summarize(run)
    accuracy = run.held_out_accuracy.iloc[:, 0].dropna()
    spent = run.cumulative_rollouts.reindex(accuracy.index).fillna(0)
    curve = np.column_stack([spent.to_numpy(), accuracy.to_numpy()])
    curve = curve[curve[:, 0] <= rollouts]
    return Outcome(
        accuracy=float(curve[-1, 1]),
        effective_ratio=summary.effective_ratio,
        never_solved=summary.never_solved,
        largest_budget=summary.largest_budget,
        minutes=summary.seconds / 60,
        accuracy_curve=curve,
    )


Outcomes = dict[str, dict[int, Outcome]]


def read_outcomes(jobs: list[Job]) -> Outcomes:
    """Return the outcome of every finished run by variant and seed."""
    outcomes: Outcomes = {}
    for job in jobs:
        if job.is_finished:
            outcome = outcome_of(load_run(job.run.run_folder), job.rollouts)
            outcomes.setdefault(job.variant.name, {})[job.seed] = outcome
    return outcomes


def comparison_table(outcomes: Outcomes) -> str:
    """Return the table as Markdown: mean +- standard deviation over seeds, differences to GRPO paired by seed."""
    header = (
        "method | seeds | held-out accuracy | difference to GRPO (wins) | effective ratio | never solved | "
        "largest budget | rollouts to reach GRPO's accuracy | minutes"
    )
    rows = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for name, by_seed in outcomes.items():
        baseline = outcomes.get(_BASELINE_OF.get(name, BASELINE), {})
        runs = list(by_seed.values())
        cells = [
            name,
            str(len(runs)),
            _mean_and_spread([run.accuracy for run in runs], 3),
            "" if name == BASELINE else _paired_difference(by_seed, baseline),
            _mean_and_spread([run.effective_ratio for run in runs], 3),
            _mean_and_spread([run.never_solved for run in runs], 0),
            str(max(run.largest_budget for run in runs)),
            _rollouts_to_match(by_seed, baseline),
            _mean_and_spread([run.minutes for run in runs], 1),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _mean_and_spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" +- {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def _paired_difference(by_seed: dict[int, Outcome], baseline: dict[int, Outcome]) -> str:
    differences = [run.accuracy - baseline[seed].accuracy for seed, run in by_seed.items() if seed in baseline]
    if not differences:
        return ""
    wins = sum(difference > 0 for difference in differences)
    return f"{np.mean(differences):+.3f} ({wins} of {len(differences)})"


def _rollouts_to_match(by_seed: dict[int, Outcome], baseline: dict[int, Outcome]) -> str:
    spent = [
        run.rollouts_to_reach(baseline[seed].accuracy) / baseline[seed].accuracy_curve[-1, 0]
        for seed, run in by_seed.items()
        if seed in baseline
    ]
    reached = [share for share in spent if np.isfinite(share)]
    if not spent:
        return ""
    if not reached:
        return f"not reached (0 of {len(spent)})"
    return f"{np.median(reached):.0%} of GRPO's ({len(reached)} of {len(spent)} reached it)"


# How a main row's curve looks, in colour and without it.
_STYLES = (
    ("tab:orange", "--", "s"),
    ("tab:blue", "-", "o"),
    ("tab:green", "-.", "^"),
    ("black", ":", "D"),
    ("tab:red", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("tab:purple", (0, (1, 3)), "P"),
)
_SEED_MARKERS = "os^DvP<>"


def draw(outcomes: Outcomes, variants: Sequence[Variant], picture: Path) -> None:
    """Draw the main rows as held-out accuracy against rollouts, the ablations and figure 9 as points.

    A panel is there if a row of its own is finished. The main rows are shown beside the others with their seeds only,
    for a seed is a task of its own.
    """
    all_rows = {group: [variant.name for variant in variants if variant.group == group] for group in _TITLES}
    names = {group: [name for name in rows if name in outcomes] for group, rows in all_rows.items()}
    shown = [group for group in _TITLES if names[group]]
    lower = [group for group in shown if group != "main"]
    layout = [["main"] * max(len(lower), 1)] * ("main" in shown) + [lower] * bool(lower)
    figure, panels = pyplot.subplot_mosaic(layout, figsize=(10.5, 4.3 * len(layout)), layout="constrained")
    positions = {name: position for position, name in enumerate(all_rows["main"])}
    for group, axes in panels.items():
        axes.set_title(_TITLES[group], loc="left", fontsize=10)
        axes.grid(alpha=0.3)
    if "main" in shown:
        _draw_curves(panels["main"], {name: outcomes[name] for name in names["main"]}, positions)
    if "ablation" in shown:
        _draw_points(panels["ablation"], _beside(outcomes, (BASELINE, KNAPSACK), names["ablation"]))
    if "rollouts" in shown:
        _draw_budgets(panels["rollouts"], _beside(outcomes, (BASELINE, KNAPSACK), names["rollouts"]))
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


_TITLES = {
    "main": "Methods with equal rollouts (thick: mean over seeds; thin: each seed)",
    "ablation": "Ablations (points: seeds; bars: means)",
    "rollouts": "N rollouts per prompt, equal steps",
}


def _beside(outcomes: Outcomes, main: Sequence[str], names: Sequence[str]) -> Outcomes:
    """Return the ``main`` rows, with those seeds only that one of the rows ``names`` has, and these rows."""
    seeds = {seed for name in names for seed in outcomes[name]}
    rows = {name: {seed: run for seed, run in outcomes.get(name, {}).items() if seed in seeds} for name in main}
    return {name: by_seed for name, by_seed in rows.items() if by_seed} | {name: outcomes[name] for name in names}


def _draw_curves(axes: Axes, outcomes: Outcomes, positions: dict[str, int]) -> None:
    """Draw held-out accuracy against rollouts: the mean over the seeds, and each of them if there is more than one.

    ``positions`` in `_STYLES` by row.
    """
    for name, by_seed in outcomes.items():
        position = positions[name] % len(_STYLES)
        color, line, marker = _STYLES[position]
        curves = [run.accuracy_curve for run in by_seed.values()]
        for curve in curves if len(curves) > 1 else []:
            axes.plot(curve[:, 0] / 1000, curve[:, 1], color=color, linestyle=line, linewidth=0.6, alpha=0.3)
        rollouts = np.linspace(0, min(curve[-1, 0] for curve in curves), 101)
        mean = np.mean([np.interp(rollouts, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
        axes.plot(
            rollouts / 1000,
            mean,
            color=color,
            linestyle=line,
            linewidth=2,
            marker=marker,
            markersize=6,
            markevery=(3 * position, 20),  # so that the markers of two rows do not cover each other
            label=f"{name} ({len(curves)} seed{'s' if len(curves) > 1 else ''})",
        )
    axes.set(xlabel="cumulative rollouts (thousands)", ylabel="held-out accuracy (avg@4)")
    axes.legend(frameon=False, loc="lower right", handlelength=3.5, fontsize=9)


def _draw_points(axes: Axes, outcomes: Outcomes) -> None:
    """Draw the final accuracy of each row's seeds as points, their mean as a bar, and a line at Knapsack-GRPO's."""
    seeds = sorted({seed for by_seed in outcomes.values() for seed in by_seed})
    for row, by_seed in enumerate(outcomes.values()):
        for seed, run in by_seed.items():
            marker = _SEED_MARKERS[seed % len(_SEED_MARKERS)]
            height = row + 0.5 * (seeds.index(seed) + 0.5 - len(seeds) / 2) / len(seeds)  # equal ones side by side
            axes.plot(run.accuracy, height, marker, color="black", markerfacecolor="white", markersize=6)
        mean = np.mean([run.accuracy for run in by_seed.values()])
        axes.plot([mean], [row], "|", color="tab:blue", markersize=20, markeredgewidth=3, zorder=1.5)
    if KNAPSACK in outcomes:
        reference = np.mean([run.accuracy for run in outcomes[KNAPSACK].values()])
        axes.axvline(reference, color="tab:blue", linestyle=":", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(outcomes)), list(outcomes))
    axes.set_ylim(len(outcomes) - 0.5, -1.3)  # room for the legend above the rows
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("held-out accuracy at the end (avg@4)")
    style = {"linestyle": "none", "color": "black", "markerfacecolor": "white"}
    handles = [
        Line2D([], [], marker=_SEED_MARKERS[seed % len(_SEED_MARKERS)], label=f"seed {seed}", **style) for seed in seeds
    ]
    narrow = {"frameon": False, "fontsize": 9, "ncols": len(handles), "columnspacing": 1, "handletextpad": 0}
    axes.legend(handles=handles, loc="upper center", **narrow)


def _draw_budgets(axes: Axes, outcomes: Outcomes) -> None:
    """Draw the final accuracy of GRPO and Knapsack-GRPO against the rollouts per prompt (paper, figure 9)."""
    for position, (method, rows) in enumerate(_BY_ROLLOUTS_PER_PROMPT.items()):
        color, line, marker = _STYLES[position]  # those of the methods' own panel
        accuracies = {
            n: [run.accuracy for run in outcomes[name].values()] for n, name in rows.items() if name in outcomes
        }
        for n, of_seeds in accuracies.items():  # hollow; the means are filled
            beside = [n * (0.97, 1.03)[position]] * len(of_seeds)  # the methods' points do not cover each other
            axes.plot(beside, of_seeds, marker, color=color, markerfacecolor="white", markersize=5)
        if accuracies:
            means = list(map(np.mean, accuracies.values()))
            axes.plot(list(accuracies), means, line, color=color, linewidth=2, marker=marker, label=method)
    axes.set_xscale("log", base=2)
    ticks = list(_BY_ROLLOUTS_PER_PROMPT[KNAPSACK])
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set(xlabel="rollouts per prompt, N", ylabel="held-out accuracy at the end (avg@4)")
    axes.legend(frameon=False, loc="best", handlelength=3.5, fontsize=9)


def runs_that_fit() -> int:
    """Return how many runs the machine has CPUs and free memory for, at least one."""
    by_memory = psutil.virtual_memory().available // _MEMORY_OF_A_RUN
    return max(1, min((os.cpu_count() or 1) // _CPUS_OF_A_RUN, by_memory))


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an interruption does: what is to be cleaned up is."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of the main rows")
    parser.add_argument("--ablation-seeds", type=int, default=None, help="seeds of the other rows (default: 2 at most)")
    parser.add_argument("--steps", type=int, default=240, help="training steps of GRPO, whose rollouts the others get")
    parser.add_argument("--parallel", type=int, default=None, help="runs at a time (default: what fits the machine)")
    parser.add_argument("--only", nargs="*", default=None, help="folders of the rows to run (default: all)")
    parser.add_argument("--show", action="store_true", help="show what is finished, run nothing")
    options = parser.parse_args(arguments)
    if options.parallel is not None and options.parallel < 1:
        parser.error(f"--parallel is {options.parallel}: at least 1 run at a time")
    variants = [variant for variant in VARIANTS if options.only is None or variant.folder in options.only]
    ablation_seeds = min(options.seeds, 2) if options.ablation_seeds is None else options.ablation_seeds
    output = options.output.absolute()
    if not options.show:
        with _ended_by_sigterm():
            jobs = make_jobs(output, variants, options.seeds, ablation_seeds, options.steps)
            run_jobs(jobs, options.parallel or runs_that_fit())
    # --only chooses what runs; its rows mean little without the baseline and the others that are finished.
    outcomes = read_outcomes(make_jobs(output, VARIANTS, options.seeds, ablation_seeds, options.steps))
    if not outcomes:
        sys.exit(f"error: no finished run in {output}")
    print("\n" + comparison_table(outcomes))
    (output / "comparison.md").write_text(comparison_table(outcomes) + "\n")
    draw(outcomes, VARIANTS, output / "comparison.png")
    print(f"\nTable: {output / 'comparison.md'}\nPicture: {output / 'comparison.png'}")


if __name__ == "__main__":
    main()
