"""The figure of where a step's time goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.knapsack.report.figures.parts import WIDTH, add_legend, plot_smoothed, wrapped
from recipe.knapsack.report.figures.shown_runs import figure_of_runs
from recipe.knapsack.report.figures.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, ink_on, run_style
from recipe.knapsack.report.run_data import ALLOCATION_PHASE, OCCASIONAL_PHASES, OTHER_PHASE, PHASES, Run

TICK_CHARACTERS = 22


def _lacks_timings(run: Run) -> str | None:
    return "No timings (timing_s/*) were logged." if run.phase_seconds.empty else None


@figure_of_runs(lacks=_lacks_timings)
def step_time(runs: Sequence[Run]) -> Figure:
    """Mean seconds of each phase of a step, and seconds per step as training goes on."""
    means = pd.DataFrame({run.name: run.phase_seconds.mean() for run in runs})
    figure = Figure(figsize=(WIDTH, 2.9 + 0.6 * len(runs)))
    mean_axes, step_axes = figure.subplots(1, 2, width_ratios=(3, 2))
    _stacked_bars(mean_axes, means)
    for run in runs:
        seconds = run.phase_seconds.drop(columns=list(OCCASIONAL_PHASES)).sum(axis=1)
        plot_smoothed(step_axes, run, seconds, run_style(run), run.name, show_single_steps=False)
    mean_axes.set(title="By phase", xlabel="mean seconds per step")
    step_axes.set(title="By step, without validation\nand checkpoints", xlabel="training step", ylabel="seconds")
    step_axes.set_xlim(left=0)
    step_axes.set_ylim(0, step_axes.get_ylim()[1] * 1.05)
    mean_axes.set_yticks(range(len(runs)), [wrapped(run.name, TICK_CHARACTERS) for run in runs])
    add_legend(figure, [mean_axes])
    if len(runs) > 1:
        add_legend(figure, [step_axes], place="outside lower right")
    return figure


def _stacked_bars(axes: Axes, means: pd.DataFrame) -> None:
    """One horizontal bar per column of ``means``, with one segment per row that is not zero everywhere."""
    colors = (BLUE, GREEN, SKY, PURPLE, VERMILLION, BLACK, ORANGE, "#F0E442", "#ffffff")
    hatches = ("", "....", "////", "xxxx", "\\\\\\\\", "", "----", "++++", "")
    ends = np.zeros(means.shape[1])
    for phase, color, hatch in zip((*PHASES, OTHER_PHASE), colors, hatches, strict=True):
        widths = means.loc[phase].to_numpy()
        if widths.max() > 0:
            axes.barh(means.columns, widths, 0.62, ends, color=color, hatch=hatch, edgecolor=ink_on(color), label=phase)
            ends += widths
    for row, (end, allocation) in enumerate(zip(ends, means.loc[ALLOCATION_PHASE], strict=True)):
        text = f" {end:.3g} s,\n allocation\n {_short_time(allocation)}"
        axes.text(end, row, text, va="center", fontsize=8, linespacing=1.1)
    axes.set_xlim(0, ends.max() * 1.2)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)


def _short_time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.2g} ms"
