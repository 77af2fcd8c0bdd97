"""The figures of a run report: runs in, Matplotlib figure out. Nothing is read from disk or kept between calls.

Every figure can be read in black and white: runs differ in line style and marker, bars in hatching. A figure raises
`NothingToShow` if none of the runs has what it needs.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from recipe.knapsack.report.prompt_dynamics import (
    ESTIMATE_BINS,
    STATUSES,
    StatusPairs,
    budgets_by_estimate,
    choose_prompts,
    final_statuses,
    first_and_last_statuses,
    next_statuses,
    prompt_epochs,
    reliability,
    transition_counts,
)
from recipe.knapsack.report.run_data import (
    ALL_NEGATIVE,
    ALL_POSITIVE,
    ALLOCATION_PHASE,
    EFFECTIVE_RATIO,
    OCCASIONAL_PHASES,
    OTHER_PHASE,
    PHASES,
    Run,
    common_sources,
)

__all__ = [
    "NothingToShow",
    "budget_distribution",
    "budgets_by_success_rate",
    "calibration",
    "effective_gradient_ratio",
    "final_status_counts",
    "gradient_phases",
    "held_out_accuracy",
    "held_out_accuracy_by_source",
    "missing",
    "prompt_trajectories",
    "smoothing_width",
    "status_first_to_last",
    "status_transitions",
    "step_time",
    "time_unit",
]

# Okabe and Ito (2008): distinguishable with every kind of colour blindness.
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)
COLORS = (VERMILLION, BLUE, GREEN, PURPLE, BLACK, SKY, ORANGE)
LINES: tuple[Any, ...] = ((0, (5, 1.5)), "-", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("s", "o", "^", "D", "v", "P", "X")
HATCHES = ("////", "", "....", "xxxx", "----", "\\\\\\\\", "++++")
GREY = "#6b6b6b"

STATUS_RANGES = ("p = 0", "0 < p ≤ 0.2", "0.2 < p < 0.8", "0.8 ≤ p < 1", "p = 1")

WIDTH = 10.0  # inches, of every figure but a single matrix
MOST_RUNS_WITH_SINGLE_STEPS = 3  # with more, the unsmoothed lines hide each other
CHARACTERS_PER_INCH = 13  # of a legend
TITLE_CHARACTERS = 38  # of a panel that has half of the width
TICK_CHARACTERS = 22
HANDLE_CHARACTERS = 9  # what line and gap of a legend's entry take
SMALLEST_MARKED_BUDGET = 2.0

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.parse_math": False,  # names of runs may hold dollar signs
    "xtick.color": "#333333",
    "xtick.labelsize": 8.5,
    "ytick.color": "#333333",
    "ytick.labelsize": 8.5,
}


class NothingToShow(ValueError):
    """No run has what the figure shows; the message is a sentence that says what is missing."""


Lacks = Callable[[Run], str | None]


def _figure(lacks: Lacks) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Decorate a figure: it is drawn in the common style, of those runs only for which ``lacks`` returns None."""

    def decorate(draw: Callable[..., Figure]) -> Callable[..., Figure]:
        @wraps(draw)
        def figure(runs: Sequence[Run], **options: Any) -> Figure:
            shown = [run for run in runs if lacks(run) is None]
            if not shown:
                raise NothingToShow(lacks(runs[0]) if runs else "There is no run.")
            with matplotlib.rc_context(STYLE):
                return draw(shown, **options)

        figure.lacks = lacks
        return figure

    return decorate


def missing(figure: Callable[..., Figure], run: Run) -> str | None:
    """A sentence that says why ``figure``, one of this module, does not show ``run``; None if it does."""
    return figure.lacks(run)


def _lacks_gradients(run: Run) -> str | None:
    if any(len(run.metric(key)) for key in (EFFECTIVE_RATIO, ALL_POSITIVE, ALL_NEGATIVE)):
        return None
    return f"None of {EFFECTIVE_RATIO}, {ALL_POSITIVE} and {ALL_NEGATIVE} was logged."


