"""What the options of a task status accept, here and in the configuration."""

from __future__ import annotations

from knapsack_rl.options import integer_at_least, null_or, number, one_of

__all__ = ["ESTIMATORS", "STATUS_OPTIONS"]

ESTIMATORS = ("previous_epoch", "window", "beta")

_ABOVE_0 = number("a finite number greater than 0", lambda value: value > 0.0)
STATUS_OPTIONS = {
    "estimator": one_of(ESTIMATORS),
    "window": integer_at_least(1),
    "min_rollouts": integer_at_least(1),
    "discount": number("a number in [0, 1]", lambda value: 0.0 <= value <= 1.0),
    "half_life": null_or(_ABOVE_0),
    "prior_strength": _ABOVE_0,
    "prior_weight": _ABOVE_0,
}
