"""The successes and failures that an estimator counts for each prompt; pure functions on arrays of records."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.status_records import counts_before

__all__ = ["Evidence", "counted_evidence", "with_priors"]


class Evidence(NamedTuple):
    """What is known of M prompts: (M,) counts of successes and failures, and (M,) bool, whether they are enough."""

    successes: Array
    failures: Array
    is_seen: Array


def counted_evidence(
    records: Array, estimator: str, epoch: int, min_rollouts: int, remembered: float | Array = 1.0
) -> Evidence:
    """The evidence of an estimator in an epoch, as `TaskStatus` explains it.

    Args:
        remembered: share that is left of the discounted counts, one or (M,).
    """
    if estimator == "previous_epoch":
        successes, rollouts = counts_before(records, epoch)
        return Evidence(successes, rollouts - successes, rollouts >= min_rollouts)
    if estimator == "window":
        successes = np.sum(records["outcomes"] == 1, axis=1).astype(np.float64)
        failures = np.sum(records["outcomes"] == 0, axis=1).astype(np.float64)
        return Evidence(successes, failures, successes + failures >= min_rollouts)
    is_seen = records["total_rollouts"] >= min_rollouts
    return Evidence(remembered * records["discounted_successes"], remembered * records["discounted_failures"], is_seen)


def with_priors(evidence: Evidence, has_counts: Array, priors: Array, weight: float) -> Evidence:
    """The evidence, and ``weight`` rollouts at the prior rate for prompts that have a prior and no counts.

    Args:
        evidence: of M prompts.
        has_counts: (M,) bool, whether the evidence holds counts that stand before the prior, or hold it already.
        priors: (M,) rates; NaN = none. A prompt that has one counts as seen.
        weight: in rollouts.

    >>> unseen = Evidence(np.zeros(2), np.zeros(2), np.zeros(2, dtype=bool))
    >>> known = with_priors(unseen, unseen.is_seen, np.array([0.25, np.nan]), 4.0)
    >>> known.successes.tolist(), known.failures.tolist(), known.is_seen.tolist()
    ([1.0, 0.0], [3.0, 0.0], [True, False])
    """
    is_known = ~np.isnan(priors)
    is_taken = ~has_counts & is_known
    return Evidence(
        np.where(is_taken, weight * priors, evidence.successes),
        np.where(is_taken, weight * (1.0 - priors), evidence.failures),
        evidence.is_seen | is_known,
    )