def _lacks_effective_ratio(run: Run) -> str | None:
    return f"The metric {EFFECTIVE_RATIO} was not logged." if run.metric(EFFECTIVE_RATIO).empty else None


def _lacks_validation(run: Run) -> str | None:
    if run.held_out_accuracy.empty:
        return "No validation was logged (trainer.test_freq, trainer.val_before_train)."
    return None


def _lacks_history(run: Run) -> str | None:
    if run.history.empty:
        return "No per-prompt history was written yet: that is done at every checkpoint and when a run ends."
    return None


def _lacks_second_epoch(run: Run) -> str | None:
    epochs = run.history.groupby("prompt_id")["epoch"].nunique()
    return None if (epochs > 1).any() else "No prompt was tried in two epochs yet."


def _lacks_estimates(run: Run) -> str | None:
    if run.history["estimate"].isna().all():
        return "No prompt has an estimated success rate yet: estimates begin with the second epoch."
    return None


def _lacks_timings(run: Run) -> str | None:
    return "No timings (timing_s/*) were logged." if run.phase_seconds.empty else None


# --- Gradients --------------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_gradients)
def gradient_phases(runs: Sequence[Run]) -> Figure:
    """Effective-gradient ratio and the shares of all-positive and all-negative prompts by step (paper, figure 2)."""
    lines = (
        (EFFECTIVE_RATIO, "rollouts with a gradient", BLUE, "-", "o"),
        (ALL_POSITIVE, "prompts with successes only", ORANGE, (0, (5, 1.5)), "^"),
        (ALL_NEGATIVE, "prompts with failures only", GREEN, (0, (1, 1)), "v"),
    )
    figure, panels = _panels(len(runs), height=2.9, most_columns=2)
    for run, axes in zip(runs, panels, strict=True):
        for key, label, color, line, marker in lines:
            _plot_smoothed(axes, run, run.metric(key), {"color": color, "linestyle": line, "marker": marker}, label)
        axes.set(title=_wrapped(run.name, TITLE_CHARACTERS), ylim=(0, 1))
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _label_outer(panels, x="training step", y="share")
    _legend(figure, panels)
    return figure


@_figure(lacks=_lacks_effective_ratio)
def effective_gradient_ratio(runs: Sequence[Run]) -> Figure:
    """Effective-gradient ratio by step, all runs together (paper, figure 6 and equation 4)."""
    figure, (axes,) = _panels(1, height=3.6)
    for run in runs:
        _plot_smoothed(
            axes,
            run,
            run.metric(EFFECTIVE_RATIO),
            _run_style(run),
            run.name,
            show_single_steps=len(runs) <= MOST_RUNS_WITH_SINGLE_STEPS,
        )
    axes.set(ylim=(0, 1), xlabel="training step", ylabel="rollouts with a gradient")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend(figure, [axes])
    return figure


