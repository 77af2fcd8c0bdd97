"""Charts of a step's allocation for loggers: the budgets' histogram, and how budgets go with success rates.

The counting is pure arrays; wandb and matplotlib are imported only when a chart is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.classes import (
    SUCCESS_RATE_CLASSES,
    budget_range,
    budget_range_bounds,
    budget_range_label,
    success_rate_class,
)

__all__ = [
    "BUDGET_HISTOGRAM",
    "BUDGETS_BY_SUCCESS_RATE",
    "budget_histogram",
    "count_budgets_by_success_rate",
    "draw_budget_histogram",
    "draw_budgets_by_success_rate",
    "wandb_charts",
]

BUDGET_HISTOGRAM = "allocation/budgets"
BUDGETS_BY_SUCCESS_RATE = "allocation/budgets_by_success_rate"


def budget_histogram(budgets: Array, max_bins: int = 64) -> tuple[Array, Array]:
    """Count the prompts by budget.

    Args:
        budgets: (M,) int, rollouts of each prompt, M at least 1.
        max_bins: most bins, at least 1; with fewer distinct values between the extremes, every value has its own.

    Returns:
        (counts, edges): (bins,) int64 prompts, and (bins + 1,) float64 edges half-way between integers. All bins are
        equally wide, so the last may reach beyond the largest budget.

    Raises:
        ValueError: there are no budgets, or ``max_bins`` is below 1.

    >>> counts, edges = budget_histogram(np.array([2, 2, 4]))
    >>> counts.tolist(), edges.tolist()
    ([2, 0, 1], [1.5, 2.5, 3.5, 4.5])
    """
    budgets = np.asarray(budgets)
    if budgets.ndim != 1 or len(budgets) == 0 or max_bins < 1:
        raise ValueError(
            f"expected at least one budget and one bin, got budgets of shape {budgets.shape} and max_bins={max_bins}"
        )
    num_values = int(budgets.max() - budgets.min()) + 1
    width = -(-num_values // max_bins)
    bin_of_prompt = (budgets - budgets.min()) // width
    counts = np.bincount(bin_of_prompt, minlength=-(-num_values // width))
    return counts, budgets.min() - 0.5 + width * np.arange(len(counts) + 1, dtype=np.float64)


def count_budgets_by_success_rate(success_rates: Array, budgets: Array) -> tuple[Array, list[tuple[int, int]]]:
    """Count the prompts by estimated success rate and budget.

    Args:
        success_rates: (M,) float in [0, 1], the estimates that the allocation was made with; NaN = unseen.
        budgets: (M,) int, rollouts of each prompt, at least 1.

    Returns:
        (counts, ranges): (classes, ranges) int64 prompts, one row for each of ``SUCCESS_RATE_CLASSES``; and the
        smallest and largest budget of each column. Each column spans twice as many budgets as the one before it.

    Raises:
        ValueError: the shapes differ or are empty, a rate lies outside [0, 1], or a budget is below 1.

    >>> counts, ranges = count_budgets_by_success_rate(np.array([np.nan, 0.0, 0.5, 1.0]), np.array([8, 15, 4, 2]))
    >>> ranges
    [(2, 3), (4, 7), (8, 15)]
    >>> {name: row.tolist() for name, row in zip(SUCCESS_RATE_CLASSES, counts) if row.any()}
    {'unseen': [0, 0, 1], '0': [0, 0, 1], '0.5-0.6': [0, 1, 0], '1': [1, 0, 0]}
    """
    success_rates, budgets = np.asarray(success_rates, dtype=np.float64), np.asarray(budgets)
    if success_rates.shape != budgets.shape or budgets.ndim != 1 or len(budgets) == 0:
        raise ValueError(f"expected one rate for each budget, got shapes {success_rates.shape} and {budgets.shape}")
    if np.any((success_rates < 0) | (success_rates > 1)) or budgets.min() < 1:
        raise ValueError(
            f"expected rates in [0, 1] and budgets of at least 1, got rates from {np.nanmin(success_rates)} to "
            f"{np.nanmax(success_rates)} and budgets from {budgets.min()}"
        )
    range_of_prompt = budget_range(budgets)
    first = int(range_of_prompt.min())
    num_ranges = int(range_of_prompt.max()) - first + 1
    cells = success_rate_class(success_rates) * num_ranges + (range_of_prompt - first)
    counts = np.bincount(cells, minlength=len(SUCCESS_RATE_CLASSES) * num_ranges)
    ranges = [budget_range_bounds(index) for index in range(first, first + num_ranges)]
    return counts.reshape(len(SUCCESS_RATE_CLASSES), num_ranges), ranges


def draw_budget_histogram(budgets: Array) -> Array:
    """Draw the counts of :func:`budget_histogram`.

    Returns:
        (height, width, 3) uint8, an RGB picture.
    """
    from matplotlib.figure import Figure

    counts, edges = budget_histogram(budgets)
    figure = Figure(figsize=(6.4, 4.0), dpi=100)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.79))
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", edgecolor="white", linewidth=0.4)
    axes.set(xlabel="rollouts", ylabel="prompts", title="Prompts by budget")
    return _picture(figure)


def draw_budgets_by_success_rate(success_rates: Array, budgets: Array) -> Array:
    """Draw the counts of :func:`count_budgets_by_success_rate` as a heat map.

    Returns:
        (height, width, 3) uint8, an RGB picture.
    """
    from matplotlib.figure import Figure

    counts, ranges = count_budgets_by_success_rate(success_rates, budgets)
    figure = Figure(figsize=(6.4, 4.0), dpi=100)
    axes = figure.add_axes((0.17, 0.22, 0.81, 0.70))
    image = axes.imshow(np.log1p(counts.T), origin="lower", aspect="auto", cmap="Blues", vmin=0)
    is_dark = image.norm(np.log1p(counts.T)) > 0.5
    for row, column in np.argwhere(counts.T > 0):
        color = "white" if is_dark[row, column] else "black"
        axes.text(column, row, counts[column, row], ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(SUCCESS_RATE_CLASSES)), SUCCESS_RATE_CLASSES, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(ranges)), [budget_range_label(low.bit_length() - 1) for low, _ in ranges], fontsize=8)
    axes.set(xlabel="estimated success rate", ylabel="rollouts", title="Prompts by success rate and budget")
    return _picture(figure)


def _picture(figure: Any) -> Array:
    """(height, width, 3) uint8, what is on a Matplotlib figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: Array = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def wandb_charts(success_rates: Array, budgets: Array) -> dict[str, Any]:
    """Both charts as objects that ``wandb.log`` takes.

    Args:
        success_rates: (M,) float in [0, 1]; NaN = unseen.
        budgets: (M,) int, rollouts of each prompt.

    Returns:
        A ``wandb.Histogram`` under ``allocation/budgets`` and a ``wandb.Image`` under
        ``allocation/budgets_by_success_rate``.
    """
    import wandb

    return {
        BUDGET_HISTOGRAM: wandb.Histogram(np_histogram=budget_histogram(budgets)),
        BUDGETS_BY_SUCCESS_RATE: wandb.Image(draw_budgets_by_success_rate(success_rates, budgets)),
    }
