"""The figure of the estimates' calibration."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipe.knapsack.report.figures.parts import add_legend, make_panels, plot_smoothed
from recipe.knapsack.report.figures.shown_runs import figure_of_runs
from recipe.knapsack.report.figures.style import GREY, run_style
from recipe.knapsack.report.prompt_dynamics import reliability
from recipe.knapsack.report.run_data import Run


def _lacks_estimates(run: Run) -> str | None:
    if run.history["estimate"].isna().all():
        return "No prompt has an estimated success rate yet: estimates begin with the second epoch."
    return None


@figure_of_runs(lacks=_lacks_estimates)
def calibration(runs: Sequence[Run]) -> Figure:
    """Observed against estimated success rates, and how far they lie apart as training goes on."""
    has_error = any(len(run.metric("beliefs/calibration_error")) for run in runs)
    figure, panels = make_panels(2 if has_error else 1, height=4.0, most_columns=2, share_x=False, share_y=False)
    _draw_reliability(panels[0], runs)
    if has_error:
        for run in runs:
            error = run.metric("beliefs/calibration_error")
            plot_smoothed(panels[1], run, error, run_style(run), run.name, show_single_steps=False)
        panels[1].set(title="Error by step", xlabel="training step", ylabel="expected calibration error")
        panels[1].set_xlim(left=0)
        panels[1].set_ylim(bottom=0)
    add_legend(figure, [panels[0]])
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
            **run_style(run),
            elinewidth=1,
            capsize=2,
            label=run.name,
        )
    axes.set(title="Reliability", xlabel="estimated success rate", ylabel="observed success rate")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
