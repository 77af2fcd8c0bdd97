"""How figures look: colours, line styles, markers and hatches of runs, and Matplotlib's settings."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import to_rgb

from recipe.knapsack.report.run_data import Run

# Okabe and Ito (2008): distinguishable with every kind of colour blindness.
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)
COLORS = (VERMILLION, BLUE, GREEN, PURPLE, BLACK, SKY, ORANGE)
LINES: tuple[Any, ...] = ((0, (5, 1.5)), "-", (0, (6, 1.5, 1, 1.5)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("s", "o", "^", "D", "v", "P", "X")
HATCHES = ("////", "", "....", "xxxx", "----", "\\\\\\\\", "++++")
GREY = "#6b6b6b"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.parse_math": False,  # names of runs may hold dollar signs
    "xtick.color": "#333333",
    "xtick.labelsize": 8.5,
    "ytick.color": "#333333",
    "ytick.labelsize": 8.5,
}


def run_style(run: Run) -> dict[str, Any]:
    """How the lines of a run look; the same in every figure."""
    return {
        "color": COLORS[run.position % len(COLORS)],
        "linestyle": LINES[run.position % len(LINES)],
        "marker": MARKERS[run.position % len(MARKERS)],
    }


def ink_on(color: str) -> str:
    """Black or white, whichever can be seen on ``color``."""
    red, green, blue = to_rgb(color)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
