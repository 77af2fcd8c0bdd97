"""Which runs a figure shows: those that have what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from recipe.knapsack.report.figures.style import STYLE
from recipe.knapsack.report.run_data import Run


class NothingToShow(ValueError):
    """No run has what the figure shows; the message is a sentence that says what is missing."""


Lacks = Callable[[Run], str | None]


def figure_of_runs(lacks: Lacks) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Decorate a figure: it is drawn in the common style, of those runs only for which ``lacks`` returns None."""

    def decorate(draw: Callable[..., Figure]) -> Callable[..., Figure]:
        @wraps(draw)
        def figure(runs: Sequence[Run], **options: Any) -> Figure:
            shown = [run for run in runs if lacks(run) is None]
            if not shown:
                raise NothingToShow(lacks(runs[0]) if runs else "There is no run.")
            with matplotlib.rc_context(STYLE):
                return draw(shown, **options)

        figure.lacks = lacks
        return figure

    return decorate


def missing(figure: Callable[..., Figure], run: Run) -> str | None:
    """A sentence that says why ``figure``, one of this package, does not show ``run``; None if it does."""
    return figure.lacks(run)


def lacks_history(run: Run) -> str | None:
    """A sentence if the run has no per-prompt history."""
    if run.history.empty:
        return "No per-prompt history was written yet: that is done at every checkpoint and when a run ends."
    return None


def lacks_second_epoch(run: Run) -> str | None:
    """A sentence if the run's history has no prompt of two epochs."""
    epochs = run.history.groupby("prompt_id")["epoch"].nunique()
    return None if (epochs > 1).any() else "No prompt was tried in two epochs yet."