# --- Held-out accuracy ------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_validation)
def held_out_accuracy(runs: Sequence[Run]) -> Figure:
    """Mean accuracy over the held-out sets against steps, cumulative rollouts and wall time."""
    sources = common_sources(runs)
    if not sources:
        raise NothingToShow("The runs have no held-out set in common.")
    figure, panels = _panels(3, height=3.4, most_columns=3, share_x=False)
    unit, unit_seconds = time_unit(max((run.cumulative_seconds.max() for run in _timed(runs)), default=0.0))
    for run in runs:
        accuracy = run.held_out_accuracy[sources].mean(axis=1, skipna=False).dropna()
        style = {**_run_style(run), "label": run.name, "clip_on": False}  # the first validation lies on the border
        panels[0].plot(accuracy.index, accuracy, **style)
        _plot_against(panels[1], accuracy, run.cumulative_rollouts, style)
        _plot_against(panels[2], accuracy, run.cumulative_seconds / unit_seconds, style)
    for axes, label in zip(panels, ("training step", "rollouts generated", f"wall time ({unit})"), strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if not axes.lines:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
    panels[1].xaxis.set_major_formatter(EngFormatter(sep=""))
    panels[0].set_ylabel(f"accuracy, {sources[0] if len(sources) == 1 else f'mean of {len(sources)} held-out sets'}")
    _legend(figure, [panels[0]])
    return figure


@_figure(lacks=_lacks_validation)
def held_out_accuracy_by_source(runs: Sequence[Run]) -> Figure:
    """Accuracy on every held-out set against steps; for runs with at least two sets."""
    sources = sorted({source for run in runs for source in run.held_out_accuracy.columns})
    if len(sources) < 2:
        raise NothingToShow("There is only one held-out set, and held-out accuracy is shown for it.")
    figure, panels = _panels(len(sources), height=2.6, most_columns=3, share_y=False)
    for source, axes in zip(sources, panels, strict=True):
        for run in runs:
            if source in run.held_out_accuracy:
                accuracy = run.held_out_accuracy[source].dropna()
                axes.plot(accuracy.index, accuracy, **_run_style(run), label=run.name)
        axes.set_title(_wrapped(source, TITLE_CHARACTERS))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _label_outer(panels, x="training step", y="accuracy")
    _legend(figure, panels)
    return figure


def _timed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not run.cumulative_seconds.empty]


def _plot_against(axes: Axes, accuracy: pd.Series, cumulative: pd.Series, style: dict[str, Any]) -> None:
    if not cumulative.empty:
        axes.plot(cumulative.reindex(accuracy.index), accuracy, **style)


def time_unit(seconds: float) -> tuple[str, float]:
    """A unit in which ``seconds`` is a handy number: its symbol and its length in seconds.

    >>> time_unit(90), time_unit(1200), time_unit(86400)
    (('s', 1.0), ('min', 60.0), ('h', 3600.0))
    """
    if seconds < 180:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


# --- Budgets ----------------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_history)
def budget_distribution(runs: Sequence[Run]) -> Figure:
    """How often a prompt got how many rollouts, and which part of all rollouts that took (paper, figure 5)."""
    _check_budgets_differ(runs)
    edges = _doubling_edges(
        min(int(run.history["budget"].min()) for run in runs), max(int(run.history["budget"].max()) for run in runs)
    )
    figure, (frequency, spent) = _panels(2, height=3.4, most_columns=2, share_y=False)
    prompts, rollouts = {}, {}
    for run in runs:
        budgets = run.history["budget"].to_numpy()
        bins = np.searchsorted(edges, budgets, side="right") - 1
        prompts[run.position] = np.bincount(bins, minlength=len(edges)) / len(budgets)
        rollouts[run.position] = np.bincount(bins, weights=budgets, minlength=len(edges)) / budgets.sum()
    _grouped_bars(frequency, runs, prompts)
    _grouped_bars(spent, runs, rollouts)
    smallest = min(share[share > 0].min() for share in prompts.values())
    frequency.set(yscale="log", ylim=(10 ** math.floor(math.log10(smallest) - 0.05), 1.4), title="How often it happens")
    frequency.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g}%"))
    frequency.yaxis.set_minor_formatter(NullFormatter())
    frequency.set_ylabel("share of prompts and steps (log)")
    spent.set(title="Where the rollouts go", ylabel="share of all rollouts")
    spent.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (frequency, spent):
        axes.set_xticks(range(len(edges)), _doubling_labels(edges))
        axes.set_xlabel("rollouts for one prompt at one step")
        axes.grid(axis="x", visible=False)
    _legend(figure, [frequency])
    return figure


def _doubling_edges(smallest: int, largest: int) -> np.ndarray:
    """Lower ends of the bins 1, 2, 3-4, 5-8, ... from the one that holds ``smallest`` to that of ``largest``."""
    edges = np.array([1, *(2**power + 1 for power in range(max(largest - 1, 0).bit_length()))])
    return edges[np.searchsorted(edges, max(smallest, 1), side="right") - 1 :]


