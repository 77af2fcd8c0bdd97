"""Which rule of the allocation decided on a prompt's rollouts: words, and a guess where the history does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RULES", "placing_rule"]

RULES: Mapping[str, str] = {
    "unseen": "The prompt was not seen before: it got the homogeneous share.",
    "knapsack": "The knapsack optimum for the prompt's estimated success rate.",
    "fallback": "Never solved in what the estimate counts: the fallback gave it a share of what the others left.",
    "minimum": "The least that every prompt gets (exploration.n_low): more would not have paid.",
    "review": "It had told nothing for long (exploration.review): it got the rollouts of a review.",
    "remainder": "It got more than the minimum because no other rule could place the rollouts.",
    "homogeneous": "The allocator is homogeneous: every prompt gets the same.",
    "unknown": "The run's folder does not tell: its configuration or the estimate was not kept.",
}
"""Rules in words."""


def placing_rule(estimate: float | None, budget: int, exploration: Mapping[str, Any]) -> str:
    """The rule, one of `RULES`, that most likely placed ``budget`` rollouts, for runs that did not record it.

    Estimates and bounds do not tell reviews, nor what beliefs decided.

    Args:
        estimate: success rate that the allocation used; None = unseen.
        budget: rollouts of the prompt.
        exploration: the section of the run's configuration; empty if unknown.

    >>> settings = {"allocator": "knapsack", "n_low": 2}
    >>> [placing_rule(rate, 9, settings) for rate in (None, 0.0, 0.5, 1.0)], placing_rule(0.5, 2, settings)
    (['unseen', 'fallback', 'knapsack', 'remainder'], 'minimum')
    """
    if exploration.get("allocator") == "homogeneous":
        return "homogeneous"
    if estimate is None:
        return "unseen"
    n_low = exploration.get("n_low")
    if not isinstance(n_low, int):
        return "unknown"
    if budget <= n_low:
        return "minimum"
    if estimate == 0:
        return "fallback" if exploration.get("fallback", True) else "remainder"
    return "remainder" if estimate == 1 else "knapsack"
