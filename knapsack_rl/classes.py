"""The classes in which metrics, charts and reports sort prompts: by success rate, by difficulty, by budget."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from knapsack_rl.arrays import Array

__all__ = [
    "DIFFICULTIES",
    "SUCCESS_RATE_CLASSES",
    "Difficulty",
    "budget_range",
    "budget_range_bounds",
    "budget_range_label",
    "difficulty_of",
    "success_rate_class",
]


class Difficulty(NamedTuple):
    """A class of prompts by their observed success rate p: its name and its range in words."""

    name: str
    interval: str

    @property
    def title(self) -> str:
        """The name in words.

        >>> Difficulty("extremely_hard", "p = 0").title
        'extremely hard'
        """
        return self.name.replace("_", " ")


DIFFICULTIES = (
    Difficulty("extremely_hard", "p = 0"),
    Difficulty("hard", "0 < p <= 0.2"),
    Difficulty("medium", "0.2 < p < 0.8"),
    Difficulty("easy", "0.8 <= p < 1"),
    Difficulty("extremely_easy", "p = 1"),
)
"""The five classes of the paper (section 5.2, figure 7); every success rate belongs to exactly one."""

SUCCESS_RATE_CLASSES = ("unseen", "0", *(f"{tenth / 10:.1f}-{(tenth + 1) / 10:.1f}" for tenth in range(10)), "1")
"""Classes of estimated success rates: never seen, 0, the tenths of (0, 1) without their upper ends, 1.

Estimates of exactly 0 and 1 are classes of their own, because the allocation has rules of its own for them.
"""


def difficulty_of(success_rates: Array) -> Array:
    """The difficulty of prompts as (K,) int64 indices into `DIFFICULTIES`.

    Args:
        success_rates: (K,) float in [0, 1].

    Raises:
        ValueError: a rate is NaN or outside [0, 1].

    >>> difficulty_of(np.array([0.0, 0.2, 0.5, 0.8, 1.0]))
    array([0, 1, 2, 3, 4])
    """
    rates = np.asarray(success_rates, dtype=np.float64)
    is_rate = (rates >= 0) & (rates <= 1)
    if not is_rate.all():
        raise ValueError(f"success rates must be in [0, 1], got {rates[~is_rate][0]}")
    index: Array = (rates > 0).astype(np.int64) + (rates > 0.2) + (rates >= 0.8) + (rates == 1)
    return index


def success_rate_class(success_rates: Array) -> Array:
    """The class of estimated success rates as (K,) int64 indices into `SUCCESS_RATE_CLASSES`; NaN = unseen.

    >>> [SUCCESS_RATE_CLASSES[index] for index in success_rate_class(np.array([np.nan, 0.0, 0.05, 0.1, 0.95, 1.0]))]
    ['unseen', '0', '0.0-0.1', '0.1-0.2', '0.9-1.0', '1']
    """
    rates = np.asarray(success_rates, dtype=np.float64)
    tenth = np.searchsorted(np.arange(1, 10) / 10, rates, side="right")
    return np.select(
        [np.isnan(rates), rates == 0, rates == 1], [0, 1, len(SUCCESS_RATE_CLASSES) - 1], default=2 + tenth
    )


def budget_range(budgets: Array) -> Array:
    """The range of budgets as (K,) int64: range r holds 2^r to 2^(r+1) - 1 rollouts, so 1, 2-3, 4-7, 8-15 and so on.

    Raises:
        ValueError: a budget is below 1.

    >>> budget_range(np.array([1, 2, 3, 8, 128]))
    array([0, 1, 1, 3, 7])
    """
    budgets = np.asarray(budgets)
    if budgets.size and budgets.min() < 1:
        raise ValueError(f"budgets must be at least 1 rollout, got {budgets.min()}")
    return np.frexp(budgets)[1].astype(np.int64) - 1


def budget_range_bounds(index: int) -> tuple[int, int]:
    """Smallest and largest budget of a range.

    >>> budget_range_bounds(3)
    (8, 15)
    """
    return 2**index, 2 ** (index + 1) - 1


def budget_range_label(index: int) -> str:
    """A range in words.

    >>> [budget_range_label(index) for index in range(4)]
    ['1', '2-3', '4-7', '8-15']
    """
    low, high = budget_range_bounds(index)
    return str(low) if low == high else f"{low}-{high}"