def _doubling_labels(edges: np.ndarray) -> list[str]:
    ends = [*(edges[1:] - 1), max(2 * (edges[-1] - 1), 1)]
    return [str(start) if start == end else f"{start}-{end}" for start, end in zip(edges, ends, strict=True)]


@_figure(lacks=_lacks_history)
def budgets_by_success_rate(runs: Sequence[Run]) -> Figure:
    """Rollouts of a prompt by the success rate that the allocation assumed for it: median, 80 % of them, largest."""
    _check_budgets_differ(runs)
    figure, (axes,) = _panels(1, height=3.9)
    tables = [budgets_by_estimate(run.history) for run in runs]
    for run, offset, table in zip(runs, _offsets(len(runs), 0.7), tables, strict=True):
        x = table.index.to_numpy() + offset
        style = _run_style(run)
        axes.vlines(x, table["lower"], table["upper"], color=style["color"], linewidth=3, alpha=0.35)
        axes.plot(x, table["median"], style["marker"], color=style["color"], markersize=6, label=run.name)
        axes.plot(x, table["largest"], "_", color=style["color"], markersize=7, markeredgewidth=1.5)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rollouts, _: f"{rollouts:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(ESTIMATE_BINS)), ESTIMATE_BINS)
    axes.set_xlim(-0.6, len(ESTIMATE_BINS) - 0.4)
    axes.set(xlabel="estimated success rate", ylabel="rollouts for one prompt at one step (log)")
    axes.grid(axis="x", visible=False)
    for border in np.arange(len(ESTIMATE_BINS) - 1) + 0.5:
        axes.axvline(border, color="#e6e6e6", linewidth=0.8, zorder=0)
    parts = [
        Line2D([], [], color=GREY, marker="o", linestyle="none", label="median"),
        Line2D([], [], color=GREY, linewidth=3, alpha=0.5, label="80 % of the prompts"),
        Line2D([], [], color=GREY, marker="_", linestyle="none", markeredgewidth=1.5, label="largest"),
    ]
    _legend(figure, [axes], extra=parts)
    return figure


def _check_budgets_differ(runs: Sequence[Run]) -> None:
    budgets = np.unique(np.concatenate([run.history["budget"].unique() for run in runs]))
    if len(budgets) == 1:
        raise NothingToShow(f"Every prompt got {budgets[0]} rollouts at every step: there is no distribution to show.")


# --- Prompt statuses --------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_second_epoch)
def status_transitions(runs: Sequence[Run]) -> Figure:
    """5x5 matrix: a prompt's status in the next epoch in which it is tried, given that in one (paper, figure 7)."""
    return _transition_matrices(runs, next_statuses, before="status in one epoch", after="status in the next epoch")


@_figure(lacks=_lacks_second_epoch)
def status_first_to_last(runs: Sequence[Run]) -> Figure:
    """5x5 matrix: the status of a prompt in the last epoch of the run, given that in the first (paper, figure 7)."""
    return _transition_matrices(
        runs, first_and_last_statuses, before="status in the first epoch", after="status in the last epoch"
    )


def _transition_matrices(
    runs: Sequence[Run], pairs_of: Callable[[pd.DataFrame], StatusPairs], before: str, after: str
) -> Figure:
    matrices = {run.name: transition_counts(pairs_of(prompt_epochs(run.history))) for run in runs}
    figure, panels = _panels(len(matrices), height=3.9, most_columns=2, share_x=False, share_y=False)
    if len(matrices) == 1:
        figure.set_figwidth(0.6 * WIDTH)
    for (name, counts), axes in zip(matrices.items(), panels, strict=True):
        _draw_matrix(axes, counts)
        axes.set_title(_wrapped(name, TITLE_CHARACTERS))
        axes.set_xlabel(after)
    for axes in panels[::2]:
        axes.set_ylabel(before)
    return figure


