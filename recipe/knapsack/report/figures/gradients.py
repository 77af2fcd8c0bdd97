"""Figures of the effective gradients."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from recipe.knapsack.report.figures.parts import (
    TITLE_CHARACTERS,
    add_legend,
    label_outer,
    make_panels,
    plot_smoothed,
    wrapped,
)
from recipe.knapsack.report.figures.shown_runs import figure_of_runs
from recipe.knapsack.report.figures.style import BLUE, GREEN, ORANGE, run_style
from recipe.knapsack.report.run_data import ALL_NEGATIVE, ALL_POSITIVE, EFFECTIVE_RATIO, Run

MOST_RUNS_WITH_SINGLE_STEPS = 3  # with more, the unsmoothed lines hide each other


def _lacks_gradients(run: Run) -> str | None:
    if any(len(run.metric(key)) for key in (EFFECTIVE_RATIO, ALL_POSITIVE, ALL_NEGATIVE)):
        return None
    return f"None of {EFFECTIVE_RATIO}, {ALL_POSITIVE} and {ALL_NEGATIVE} was logged."


def _lacks_effective_ratio(run: Run) -> str | None:
    return f"The metric {EFFECTIVE_RATIO} was not logged." if run.metric(EFFECTIVE_RATIO).empty else None


@figure_of_runs(lacks=_lacks_gradients)
def gradient_phases(runs: Sequence[Run]) -> Figure:
    """Effective-gradient ratio and the shares of all-positive and all-negative prompts by step (paper, figure 2)."""
    lines = (
        (EFFECTIVE_RATIO, "rollouts with a gradient", BLUE, "-", "o"),
        (ALL_POSITIVE, "prompts with successes only", ORANGE, (0, (5, 1.5)), "^"),
        (ALL_NEGATIVE, "prompts with failures only", GREEN, (0, (1, 1)), "v"),
    )
    figure, panels = make_panels(len(runs), height=2.9, most_columns=2)
    for run, axes in zip(runs, panels, strict=True):
        for key, label, color, line, marker in lines:
            plot_smoothed(axes, run, run.metric(key), {"color": color, "linestyle": line, "marker": marker}, label)
        axes.set(title=wrapped(run.name, TITLE_CHARACTERS), ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].set_xlim(left=0)  # of all, which share it: a limit that is set ends the fitting to the data
    label_outer(panels, x="training step", y="share")
    add_legend(figure, panels)
    return figure


@figure_of_runs(lacks=_lacks_effective_ratio)
def effective_gradient_ratio(runs: Sequence[Run]) -> Figure:
    """Effective-gradient ratio by step, all runs together (paper, figure 6 and equation 4)."""
    figure, (axes,) = make_panels(1, height=3.6)
    for run in runs:
        plot_smoothed(
            axes,
            run,
            run.metric(EFFECTIVE_RATIO),
            run_style(run),
            run.name,
            show_single_steps=len(runs) <= MOST_RUNS_WITH_SINGLE_STEPS,
        )
    axes.set(ylim=(0, 1), xlabel="training step", ylabel="rollouts with a gradient")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    add_legend(figure, [axes])
    return figure
