"""The run report: its charts, its texts, and the page and pictures that they become."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from knapsack_rl import __version__
from knapsack_rl.provenance import MADE_BY
from knapsack_rl.run_folder import write_atomically
from recipe.knapsack.report import figures
from recipe.knapsack.report.figures import NothingToShow
from recipe.knapsack.report.report_page import Page, Section, Table, render
from recipe.knapsack.report.run_data import (
    METRICS_FILE,
    Run,
    RunSummary,
    common_sources,
    config_differences,
    summarize,
)

__all__ = ["CHARTS", "Chart", "write_report"]

PAGE_FILE = "report.html"
DOTS_PER_INCH = 160
CSS_PIXELS_PER_INCH = 96
UNKNOWN = "–"


@dataclass(frozen=True)
class Chart:
    """One figure of the report.

    Attributes:
        name: of its file and its anchor.
        title: its headline.
        reading: how to read it.
        draw: makes it from the runs; raises `NothingToShow` where they lack what it needs.
    """

    name: str
    title: str
    reading: str
    draw: Callable[[Sequence[Run]], Figure]


_SMOOTHED = "Lines are means over the last epoch, or the last quarter of the run if that is shorter."
_FEW_ROLLOUTS = (
    "A status is judged by the rollouts of one epoch: 2 right ones of 2 count as p = 1, just as 8 of 8 do, so compare "
    "runs with different budgets with care."
)

CHARTS: tuple[Chart, ...] = (
    Chart(
        "gradient_phases",
        "Phases of training",
        "Rollouts with a gradient are what training learns from; the higher the solid line, the better. The others "
        "are why rollouts are lost: prompts whose rollouts all fail (dotted: not solved yet) or all succeed (dashed: "
        f"nothing left to learn). {_SMOOTHED} Thin lines are single steps. (Paper, figure 2.)",
        figures.gradient_phases,
    ),
    Chart(
        "effective_gradient_ratio",
        "Effective-gradient ratio",
        "The share of all rollouts that contribute a non-zero gradient, side by side; the gap between two lines is "
        f"the share of the computation that one run wastes and the other does not. {_SMOOTHED} (Paper, figure 6.)",
        figures.effective_gradient_ratio,
    ),
    Chart(
        "held_out_accuracy",
        "Held-out accuracy",
        "Upper left is better: the same accuracy earlier. The panels count what it costs in training steps, rollouts, "
        "generated tokens and time; time is that inside the steps, with validation and checkpoints but without "
        "start-up.",
        figures.held_out_accuracy,
    ),
    Chart(
        "held_out_accuracy_by_source",
        "Held-out accuracy by data set",
        "As above, one panel per held-out set; avg@k is the mean over k answers to each question. Scales differ.",
        figures.held_out_accuracy_by_source,
    ),
    Chart(
        "budget_distribution",
        "Distribution of budgets",
        "Left, how often a prompt got so many rollouts at a step (logarithmic: large budgets are rare); right, "
        "which part of all rollouts went into budgets of that size. Homogeneous allocation is a single bar. (Paper, "
        "figure 5.)",
        figures.budget_distribution,
    ),
    Chart(
        "budgets_by_success_rate",
        "Budgets by estimated success rate",
        "What a prompt gets for the success rate that is believed of it at that time. The knapsack gives most to hard "
        "prompts with some success, the minimum to those that always succeeded (1), and what is left over to those "
        "that always failed (0).",
        figures.budgets_by_success_rate,
    ),
    Chart(
        "status_transitions",
        "Status transitions from epoch to epoch",
        "Row i, column j: of the prompts with status i in one epoch, the share with status j in the next; rows add up "
        f"to 100 %, the diagonal is what stays, right of it is progress. {_FEW_ROLLOUTS} (Paper, figure 7.)",
        figures.status_transitions,
    ),
    Chart(
        "status_first_to_last",
        "Status transitions over the whole run",
        "The same from a prompt's first epoch to its last: what training achieved for the prompts that were hard at "
        f"the beginning. {_FEW_ROLLOUTS}",
        figures.status_first_to_last,
    ),
    Chart(
        "final_status_counts",
        "Final statuses",
        "Number of prompts by their status in the last epoch that tried them; fewer on the left is better. "
        f"{_FEW_ROLLOUTS} (Paper, figure 8.)",
        figures.final_status_counts,
    ),
    Chart(
        "prompt_trajectories",
        "Single prompts",
        "Success rate of single prompts by epoch; larger marks are more rollouts. Drawn at random among the prompts "
        "whose success rate changed at all, with the seed given to the report. (Paper, figure 11.)",
        figures.prompt_trajectories,
    ),
    Chart(
        "calibration",
        "Calibration of the estimates",
        "Left, of the prompts believed to succeed at a rate, the rate that they had (bars: 95 % intervals of the "
        "mean). Above the diagonal, the policy has improved since the estimate was made. Right, the mean distance by "
        "step, where 0 is perfect.",
        figures.calibration,
    ),
    Chart(
        "tokens_per_step",
        "Generated tokens per step",
        "What a step's rollouts cost: runs with equal rollouts may differ, for the prompts that get most rollouts may "
        f"also have the longest answers. {_SMOOTHED} Thin lines are single steps.",
        figures.tokens_per_step,
    ),
    Chart(
        "step_time",
        "Where the time goes",
        "Mean time of a training step by what it is spent on. Allocation and task status are the cost of the method.",
        figures.step_time,
    ),
)


def write_report(
    runs: Sequence[Run], folder: Path, *, seed: int = 0, num_prompts: int = 12, refresh: int | None = None
) -> Path:
    """Write the page and its figures into ``folder`` and return the page's path.

    Args:
        runs: the runs to show side by side.
        folder: made if it does not exist; the files of an earlier report are replaced.
        seed: of the choice of single prompts.
        num_prompts: how many of them.
        refresh: seconds after which a browser loads the page again; None = never.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {"prompt_trajectories": {"seed": seed, "count": num_prompts}}
    sections, left_out = [], []
    for chart in tqdm(CHARTS, desc="figures", delay=1.0, leave=False, disable=None):
        picture = folder / f"{chart.name}.png"
        picture.unlink(missing_ok=True)
        try:
            section = _draw_section(chart, runs, options.get(chart.name, {}))
        except NothingToShow as nothing:
            left_out.append((chart.title, str(nothing)))
        else:
            picture.write_bytes(section.png)
            sections.append(section)
    page = folder / PAGE_FILE
    # Whole or not at all: a browser may load it at any time.
    write_atomically(page, render(_page(runs, sections, left_out), refresh))
    return page


