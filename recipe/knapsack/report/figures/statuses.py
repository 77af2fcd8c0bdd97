"""Figures of the statuses of prompts, and of single prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from knapsack_rl.classes import DIFFICULTIES
from recipe.knapsack.report.figures.parts import (
    TITLE_CHARACTERS,
    WIDTH,
    add_legend,
    grouped_bars,
    label_outer,
    make_panels,
    place_legend,
    wrapped,
)
from recipe.knapsack.report.figures.shown_runs import NothingToShow, figure_of_runs, lacks_history, lacks_second_epoch
from recipe.knapsack.report.figures.style import GREY, run_style
from recipe.knapsack.report.prompt_dynamics import (
    StatusPairs,
    choose_prompts,
    final_statuses,
    first_and_last_statuses,
    next_statuses,
    prompt_epochs,
    transition_counts,
)
from recipe.knapsack.report.run_data import Run

_TITLES = [difficulty.title for difficulty in DIFFICULTIES]
_INTERVALS = [difficulty.interval.replace("<=", "≤") for difficulty in DIFFICULTIES]
SMALLEST_MARKED_BUDGET = 2.0


@figure_of_runs(lacks=lacks_second_epoch)
def status_transitions(runs: Sequence[Run]) -> Figure:
    """5x5 matrix: a prompt's status in the next epoch in which it is tried, given that in one (paper, figure 7)."""
    return _transition_matrices(runs, next_statuses, before="status in one epoch", after="status in the next epoch")


@figure_of_runs(lacks=lacks_second_epoch)
def status_first_to_last(runs: Sequence[Run]) -> Figure:
    """5x5 matrix: the status of a prompt in the last epoch of the run, given that in the first (paper, figure 7)."""
    return _transition_matrices(
        runs, first_and_last_statuses, before="status in the first epoch", after="status in the last epoch"
    )


def _transition_matrices(
    runs: Sequence[Run], pairs_of: Callable[[pd.DataFrame], StatusPairs], before: str, after: str
) -> Figure:
    matrices = {run.name: transition_counts(pairs_of(prompt_epochs(run.history))) for run in runs}
    figure, panels = make_panels(len(matrices), height=3.9, most_columns=2, share_x=False, share_y=False)
    if len(matrices) == 1:
        figure.set_figwidth(0.6 * WIDTH)
    for (name, counts), axes in zip(matrices.items(), panels, strict=True):
        _draw_matrix(axes, counts)
        axes.set_title(wrapped(name, TITLE_CHARACTERS))
        axes.set_xlabel(after)
    for axes in panels[::2]:
        axes.set_ylabel(before)
    return figure


def _draw_matrix(axes: Axes, counts: np.ndarray) -> None:
    totals = counts.sum(axis=1)
    shares = np.divide(counts, totals[:, None], where=totals[:, None] > 0, out=np.full(counts.shape, np.nan))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    axes.set_xticks(np.arange(len(DIFFICULTIES) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(DIFFICULTIES) + 1) - 0.5, minor=True)
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
    axes.set_xticks(range(len(DIFFICULTIES)), [status.replace(" ", "\n") for status in _TITLES])
    names = zip(_TITLES, _INTERVALS, totals, strict=True)
    labels = [f"{status}\n{span}\nn = {total:,}" for status, span, total in names]
    axes.set_yticks(range(len(DIFFICULTIES)), labels)
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


@figure_of_runs(lacks=lacks_history)
def final_status_counts(runs: Sequence[Run]) -> Figure:
    """Number of prompts by their status in the last epoch that tried them (paper, figure 8)."""
    figure, (axes,) = make_panels(1, height=3.4)
    counts = {run.position: final_statuses(prompt_epochs(run.history)) for run in runs}
    for bars in grouped_bars(axes, runs, counts):
        if len(runs) <= 4:
            axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8.5)
    labels = [f"{status}\n{span}" for status, span in zip(_TITLES, _INTERVALS, strict=True)]
    axes.set_xticks(range(len(DIFFICULTIES)), labels)
    axes.set(xlabel="status in the prompt's last epoch", ylabel="prompts")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda prompts, _: f"{prompts:,.0f}"))
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    add_legend(figure, [axes])
    return figure


@figure_of_runs(lacks=lacks_second_epoch)
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
    figure, panels = make_panels(len(prompts), height=1.75, most_columns=4)
    for prompt, axes in zip(prompts, panels, strict=True):
        for run, visits in zip(runs, visits_of_runs, strict=True):
            visits = visits[visits["prompt_id"] == prompt]
            style = run_style(run)
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
    label_outer(panels, x="epoch", y="success rate")
    _trajectory_legend(figure, runs)
    return figure


def _marker_area(budgets: Any) -> Any:
    """Square points; grows with the number of rollouts, but slower: 128 of them must not hide the other prompts."""
    return 5.0 * np.sqrt(np.maximum(budgets, SMALLEST_MARKED_BUDGET))


def _trajectory_legend(figure: Figure, runs: Sequence[Run]) -> None:
    handles = []
    for run in runs:
        style = run_style(run)
        face = "white" if len(runs) > 1 and run is runs[0] else style["color"]
        handles.append(Line2D([], [], **{**style, "markersize": 5, "markerfacecolor": face}, label=run.name))
    for budget in (2, 8, 32, 128):
        size = math.sqrt(_marker_area(budget))
        handles.append(
            Line2D([], [], marker="o", linestyle="none", color=GREY, markersize=size, label=f"{budget} rollouts")
        )
    place_legend(figure, handles)
