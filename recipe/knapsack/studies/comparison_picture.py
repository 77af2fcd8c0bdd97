"""The picture of the comparison: accuracy against rollouts, ablations, and rollouts per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from recipe.knapsack.studies.comparison_table import Outcomes  # noqa: E402
from recipe.knapsack.studies.comparison_variants import (  # noqa: E402
    BASELINE,
    BY_ROLLOUTS_PER_PROMPT,
    KNAPSACK,
    Variant,
)

# How a main row's curve looks, in colour and without it.
_STYLES = (
    ("tab:orange", "--", "s"),
    ("tab:blue", "-", "o"),
    ("tab:green", "-.", "^"),
    ("black", ":", "D"),
    ("tab:red", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("tab:purple", (0, (1, 3)), "P"),
)
_SEED_MARKERS = "os^DvP<>"


def draw(outcomes: Outcomes, variants: Sequence[Variant], picture: Path) -> None:
    """Draw the main rows as held-out accuracy against rollouts, the ablations and figure 9 as points.

    A panel is there if a row of its own is finished. The main rows are shown beside the others with their seeds only,
    for a seed is a task of its own.
    """
    all_rows = {group: [variant.name for variant in variants if variant.group == group] for group in _TITLES}
    names = {group: [name for name in rows if name in outcomes] for group, rows in all_rows.items()}
    shown = [group for group in _TITLES if names[group]]
    lower = [group for group in shown if group != "main"]
    width = 2 * max(len(lower), 1)
    layout = [["main"] * width, ["tokens"] * (width // 2) + ["seconds"] * (width // 2)] * ("main" in shown)
    layout += [[group for group in lower for _ in range(width // len(lower))]] if lower else []
    figure, panels = pyplot.subplot_mosaic(layout, figsize=(10.5, 4.3 * len(layout)), layout="constrained")
    positions = {name: position for position, name in enumerate(all_rows["main"])}
    for group, axes in panels.items():
        axes.set_title(_TITLES.get(group) or _COST_TITLES[group], loc="left", fontsize=10)
        axes.grid(alpha=0.3)
    if "main" in shown:
        main = {name: outcomes[name] for name in names["main"]}
        for cost, axes in (("main", panels["main"]), *((cost, panels[cost]) for cost in _COST_TITLES)):
            _draw_curves(axes, main, positions, *_COSTS[cost])
        panels["main"].legend(frameon=False, loc="best", handlelength=3.5, fontsize=9)
    if "ablation" in shown:
        _draw_points(panels["ablation"], _beside(outcomes, (BASELINE, KNAPSACK), names["ablation"]))
    if "rollouts" in shown:
        _draw_budgets(panels["rollouts"], _beside(outcomes, (BASELINE, KNAPSACK), names["rollouts"]))
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


_TITLES = {
    "main": "Methods with equal rollouts (thick: mean over seeds; thin: each seed)",
    "ablation": "Ablations (points: seeds; bars: means)",
    "rollouts": "N rollouts per prompt, equal steps",
}
_COST_TITLES = {"tokens": "Tokens: what the answers cost", "seconds": "Time: what the steps cost"}
# Column of the accuracy curve, what it is divided by, and the label of the axis.
_COSTS = {
    "main": (0, 1e3, "cumulative rollouts (thousands)"),
    "tokens": (2, 1e6, "generated tokens (millions)"),
    "seconds": (3, 60.0, "time in training steps (minutes)"),
}


def _beside(outcomes: Outcomes, main: Sequence[str], names: Sequence[str]) -> Outcomes:
    """Return the ``main`` rows, with those seeds only that one of the rows ``names`` has, and these rows."""
    seeds = {seed for name in names for seed in outcomes[name]}
    rows = {name: {seed: run for seed, run in outcomes.get(name, {}).items() if seed in seeds} for name in main}
    return {name: by_seed for name, by_seed in rows.items() if by_seed} | {name: outcomes[name] for name in names}


def _draw_curves(
    axes: Axes, outcomes: Outcomes, positions: dict[str, int], column: int, unit: float, label: str
) -> None:
    """Draw held-out accuracy against a cost: the mean over the seeds, and each of them if there is more than one.

    ``positions`` in `_STYLES` by row; ``column`` of the accuracy curves holds the cost. Runs that do not know it are
    left out.
    """
    for name, by_seed in outcomes.items():
        position = positions[name] % len(_STYLES)
        color, line, marker = _STYLES[position]
        curves = [
            run.accuracy_curve[:, [column, 1]] for run in by_seed.values() if run.accuracy_curve.shape[1] > column
        ]
        curves = [curve[np.isfinite(curve[:, 0])] for curve in curves]
        curves = [curve for curve in curves if len(curve)]
        if not curves:
            continue
        for curve in curves if len(curves) > 1 else []:
            axes.plot(curve[:, 0] / unit, curve[:, 1], color=color, linestyle=line, linewidth=0.6, alpha=0.3)
        spent = np.linspace(0, min(curve[-1, 0] for curve in curves), 101)
        mean = np.mean([np.interp(spent, curve[:, 0], curve[:, 1]) for curve in curves], axis=0)
        axes.plot(
            spent / unit,
            mean,
            color=color,
            linestyle=line,
            linewidth=2,
            marker=marker,
            markersize=6,
            markevery=(3 * position, 20),  # so that the markers of two rows do not cover each other
            label=f"{name} ({len(curves)} seed{'s' if len(curves) > 1 else ''})",
        )
    axes.set(xlabel=label, ylabel="held-out accuracy (avg@4)")


def _draw_points(axes: Axes, outcomes: Outcomes) -> None:
    """Draw the final accuracy of each row's seeds as points, their mean as a bar, and a line at Knapsack-GRPO's."""
    seeds = sorted({seed for by_seed in outcomes.values() for seed in by_seed})
    for row, by_seed in enumerate(outcomes.values()):
        for seed, run in by_seed.items():
            marker = _SEED_MARKERS[seed % len(_SEED_MARKERS)]
            height = row + 0.5 * (seeds.index(seed) + 0.5 - len(seeds) / 2) / len(seeds)  # equal ones side by side
            axes.plot(run.accuracy, height, marker, color="black", markerfacecolor="white", markersize=6)
        mean = np.mean([run.accuracy for run in by_seed.values()])
        axes.plot([mean], [row], "|", color="tab:blue", markersize=20, markeredgewidth=3, zorder=1.5)
    if KNAPSACK in outcomes:
        reference = np.mean([run.accuracy for run in outcomes[KNAPSACK].values()])
        axes.axvline(reference, color="tab:blue", linestyle=":", linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(outcomes)), list(outcomes))
    axes.set_ylim(len(outcomes) - 0.5, -1.3)  # room for the legend above the rows
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("held-out accuracy at the end (avg@4)")
    style = {"linestyle": "none", "color": "black", "markerfacecolor": "white"}
    handles = [
        Line2D([], [], marker=_SEED_MARKERS[seed % len(_SEED_MARKERS)], label=f"seed {seed}", **style) for seed in seeds
    ]
    narrow = {"frameon": False, "fontsize": 9, "ncols": len(handles), "columnspacing": 1, "handletextpad": 0}
    axes.legend(handles=handles, loc="upper center", **narrow)


def _draw_budgets(axes: Axes, outcomes: Outcomes) -> None:
    """Draw the final accuracy of GRPO and Knapsack-GRPO against the rollouts per prompt (paper, figure 9)."""
    for position, (method, rows) in enumerate(BY_ROLLOUTS_PER_PROMPT.items()):
        color, line, marker = _STYLES[position]  # those of the methods' own panel
        accuracies = {
            n: [run.accuracy for run in outcomes[name].values()] for n, name in rows.items() if name in outcomes
        }
        for n, of_seeds in accuracies.items():  # hollow; the means are filled
            beside = [n * (0.97, 1.03)[position]] * len(of_seeds)  # the methods' points do not cover each other
            axes.plot(beside, of_seeds, marker, color=color, markerfacecolor="white", markersize=5)
        if accuracies:
            means = list(map(np.mean, accuracies.values()))
            axes.plot(list(accuracies), means, line, color=color, linewidth=2, marker=marker, label=method)
    axes.set_xscale("log", base=2)
    ticks = list(BY_ROLLOUTS_PER_PROMPT[KNAPSACK])
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.set(xlabel="rollouts per prompt, N", ylabel="held-out accuracy at the end (avg@4)")
    axes.legend(frameon=False, loc="best", handlelength=3.5, fontsize=9)