def _draw_matrix(axes: Axes, counts: np.ndarray) -> None:
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], where=totals[:, None] > 0, out=np.full(counts.shape, np.nan))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(np.arange(len(STATUSES) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(STATUSES) + 1) - 0.5, minor=True)
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            axes.text(
                column,
                row,
                f"{share:.1%}",
                ha="center",
                va="center",
                color=_share_ink(share),
                fontweight="bold" if row == column else "normal",
            )
    axes.set_xticks(range(len(STATUSES)), [status.replace(" ", "\n") for status in STATUSES])
    names = zip(STATUSES, STATUS_RANGES, totals, strict=True)
    labels = [f"{status}\n{span}\nn = {total:,}" for status, span, total in names]
    axes.set_yticks(range(len(STATUSES)), labels)
    axes.tick_params(which="both", length=0)
    axes.grid(visible=False)
    axes.grid(which="minor", color="#c9ced6", linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _share_ink(share: float) -> str:
    """Colour of a number in the matrix: what rounds to nothing steps back."""
    if share < 0.0005:
        return "#9a9a9a"
    return "white" if share > 0.6 else "black"


@_figure(lacks=_lacks_history)
def final_status_counts(runs: Sequence[Run]) -> Figure:
    """Number of prompts by their status in the last epoch that tried them (paper, figure 8)."""
    figure, (axes,) = _panels(1, height=3.4)
    counts = {run.position: final_statuses(prompt_epochs(run.history)) for run in runs}
    for bars in _grouped_bars(axes, runs, counts):
        if len(runs) <= 4:
            axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8.5)
    labels = [f"{status}\n{span}" for status, span in zip(STATUSES, STATUS_RANGES, strict=True)]
    axes.set_xticks(range(len(STATUSES)), labels)
    axes.set(xlabel="status in the prompt's last epoch", ylabel="prompts")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda prompts, _: f"{prompts:,.0f}"))
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    _legend(figure, [axes])
    return figure


@_figure(lacks=_lacks_second_epoch)
def prompt_trajectories(runs: Sequence[Run], count: int = 12, seed: int = 0) -> Figure:
    """Success rate and rollouts of single prompts by epoch (paper, figure 11).

    Args:
        runs: the runs.
        count: number of prompts, drawn at random among those whose success rate changed.
        seed: of that choice.
    """
    visits_of_runs = [prompt_epochs(run.history) for run in runs]
    prompts = choose_prompts(visits_of_runs, count, seed)
    if not prompts:
        raise NothingToShow("No prompt's success rate has changed from one epoch to another yet.")
    figure, panels = _panels(len(prompts), height=1.75, most_columns=4)
    for prompt, axes in zip(prompts, panels, strict=True):
        for run, visits in zip(runs, visits_of_runs, strict=True):
            visits = visits[visits["prompt_id"] == prompt]
            style = _run_style(run)
            line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.1}
            axes.plot(visits["epoch"], visits["success_rate"], **line)
            axes.scatter(
                visits["epoch"],
                visits["success_rate"],
                s=_marker_area(visits["budget"]),
                marker=style["marker"],
                facecolors="white" if len(runs) > 1 and run is runs[0] else style["color"],
                edgecolors=style["color"],
                linewidths=0.9,
                alpha=0.85,
                zorder=3,
            )
        axes.set_title(f"prompt {prompt[:8]}", fontsize=8.5, fontweight="normal")
        axes.set_ylim(-0.12, 1.12)
        axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _label_outer(panels, x="epoch", y="success rate")
    _trajectory_legend(figure, runs)
    return figure


def _marker_area(budgets: Any) -> Any:
    """Square points; grows with the number of rollouts, but slower: 128 of them must not hide the other prompts."""
    return 5.0 * np.sqrt(np.maximum(budgets, SMALLEST_MARKED_BUDGET))


def _trajectory_legend(figure: Figure, runs: Sequence[Run]) -> None:
    handles = []
    for run in runs:
        style = _run_style(run)
        face = "white" if len(runs) > 1 and run is runs[0] else style["color"]
        handles.append(Line2D([], [], **{**style, "markersize": 5, "markerfacecolor": face}, label=run.name))
    for budget in (2, 8, 32, 128):
        size = math.sqrt(_marker_area(budget))
        handles.append(
            Line2D([], [], marker="o", linestyle="none", color=GREY, markersize=size, label=f"{budget} rollouts")
        )
    _place_legend(figure, handles)


