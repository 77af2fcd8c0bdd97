"""What figures are put together from: panels, legends, smoothed lines and grouped bars."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from recipe.knapsack.report.figures.style import COLORS, HATCHES, ink_on
from recipe.knapsack.report.run_data import Run

WIDTH = 10.0  # inches, of every figure but a single matrix
CHARACTERS_PER_INCH = 13  # of a legend
TITLE_CHARACTERS = 38  # of a panel that has half of the width
HANDLE_CHARACTERS = 9  # what line and gap of a legend's entry take


def make_panels(
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


def label_outer(panels: Sequence[Axes], x: str, y: str) -> None:
    """Label the x axes of the lowest panels and the y axes of those on the left."""
    columns = panels[0].get_subplotspec().get_gridspec().ncols
    for axes in panels[-columns:]:
        axes.set_xlabel(x)
    for axes in panels[::columns]:
        axes.set_ylabel(y)


def wrapped(name: str, width: int) -> str:
    """``name`` in lines of at most ``width`` characters."""
    return "\n".join(textwrap.wrap(name, width)) or name


def add_legend(
    figure: Figure, panels: Sequence[Axes], extra: Sequence[Any] = (), place: str = "outside upper left"
) -> None:
    """One legend above all panels, or where ``place`` says, with every label once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    place_legend(figure, [*handles.values(), *extra], place)


def place_legend(figure: Figure, handles: Sequence[Any], place: str = "outside upper left") -> None:
    """A legend of ``handles`` in as many columns as fit the figure's width."""
    longest = max(len(handle.get_label()) for handle in handles)
    fitting = int(figure.get_figwidth() * CHARACTERS_PER_INCH) // (longest + HANDLE_CHARACTERS)
    rows = math.ceil(len(handles) / max(fitting, 1))
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=list(handles), loc=place, ncols=columns, handlelength=3.2)


def smoothing_width(run: Run) -> int:
    """Number of steps over which lines are averaged: an epoch, but at most a quarter of the run."""
    num_steps = max(run.last_step, 1)
    return max(min(run.steps_per_epoch or 10, num_steps // 4), 1)


def plot_smoothed(
    axes: Axes, run: Run, values: pd.Series, style: dict[str, Any], label: str, show_single_steps: bool = True
) -> None:
    """Draw a metric by step, averaged over `smoothing_width` steps, above a thin line of the single steps."""
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


def offsets(count: int, width: float) -> np.ndarray:
    """Positions of ``count`` things side by side within ``width``, centred on 0."""
    return (np.arange(count) - (count - 1) / 2) * width / count


def grouped_bars(axes: Axes, runs: Sequence[Run], heights: dict[int, np.ndarray]) -> list[BarContainer]:
    """Bars of all runs side by side; ``heights`` by the runs' positions."""
    containers = []
    for run, offset in zip(runs, offsets(len(runs), 0.8), strict=True):
        color = COLORS[run.position % len(COLORS)]
        values = heights[run.position]
        containers.append(
            axes.bar(
                np.arange(len(values)) + offset,
                values,
                0.8 / len(runs),
                color=color,
                hatch=HATCHES[run.position % len(HATCHES)],
                edgecolor=ink_on(color),
                linewidth=0.6,
                label=run.name,
            )
        )
    return containers