def _draw_section(chart: Chart, runs: Sequence[Run], options: dict[str, int]) -> Section:
    figure = chart.draw(runs, **options)
    content = io.BytesIO()
    figure.savefig(content, dpi=DOTS_PER_INCH, format="png", metadata={"Software": None})
    width = round(figure.get_figwidth() * CSS_PIXELS_PER_INCH)
    reasons = [(run.name, figures.missing(chart.draw, run)) for run in runs]
    notes = [f"{name} is not shown. {reason}" for name, reason in reasons if reason is not None]
    return Section(chart.name, chart.title, chart.reading, content.getvalue(), width, notes)


# --- The page's texts -------------------------------------------------------------------------------------------------


def _page(runs: Sequence[Run], sections: Sequence[Section], left_out: Sequence[tuple[str, str]]) -> Page:
    names = ", ".join(run.name for run in runs)
    sources = common_sources(runs)
    summaries = [summarize(run, sources) for run in runs]
    return Page(
        title="Knapsack RL: run report",
        subtitle=f"{names} · made {time.strftime('%Y-%m-%d %H:%M')} with Knapsack RL {__version__}",
        summary=_summary_table(runs, summaries),
        summary_notes=_summary_notes(runs, sources),
        sections=sections,
        left_out=left_out,
        differences=_differences_table(runs),
        runs=[(run.name, _facts(run)) for run in runs],
        problems=[f"{run.name}: {problem}" for run in runs for problem in run.problems],
    )


def _summary_table(runs: Sequence[Run], summaries: Sequence[RunSummary]) -> Table:
    columns = (
        "run",
        "steps",
        "held-out accuracy",
        "effective ratio",
        "never solved",
        "largest budget",
        "rollouts",
        "tokens",
        "tokens per step",
        "time",
        "time per step",
    )
    rows = [
        (
            run.name,
            _steps(summary),
            _accuracy(summary),
            _text(summary.effective_ratio, lambda ratio: f"{ratio:.1%}"),
            _never_solved(summary),
            _text(summary.largest_budget, str),
            _text(summary.rollouts, lambda rollouts: f"{rollouts:,}"),
            _text(summary.tokens, _large),
            _text(summary.median_step_tokens, _large),
            _text(summary.seconds, _duration),
            _text(summary.median_step_seconds, _duration),
        )
        for run, summary in zip(runs, summaries, strict=True)
    ]
    return Table(columns, rows)


