"""What is counted of each prompt: one record of counts per prompt, updated by the rollouts of a step.

Functions change the records that they are given in place; index arrays say which record a rollout belongs to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from knapsack_rl.arrays import Array

__all__ = [
    "NO_EPOCH",
    "count_discounted",
    "count_in_epoch",
    "count_lengths",
    "counts_before",
    "empty_records",
    "mean_rate",
    "record_dtype",
    "slide_window",
    "sum_by",
]

NO_EPOCH = -1
NO_OUTCOME = -1
UNKNOWN_GREEDY = -1
# A prior mean of exactly 0 or 1 has no Beta distribution, so the prior stays this far away from both.
_PRIOR_MEAN_MARGIN = 1e-3


def record_dtype(window: int) -> np.dtype[Any]:
    """What is kept of one prompt. Byte order is fixed so that a saved status is the same on every machine."""
    return np.dtype(
        [
            ("last_epoch", "<i8"),  # the latest epoch in which the prompt was observed, with its counts
            ("last_successes", "<i8"),
            ("last_rollouts", "<i8"),
            ("earlier_epoch", "<i8"),  # the one before it: the estimate while the latest epoch is still running
            ("earlier_successes", "<i8"),
            ("earlier_rollouts", "<i8"),
            ("total_rollouts", "<i8"),
            ("discounted_successes", "<f8"),
            ("discounted_failures", "<f8"),
            ("discounted_tokens", "<f8"),
            ("discounted_lengths", "<f8"),  # number of rollouts behind discounted_tokens
            ("greedy_success", "i1"),
            ("outcomes", "i1", (window,)),  # newest last; NO_OUTCOME where there are fewer rollouts than the window
        ]
    )


def empty_records(num_records: int, window: int) -> Array:
    records = np.zeros(num_records, dtype=record_dtype(window))
    records["last_epoch"] = NO_EPOCH
    records["earlier_epoch"] = NO_EPOCH
    records["greedy_success"] = UNKNOWN_GREEDY
    records["outcomes"] = NO_OUTCOME
    return records


def counts_before(records: Array, epoch: int) -> tuple[Array, Array]:
    """(successes, rollouts) of each record in the last epoch before `epoch` in which it was observed."""
    is_before = records["last_epoch"] < epoch
    successes = np.where(is_before, records["last_successes"], records["earlier_successes"])
    rollouts = np.where(is_before, records["last_rollouts"], records["earlier_rollouts"])
    return successes, rollouts


def mean_rate(successes: Array, rollouts: Array) -> float:
    mean = float(np.mean(successes / rollouts))
    return min(max(mean, _PRIOR_MEAN_MARGIN), 1.0 - _PRIOR_MEAN_MARGIN)


def sum_by(index: Array, values: Array, num_groups: int) -> Array:
    return np.bincount(index, weights=values, minlength=num_groups)


def count_in_epoch(records: Array, prompt_index: Array, outcomes: Array, epoch: int) -> None:
    is_new_epoch = (records["last_epoch"] != epoch) & (records["last_epoch"] != NO_EPOCH)
    for name in ("epoch", "successes", "rollouts"):
        records["earlier_" + name][is_new_epoch] = records["last_" + name][is_new_epoch]
    for name in ("successes", "rollouts"):
        records["last_" + name][is_new_epoch] = 0
    records["last_epoch"] = epoch
    rollouts = np.bincount(prompt_index, minlength=len(records))
    records["last_successes"] += sum_by(prompt_index, outcomes, len(records)).astype(np.int64)
    records["last_rollouts"] += rollouts
    records["total_rollouts"] += rollouts


def count_discounted(records: Array, prompt_index: Array, outcomes: Array, discount: float) -> None:
    successes = sum_by(prompt_index, outcomes, len(records))
    failures = sum_by(prompt_index, 1 - outcomes, len(records))
    records["discounted_successes"] = discount * records["discounted_successes"] + successes
    records["discounted_failures"] = discount * records["discounted_failures"] + failures


def count_lengths(records: Array, prompt_index: Array, lengths: Array, discount: float) -> None:
    tokens = sum_by(prompt_index, lengths, len(records))
    rollouts = np.bincount(prompt_index, minlength=len(records))
    records["discounted_tokens"] = discount * records["discounted_tokens"] + tokens
    records["discounted_lengths"] = discount * records["discounted_lengths"] + rollouts


def slide_window(records: Array, prompt_index: Array, outcomes: Array) -> None:
    """Append each prompt's outcomes, in their order, to its window and let the oldest fall out."""
    window = records["outcomes"].shape[1]
    rollouts = np.bincount(prompt_index, minlength=len(records))
    kept = np.minimum(rollouts, window)
    source = np.arange(window) + kept[:, None]
    padded = np.pad(records["outcomes"], ((0, 0), (0, window)), constant_values=NO_OUTCOME)
    slid = np.take_along_axis(padded, source, axis=1)

    by_prompt = np.argsort(prompt_index, kind="stable")
    prompt_of = prompt_index[by_prompt]
    from_end = np.cumsum(rollouts)[prompt_of] - np.arange(len(by_prompt))
    is_kept = from_end <= window
    slid[prompt_of[is_kept], window - from_end[is_kept]] = outcomes[by_prompt][is_kept]
    records["outcomes"] = slid
