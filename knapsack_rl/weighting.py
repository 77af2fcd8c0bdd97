"""How much each prompt counts in the update, given how many rollouts it had.

verl averages the loss over rows or tokens, so a prompt counts by its rollouts. With equal groups nobody notices. With
uneven ones a prompt of 128 rollouts moves the policy 180 to 1000 times as far as one of 2 at the same success rate
(`expected_pull`), although the value that gave it its rollouts saturates. A factor on the advantages of each prompt
changes that without touching the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import scipy

from knapsack_rl.arrays import Array
from knapsack_rl.options import one_of

__all__ = ["PROMPT_WEIGHT", "PROMPT_WEIGHTS", "expected_pull", "prompt_weights"]

PROMPT_WEIGHTS: Mapping[str, float] = MappingProxyType({"rows": 1.0, "sqrt": 0.5, "equal": 0.0})
"""The power of its rollouts by which a prompt counts in the update, by the names that configuration uses."""
PROMPT_WEIGHT = one_of(tuple(PROMPT_WEIGHTS))


def prompt_weights(budgets: Any, prompt_weight: str) -> Array:
    """The factor on the advantages of each prompt's rollouts.

    A prompt of N_i rollouts has the factor ``c N_i^(a - 1)``, so that its N_i rows count ``c N_i^a`` together. The
    power a is 1 for ``rows``, 1/2 for ``sqrt`` and 0 for ``equal``. The constant c makes the factors add up to N_total
    over all rows: their mean is 1, and a learning rate keeps its meaning. With equal budgets every factor is exactly 1.

    Args:
        budgets: (M,) rollouts of each prompt, numbers above 0.
        prompt_weight: one of `PROMPT_WEIGHTS`.

    Returns:
        (M,) float64, all above 0.

    Raises:
        ValueError: an unknown name, no prompt, or a budget that is not a finite number above 0.

    >>> prompt_weights([2, 2, 20], "equal")
    array([4. , 4. , 0.4])
    >>> prompt_weights([2, 2, 32], "sqrt").tolist()
    [3.0, 3.0, 0.75]
    """
    if not PROMPT_WEIGHT.accepts(prompt_weight):
        raise ValueError(f"prompt_weight must be {PROMPT_WEIGHT.accepted}, got {prompt_weight!r}")
    rollouts = np.asarray(budgets, dtype=np.float64)
    if rollouts.ndim != 1 or rollouts.size == 0:
        raise ValueError(f"budgets must hold the rollouts of at least one prompt, got shape {rollouts.shape}")
    is_valid = (rollouts > 0) & np.isfinite(rollouts)
    if not is_valid.all():
        raise ValueError(f"budgets must be finite numbers above 0, got {rollouts[~is_valid][0]}")
    relative = rollouts / rollouts.mean()
    weights: Array = relative ** (PROMPT_WEIGHTS[prompt_weight] - 1.0)
    weights *= rollouts.sum() / (weights @ rollouts)
    return weights


def expected_pull(n: int, p: float) -> float:
    """How far the n rollouts of a prompt move its log-odds of success under GRPO, in expectation and up to a constant.

    The prompt is a softmax policy of its own (paper, proposition 1), and every row counts alike: the sum over rollouts
    of the advantage times the gradient of the log-probability, 1 - p for a success and -p for a failure.

    Args:
        n: rollouts, at least 2.
        p: success rate in (0, 1).

    >>> [round(expected_pull(128, p) / expected_pull(2, p)) for p in (0.5, 0.1, 0.01)]
    [180, 297, 745]
    """
    successes = np.arange(1, n)
    rates = successes / n
    deviations = np.sqrt(rates * (1.0 - rates) * n / (n - 1))
    pull = n * rates * (1.0 - rates) / deviations
    gammaln = scipy.special.gammaln
    log_ways = gammaln(n + 1) - gammaln(successes + 1) - gammaln(n - successes + 1)
    return float(np.exp(log_ways + successes * np.log(p) + (n - successes) * np.log1p(-p)) @ pull)
