"""Figures of the budgets: how large they are, and for which prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from knapsack_rl.classes import SUCCESS_RATE_CLASSES, budget_range, budget_range_label
from recipe.knapsack.report.figures.parts import add_legend, grouped_bars, make_panels, offsets
from recipe.knapsack.report.figures.shown_runs import NothingToShow, figure_of_runs, lacks_history
from recipe.knapsack.report.figures.style import GREY, run_style
from recipe.knapsack.report.prompt_dynamics import budgets_by_estimate
from recipe.knapsack.report.run_data import Run


@figure_of_runs(lacks=lacks_history)
def budget_distribution(runs: Sequence[Run]) -> Figure:
    """How often a prompt got how many rollouts, and which part of all rollouts that took (paper, figure 5)."""
    _check_budgets_differ(runs)
    lowest = int(min(budget_range(run.history["budget"].to_numpy()).min() for run in runs))
    highest = int(max(budget_range(run.history["budget"].to_numpy()).max() for run in runs))
    num_ranges = highest - lowest + 1
    figure, (frequency, spent) = make_panels(2, height=3.4, most_columns=2, share_y=False)
    prompts, rollouts = {}, {}
    for run in runs:
        budgets = run.history["budget"].to_numpy()
        bins = budget_range(budgets) - lowest
        prompts[run.position] = np.bincount(bins, minlength=num_ranges) / len(budgets)
        rollouts[run.position] = np.bincount(bins, weights=budgets, minlength=num_ranges) / budgets.sum()
    grouped_bars(frequency, runs, prompts)
    grouped_bars(spent, runs, rollouts)
    smallest = min(share[share > 0].min() for share in prompts.values())
    frequency.set(yscale="log", ylim=(10 ** math.floor(math.log10(smallest) - 0.05), 1.4), title="How often it happens")
    frequency.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:g}%"))
    frequency.yaxis.set_minor_formatter(NullFormatter())
    frequency.set_ylabel("share of prompts and steps (log)")
    spent.set(title="Where the rollouts go", ylabel="share of all rollouts")
    spent.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (frequency, spent):
        axes.set_xticks(range(num_ranges), [budget_range_label(index) for index in range(lowest, highest + 1)])
        axes.set_xlabel("rollouts for one prompt at one step")
        axes.grid(axis="x", visible=False)
    add_legend(figure, [frequency])
    return figure


@figure_of_runs(lacks=lacks_history)
def budgets_by_success_rate(runs: Sequence[Run]) -> Figure:
    """Rollouts of a prompt by the success rate that the allocation assumed for it: median, 80 % of them, largest."""
    _check_budgets_differ(runs)
    figure, (axes,) = make_panels(1, height=3.9)
    tables = [budgets_by_estimate(run.history) for run in runs]
    for run, offset, table in zip(runs, offsets(len(runs), 0.7), tables, strict=True):
        x = table.index.to_numpy() + offset
        style = run_style(run)
        axes.vlines(x, table["lower"], table["upper"], color=style["color"], linewidth=3, alpha=0.35)
        axes.plot(x, table["median"], style["marker"], color=style["color"], markersize=6, label=run.name)
        axes.plot(x, table["largest"], "_", color=style["color"], markersize=7, markeredgewidth=1.5)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rollouts, _: f"{rollouts:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(range(len(SUCCESS_RATE_CLASSES)), SUCCESS_RATE_CLASSES)
    axes.set_xlim(-0.6, len(SUCCESS_RATE_CLASSES) - 0.4)
    axes.set(xlabel="estimated success rate", ylabel="rollouts for one prompt at one step (log)")
    axes.grid(axis="x", visible=False)
    for border in np.arange(len(SUCCESS_RATE_CLASSES) - 1) + 0.5:
        axes.axvline(border, color="#e6e6e6", linewidth=0.8, zorder=0)
    parts = [
        Line2D([], [], color=GREY, marker="o", linestyle="none", label="median"),
        Line2D([], [], color=GREY, linewidth=3, alpha=0.5, label="80 % of the prompts"),
        Line2D([], [], color=GREY, marker="_", linestyle="none", markeredgewidth=1.5, label="largest"),
    ]
    add_legend(figure, [axes], extra=parts)
    return figure


def _check_budgets_differ(runs: Sequence[Run]) -> None:
    budgets = np.unique(np.concatenate([run.history["budget"].unique() for run in runs]))
    if len(budgets) == 1:
        raise NothingToShow(f"Every prompt got {budgets[0]} rollouts at every step: there is no distribution to show.")
