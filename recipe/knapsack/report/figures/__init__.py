"""The figures of a run report: runs in, Matplotlib figure out. Nothing is read from disk or kept between calls.

Every figure can be read in black and white: runs differ in line style and marker, bars in hatching. A figure raises
`NothingToShow` if none of the runs has what it needs.
"""

from recipe.knapsack.report.figures.accuracy import held_out_accuracy, held_out_accuracy_by_source
from recipe.knapsack.report.figures.budgets import budget_distribution, budgets_by_success_rate
from recipe.knapsack.report.figures.estimates import calibration
from recipe.knapsack.report.figures.gradients import effective_gradient_ratio, gradient_phases
from recipe.knapsack.report.figures.shown_runs import NothingToShow, missing
from recipe.knapsack.report.figures.statuses import (
    final_status_counts,
    prompt_trajectories,
    status_first_to_last,
    status_transitions,
)
from recipe.knapsack.report.figures.step_times import step_time
from recipe.knapsack.report.figures.tokens import tokens_per_step

__all__ = [
    "NothingToShow",
    "budget_distribution",
    "budgets_by_success_rate",
    "calibration",
    "effective_gradient_ratio",
    "final_status_counts",
    "gradient_phases",
    "held_out_accuracy",
    "held_out_accuracy_by_source",
    "missing",
    "prompt_trajectories",
    "status_first_to_last",
    "status_transitions",
    "step_time",
    "tokens_per_step",
]