def _summary_notes(runs: Sequence[Run], sources: Sequence[str]) -> list[str]:
    notes = [
        "effective ratio: rollouts with a non-zero gradient / all rollouts (paper, equation 4), mean over the last "
        "quarter of the steps. never solved: training prompts without a single success in the whole run. time: inside "
        "the training steps, without start-up; per step, the median.",
    ]
    has_differing_sets = any(list(run.held_out_accuracy.columns) not in ([], list(sources)) for run in runs)
    if sources:
        among = ", the sets that all runs have in common" if has_differing_sets else ""
        mean = "mean of " if len(sources) > 1 else ""
        notes.insert(0, f"held-out accuracy: last validation, {mean}{', '.join(sources)}{among}.")
    elif has_differing_sets:
        notes.insert(0, "held-out accuracy: the runs have no held-out set in common, do not compare them.")
    return notes


def _steps(summary: RunSummary) -> str:
    if summary.planned_steps is None:
        return str(summary.last_step)
    return f"{summary.last_step} / {summary.planned_steps}"


def _accuracy(summary: RunSummary) -> str:
    if summary.accuracy is None:
        return UNKNOWN
    at_step = "" if summary.accuracy_step == summary.last_step else f" (step {summary.accuracy_step})"
    return f"{summary.accuracy:.1%}{at_step}"


def _never_solved(summary: RunSummary) -> str:
    return UNKNOWN if summary.never_solved is None else f"{summary.never_solved:,} of {summary.num_prompts:,}"


def _text(value: Any, form: Callable[[Any], str]) -> str:
    return UNKNOWN if value is None else form(value)


def _large(number: float) -> str:
    """A number as a reader says it.

    >>> _large(950), _large(15_300), _large(2_345_678)
    ('950', '15.3k', '2.3M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (size if unit != 'k' else 1e3):.1f}{unit}"
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    """Seconds as a reader says them.

    >>> _duration(0.5), _duration(95), _duration(3725), _duration(90000)
    ('0.50 s', '1 min 35 s', '1 h 02 min', '25 h 00 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _differences_table(runs: Sequence[Run]) -> Table | None:
    differences = config_differences(runs)
    if not differences:
        return None
    rows = [(key, *(_text(value, str) for value in values)) for key, values in differences.items()]
    return Table(("setting", *(run.name for run in runs)), rows)


_SHOWN_SETTINGS = (
    "actor_rollout_ref.model.path",
    "data.train_files",
    "data.train_batch_size",
    "actor_rollout_ref.rollout.n",
    "algorithm.adv_estimator",
    "algorithm.adv_clip",
    "algorithm.prompt_weight",
    "exploration.allocator",
    "exploration.total_budget",
    "exploration.n_low",
    "exploration.n_up",
    "exploration.value",
    "exploration.fallback",
    "exploration.success_rate.estimator",
    "exploration.dynamic_sampling.enable",
    "exploration.seed",
)


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [("folder", str(run.folder)), ("state", _state(run)), ("made by", _made_by(run))]
    if not run.history.empty and run.history["step"].max() < run.last_step:
        facts.append(
            (
                "per-prompt history",
                f"reaches step {run.history['step'].max()}; it is written at checkpoints and when a run ends, so "
                "figures about prompts end there",
            )
        )
    for key in _SHOWN_SETTINGS:
        if run.setting(key) is not None:
            facts.append((key, str(run.setting(key))))
    return facts


def _made_by(run: Run) -> str:
    version, commit = run.setting(f"{MADE_BY}.knapsack_rl"), run.setting(f"{MADE_BY}.commit")
    if version is None:
        return "a Knapsack RL that did not say so yet"
    return f"Knapsack RL {version}" + (f", commit {commit}" if commit else "")


def _state(run: Run) -> str:
    planned = run.planned_steps
    if planned is not None and run.last_step >= planned:
        return f"finished, {run.last_step} steps"
    metrics = run.folder / METRICS_FILE
    written = f", last wrote {_local_time(metrics.stat().st_mtime)}" if metrics.exists() else ""
    of = "" if planned is None else f" of {planned}"
    return f"step {run.last_step}{of}{written}" + ("" if planned is None else ": going on, or interrupted")


def _local_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