# --- Estimates --------------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_estimates)
def calibration(runs: Sequence[Run]) -> Figure:
    """Observed against estimated success rates, and how far they lie apart as training goes on."""
    has_error = any(len(run.metric("beliefs/calibration_error")) for run in runs)
    figure, panels = _panels(2 if has_error else 1, height=4.0, most_columns=2, share_x=False, share_y=False)
    _draw_reliability(panels[0], runs)
    if has_error:
        for run in runs:
            error = run.metric("beliefs/calibration_error")
            _plot_smoothed(panels[1], run, error, _run_style(run), run.name, show_single_steps=False)
        panels[1].set(title="Error by step", xlabel="training step", ylabel="expected calibration error")
        panels[1].set_xlim(left=0)
        panels[1].set_ylim(bottom=0)
    _legend(figure, [panels[0]])
    return figure


def _draw_reliability(axes: Axes, runs: Sequence[Run]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate("perfect", (0.5, 0.5), (4, -11), textcoords="offset points", color=GREY, fontsize=8, rotation=0)
    for run in runs:
        table = reliability(run.history)
        axes.errorbar(
            table["estimated"],
            table["observed"],
            yerr=1.96 * table["standard_error"].fillna(0),
            **_run_style(run),
            elinewidth=1,
            capsize=2,
            label=run.name,
        )
    axes.set(title="Reliability", xlabel="estimated success rate", ylabel="observed success rate")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))


# --- Time -------------------------------------------------------------------------------------------------------------


@_figure(lacks=_lacks_timings)
def step_time(runs: Sequence[Run]) -> Figure:
    """Mean seconds of each phase of a step, and seconds per step as training goes on."""
    means = pd.DataFrame({run.name: run.phase_seconds.mean() for run in runs})
    figure = Figure(figsize=(WIDTH, 2.9 + 0.6 * len(runs)))
    mean_axes, step_axes = figure.subplots(1, 2, width_ratios=(3, 2))
    _stacked_bars(mean_axes, means)
    for run in runs:
        seconds = run.phase_seconds.drop(columns=list(OCCASIONAL_PHASES)).sum(axis=1)
        _plot_smoothed(step_axes, run, seconds, _run_style(run), run.name, show_single_steps=False)
    mean_axes.set(title="By phase", xlabel="mean seconds per step")
    step_axes.set(title="By step, without validation\nand checkpoints", xlabel="training step", ylabel="seconds")
    step_axes.set_xlim(left=0)
    step_axes.set_ylim(0, step_axes.get_ylim()[1] * 1.05)
    mean_axes.set_yticks(range(len(runs)), [_wrapped(run.name, TICK_CHARACTERS) for run in runs])
    _legend(figure, [mean_axes])
    if len(runs) > 1:
        _legend(figure, [step_axes], place="outside lower right")
    return figure


def _stacked_bars(axes: Axes, means: pd.DataFrame) -> None:
    """One horizontal bar per column of ``means``, with one segment per row that is not zero everywhere."""
    colors = (BLUE, GREEN, SKY, PURPLE, VERMILLION, BLACK, ORANGE, "#F0E442", "#ffffff")
    hatches = ("", "....", "////", "xxxx", "\\\\\\\\", "", "----", "++++", "")
    ends = np.zeros(means.shape[1])
    for phase, color, hatch in zip((*PHASES, OTHER_PHASE), colors, hatches, strict=True):
        widths = means.loc[phase].to_numpy()
        if widths.max() > 0:
            axes.barh(
                means.columns, widths, 0.62, ends, color=color, hatch=hatch, edgecolor=_ink_on(color), label=phase
            )
            ends += widths
    for row, (end, allocation) in enumerate(zip(ends, means.loc[ALLOCATION_PHASE], strict=True)):
        text = f" {end:.3g} s,\n allocation\n {_short_time(allocation)}"
        axes.text(end, row, text, va="center", fontsize=8, linespacing=1.1)
    axes.set_xlim(0, ends.max() * 1.2)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _short_time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.2g} ms"


