"""Figures of the held-out accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from recipe.knapsack.report.figures.parts import TITLE_CHARACTERS, add_legend, label_outer, make_panels, wrapped
from recipe.knapsack.report.figures.shown_runs import NothingToShow, figure_of_runs
from recipe.knapsack.report.figures.style import GREY, run_style
from recipe.knapsack.report.run_data import Run, common_sources


def _lacks_validation(run: Run) -> str | None:
    if run.held_out_accuracy.empty:
        return "No validation was logged (trainer.test_freq, trainer.val_before_train)."
    return None


@figure_of_runs(lacks=_lacks_validation)
def held_out_accuracy(runs: Sequence[Run]) -> Figure:
    """Mean accuracy over the held-out sets against steps, cumulative rollouts, generated tokens and wall time."""
    sources = common_sources(runs)
    if not sources:
        raise NothingToShow("The runs have no held-out set in common.")
    figure, panels = make_panels(4, height=2.9, most_columns=2, share_x=False)
    unit, unit_seconds = time_unit(max((run.cumulative_seconds.max() for run in _timed(runs)), default=0.0))
    for run in runs:
        accuracy = run.held_out_accuracy[sources].mean(axis=1, skipna=False).dropna()
        style = {**run_style(run), "label": run.name, "clip_on": False}  # the first validation lies on the border
        panels[0].plot(accuracy.index, accuracy, **style)
        _plot_against(panels[1], accuracy, run.cumulative_rollouts, style)
        _plot_against(panels[2], accuracy, run.cumulative_tokens, style)
        _plot_against(panels[3], accuracy, run.cumulative_seconds / unit_seconds, style)
    labels = ("training step", "rollouts generated", "tokens generated", f"wall time ({unit})")
    for axes, label in zip(panels, labels, strict=True):
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        if not axes.lines:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=GREY)
    for axes in panels[1:3]:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in panels[::2]:
        axes.set_ylabel(f"accuracy, {sources[0] if len(sources) == 1 else f'mean of {len(sources)} held-out sets'}")
    add_legend(figure, [panels[0]])
    return figure


@figure_of_runs(lacks=_lacks_validation)
def held_out_accuracy_by_source(runs: Sequence[Run]) -> Figure:
    """Accuracy on every held-out set against steps; for runs with at least two sets."""
    sources = sorted({source for run in runs for source in run.held_out_accuracy.columns})
    if len(sources) < 2:
        raise NothingToShow("There is only one held-out set, and held-out accuracy is shown for it.")
    figure, panels = make_panels(len(sources), height=2.6, most_columns=3, share_y=False)
    for source, axes in zip(sources, panels, strict=True):
        for run in runs:
            if source in run.held_out_accuracy:
                accuracy = run.held_out_accuracy[source].dropna()
                axes.plot(accuracy.index, accuracy, **run_style(run), label=run.name)
        axes.set_title(wrapped(source, TITLE_CHARACTERS))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    label_outer(panels, x="training step", y="accuracy")
    add_legend(figure, panels)
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
