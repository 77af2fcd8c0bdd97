"""Figure of what rollouts cost in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from recipe.knapsack.report.figures.parts import add_legend, make_panels, plot_smoothed
from recipe.knapsack.report.figures.shown_runs import figure_of_runs, lacks_history
from recipe.knapsack.report.figures.style import run_style
from recipe.knapsack.report.run_data import Run


@figure_of_runs(lacks=lacks_history)
def tokens_per_step(runs: Sequence[Run]) -> Figure:
    """Response tokens generated at each step."""
    figure, (axes,) = make_panels(1, height=3.2)
    for run in runs:
        plot_smoothed(axes, run, run.tokens_per_step, run_style(run), run.name)
    axes.set(xlabel="training step", ylabel="tokens generated")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    add_legend(figure, [axes])
    return figure