# --- Common parts -----------------------------------------------------------------------------------------------------


def _run_style(run: Run) -> dict[str, Any]:
    """How the lines of a run look; the same in every figure."""
    return {
        "color": COLORS[run.position % len(COLORS)],
        "linestyle": LINES[run.position % len(LINES)],
        "marker": MARKERS[run.position % len(MARKERS)],
    }


def _panels(
    count: int, *, height: float, most_columns: int = 1, share_x: bool = True, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels, each ``height`` inches high, in rows of at most ``most_columns``."""
    columns = min(count, most_columns)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height + 0.35))
    grid = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    for axes in grid[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    return figure, list(grid[:count])


def _label_outer(panels: Sequence[Axes], x: str, y: str) -> None:
    """Label the x axes of the lowest panels and the y axes of those on the left."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for axes in panels[-columns:]:
        axes.set_xlabel(x)
    for axes in panels[::columns]:
        axes.set_ylabel(y)


def _wrapped(name: str, width: int) -> str:
    return "\n".join(textwrap.wrap(name, width)) or name


def _legend(
    figure: Figure, panels: Sequence[Axes], extra: Sequence[Any] = (), place: str = "outside upper left"
) -> None:
    """One legend above all panels, or where ``place`` says, with every label once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    _place_legend(figure, [*handles.values(), *extra], place)


def _place_legend(figure: Figure, handles: Sequence[Any], place: str = "outside upper left") -> None:
    longest = max(len(handle.get_label()) for handle in handles)
    fitting = int(figure.get_figwidth() * CHARACTERS_PER_INCH) // (longest + HANDLE_CHARACTERS)
    rows = math.ceil(len(handles) / max(fitting, 1))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=list(handles), loc=place, ncols=columns, handlelength=3.2)


def smoothing_width(run: Run) -> int:
    """Number of steps over which lines are averaged: an epoch, but at most a quarter of the run."""
    num_steps = max(run.last_step, 1)
    return max(min(run.steps_per_epoch or 10, num_steps // 4), 1)


def _plot_smoothed(
    axes: Axes, run: Run, values: pd.Series, style: dict[str, Any], label: str, show_single_steps: bool = True
) -> None:
    if values.empty:
        return
    width = smoothing_width(run)
    if show_single_steps and width > 1:
        axes.plot(values.index, values, color=style["color"], linewidth=0.7, alpha=0.3)
    smooth = values.rolling(width, min_periods=1).mean()
    # Markers of different runs at different steps, so that they do not cover each other.
    distance = max(len(smooth) // 8, 1)
    first = (run.position * distance // 3) % distance if len(smooth) > distance else 0
    # Unclipped, for the marker of the first step lies on the border of the panel.
    axes.plot(smooth.index, smooth, **style, markevery=(first, distance), label=label, clip_on=False)


def _offsets(count: int, width: float) -> np.ndarray:
    """Positions of ``count`` things side by side within ``width``, centred on 0."""
    return (np.arange(count) - (count - 1) / 2) * width / count


def _grouped_bars(axes: Axes, runs: Sequence[Run], heights: dict[int, np.ndarray]) -> list[BarContainer]:
    """Bars of all runs side by side; ``heights`` by the runs' positions."""
    containers = []
    for run, offset in zip(runs, _offsets(len(runs), 0.8), strict=True):
        color = COLORS[run.position % len(COLORS)]
        values = heights[run.position]
        containers.append(
            axes.bar(
                np.arange(len(values)) + offset,
                values,
                0.8 / len(runs),
                color=color,
                hatch=HATCHES[run.position % len(HATCHES)],
                edgecolor=_ink_on(color),
                linewidth=0.6,
                label=run.name,
            )
        )
    return containers


def _ink_on(color: str) -> str:
    """Black or white, whichever can be seen on ``color``."""
    red, green, blue = to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
