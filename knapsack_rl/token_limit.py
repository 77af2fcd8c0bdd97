"""A limit on the tokens that the rollouts of a step are expected to have, and how an allocation keeps within it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.options import Option, is_number

__all__ = ["TOKEN_LIMIT", "TokenLimit", "cheapest_budgets", "is_share", "least_factor", "limit_of_step", "within"]

_SLACK = 1e-9  # of the limit, for sums that are equal but for rounding


def is_share(value: Any) -> bool:
    """Whether a limit is a multiple of what homogeneous allocation would generate, as in ``1.0x``."""
    return isinstance(value, str) and value.endswith("x")


def _factor(value: Any) -> float:
    try:
        return float(value[:-1]) if is_share(value) else float(value)
    except (TypeError, ValueError):
        return float("nan")


TOKEN_LIMIT = Option(
    "null, a number of tokens above 0, or a multiple of homogeneous allocation's such as 1.0x",
    lambda value: value is None or ((is_share(value) or is_number(value)) and 0 < _factor(value) < float("inf")),
)
"""What ``exploration.max_expected_tokens`` accepts."""


def least_factor(num_prompts: int, total_budget: int, n_low: int) -> float:
    """The least multiple of homogeneous allocation's tokens that there can be, whatever the lengths.

    >>> least_factor(num_prompts=256, total_budget=2048, n_low=2)
    0.25
    """
    return num_prompts * n_low / total_budget


def cheapest_budgets(lengths: Array, total_budget: int, n_low: int, n_up: int) -> Array:
    """(M,) int64, the budgets that have the fewest tokens: the shortest prompts get `n_up`, the others `n_low`.

    >>> cheapest_budgets(np.array([30.0, 10.0, 20.0]), 12, 2, 6).tolist()
    [2, 6, 4]
    """
    order = np.argsort(lengths, kind="stable")
    before = np.arange(len(lengths)) * (n_up - n_low)
    budgets = np.empty(len(lengths), dtype=np.int64)
    budgets[order] = n_low + np.clip(total_budget - len(lengths) * n_low - before, 0, n_up - n_low)
    return budgets


@dataclass(frozen=True, eq=False)  # equality of arrays is not a truth value
class TokenLimit:
    """At most so many tokens are expected of the rollouts of a step.

    Attributes:
        lengths: (M,) float, expected tokens of a rollout of each prompt, at least 0.
        max_tokens: most tokens of all rollouts together.

    Raises:
        ValueError: a length or the limit is negative or no number.
    """

    lengths: Array
    max_tokens: float

    def __post_init__(self) -> None:
        lengths = np.asarray(self.lengths)
        are_numbers = lengths.dtype.kind in "iuf"
        if lengths.ndim != 1 or not are_numbers or not (np.isfinite(lengths) & (lengths >= 0)).all():
            raise ValueError(f"lengths must be numbers of at least 0, one per prompt; got {self.lengths}")
        if not (is_number(self.max_tokens) and self.max_tokens >= 0):
            raise ValueError(f"max_tokens must be a number of at least 0, got {self.max_tokens!r}")
        object.__setattr__(self, "lengths", lengths.astype(np.float64))

    def tokens(self, budgets: Array) -> float:
        """Expected tokens of budgets."""
        return float(budgets @ self.lengths)

    def allows(self, budgets: Array) -> bool:
        """Whether budgets are within the limit."""
        return self.tokens(budgets) <= self.max_tokens * (1.0 + _SLACK)

    def for_others(self, others: Array, floors: Array, budget: int, n_low: int, n_up: int) -> TokenLimit:
        """What others leave to the prompts with these indices by having their floors; at least what they need."""
        lengths = self.lengths[others]
        taken = self.tokens(floors) - float(floors[others] @ lengths)
        least = float(cheapest_budgets(lengths, budget, n_low, n_up) @ lengths)
        return TokenLimit(lengths, max(self.max_tokens - taken, least))

    def check(self, total_budget: int, n_low: int, n_up: int) -> None:
        """Refuse a limit that no budgets can meet.

        Raises:
            ValueError: naming the least possible.
        """
        least = self.tokens(cheapest_budgets(self.lengths, total_budget, n_low, n_up))
        if least > self.max_tokens * (1.0 + _SLACK):
            raise ValueError(
                f"at most {self.max_tokens:.6g} expected tokens cannot be met by total_budget={total_budget} rollouts "
                f"of {len(self.lengths)} prompts with n_low={n_low} and n_up={n_up}; the least possible is {least:.6g}"
            )


def limit_of_step(limit: Any, lengths: Array, total_budget: int, n_low: int, n_up: int) -> TokenLimit | None:
    """The limit of a step, raised to the least possible where it cannot be met; None while no length is known.

    Args:
        limit: what `TOKEN_LIMIT` accepts.
        lengths: (M,) expected tokens of a rollout of each prompt; NaN = unknown.
        total_budget: rollouts of the step.
        n_low, n_up: bounds of a prompt's rollouts.

    >>> lengths = np.array([10.0, 30.0])
    >>> limit_of_step("0.75x", lengths, 8, 2, 6).max_tokens, limit_of_step("0.5x", lengths, 8, 2, 6).max_tokens
    (120.0, 120.0)
    """
    if limit is None or np.isnan(lengths).any():
        return None
    asked = _factor(limit) * (total_budget * float(lengths.mean()) if is_share(limit) else 1.0)
    least = float(cheapest_budgets(lengths, total_budget, n_low, n_up) @ lengths)
    return TokenLimit(lengths, max(asked, least))


def within(
    limit: TokenLimit,
    place: Callable[[int, Callable[[int], Array] | None], Array],
    solve: Callable[[int, float, float], Array],
    fallback: int,
    decided: Array,
    n_low: int,
    n_up: int,
) -> Array:
    """(M,) budgets within a limit that can be met: the rules' budgets, less of the fallback, or the limited optimum.

    Prompts that never succeeded give way first: the fallback spends what is left over. Then the knapsack chooses among
    the prompts it decides on. Where the rules for the others leave too little, rollouts move from the longest prompts
    to the shortest.

    Args:
        limit: on tokens.
        place: budgets by all rules, with so many rollouts for the fallback; what the knapsack gives to the prompts that
            it decides on, as a function of its rollouts, is replaced by the second argument unless it is None.
        solve: (K,) rollouts beyond `n_low` for the K prompts that the knapsack decides on: so many, with at most so
            many tokens, where without a limit they have the third argument's.
        fallback: rollouts of the fallback without a limit.
        decided: (M,) bool, the K prompts that the knapsack decides on.
        n_low, n_up: bounds.
    """
    budgets = place(fallback, None)
    if limit.allows(budgets):
        return budgets
    if fallback > 0:
        budgets = place(0, None)
        if limit.allows(budgets):
            return _with_most_fallback(limit, place, fallback)
    left = limit.max_tokens * (1.0 + _SLACK) - limit.tokens(np.where(decided, n_low, budgets))
    unlimited = limit.tokens(np.where(decided, budgets - n_low, 0))
    lengths = limit.lengths[decided]

    def cheapest(amount: int) -> Array:
        return cheapest_budgets(lengths, amount, 0, n_up - n_low)

    cheap = place(0, cheapest)
    if limit.allows(cheap):
        return place(0, lambda amount: solve(amount, left, unlimited))
    return _moved_to_shorter(limit, cheap, n_low, n_up)


def _with_most_fallback(
    limit: TokenLimit, place: Callable[[int, Callable[[int], Array] | None], Array], fallback: int
) -> Array:
    allowed, refused = 0, fallback
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        if limit.allows(place(middle, None)):
            allowed = middle
        else:
            refused = middle
    return place(allowed, None)


def _moved_to_shorter(limit: TokenLimit, budgets: Array, n_low: int, n_up: int) -> Array:
    """Move as few rollouts as will do, each from the longest prompt above `n_low` to the shortest below `n_up`."""
    by_length = np.argsort(limit.lengths, kind="stable")
    givers = np.repeat(by_length[::-1], (budgets - n_low)[by_length[::-1]])
    takers = np.repeat(by_length, (n_up - budgets)[by_length])
    size = min(len(givers), len(takers))
    saved = limit.lengths[givers[:size]] - limit.lengths[takers[:size]]
    saved = np.cumsum(saved[saved > 0])
    excess = limit.tokens(budgets) - limit.max_tokens * (1.0 + _SLACK)
    moves = min(int(np.searchsorted(saved, excess)) + 1, len(saved))
    moved: Array = budgets - np.bincount(givers[:moves], minlength=len(budgets))
    moved += np.bincount(takers[:moves], minlength=len(budgets))
    return moved
