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
    "count_greedy",
    "count_in_epoch",
    "count_lengths",
    "count_prior",
    "count_visit",
    "counts_before",
    "empty_records",
    "latest_rates",
    "mean_before",
    "mean_length",
    "mean_lengths",
    "record_dtype",
    "visited_at",
    "share_remembered",
    "slide_window",
    "steps_since_review",
    "sum_by",
    "upgraded_records",
    "with_window",
]

NO_EPOCH = -1
NO_STEP = -1
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
            ("ever_succeeded", "i1"),
            # Step of the latest visit, and of the latest with mixed outcomes or enough rollouts; else of the first.
            ("visited_step", "<i8"),
            ("reviewed_step", "<i8"),
            ("outcomes", "i1", (window,)),  # newest last; NO_OUTCOME where there are fewer rollouts than the window
        ]
    )


_SINCE_VERSION_2 = ("ever_succeeded", "visited_step", "reviewed_step")


def upgraded_records(records: Array, step: int) -> Array | None:
    """Records in the layout of today; None if they have none of the layouts that there ever were.

    Args:
        records: as they were saved; those of an older layout count as visited at ``step``.
        step: of the latest observation.
    """
    outcomes = records.dtype.fields.get("outcomes") if records.dtype.fields else None
    window = outcomes[0].shape[0] if outcomes is not None and outcomes[0].shape else 0
    if records.ndim != 1 or window < 1:
        return None
    today = record_dtype(window)
    if records.dtype == today:
        return records
    first = np.dtype([(name, today[name]) for name in today.names or () if name not in _SINCE_VERSION_2])
    if records.dtype != first:
        return None
    upgraded = empty_records(len(records), window)
    for name in first.names or ():
        upgraded[name] = records[name]
    counts = ("last_successes", "earlier_successes", "discounted_successes")
    upgraded["ever_succeeded"] = np.any([records[name] > 0 for name in counts], axis=0)
    upgraded["ever_succeeded"] |= np.any(records["outcomes"] == 1, axis=1)
    upgraded["visited_step"] = upgraded["reviewed_step"] = step
    return upgraded


def empty_records(num_records: int, window: int) -> Array:
    records = np.zeros(num_records, dtype=record_dtype(window))
    records["last_epoch"] = NO_EPOCH
    records["earlier_epoch"] = NO_EPOCH
    records["greedy_success"] = UNKNOWN_GREEDY
    records["visited_step"] = records["reviewed_step"] = NO_STEP
    records["outcomes"] = NO_OUTCOME
    return records


def counts_before(records: Array, epoch: int) -> tuple[Array, Array]:
    """(successes, rollouts) of each record in the last epoch before `epoch` in which it was observed."""
    is_before = records["last_epoch"] < epoch
    successes = np.where(is_before, records["last_successes"], records["earlier_successes"])
    rollouts = np.where(is_before, records["last_rollouts"], records["earlier_rollouts"])
    return successes, rollouts


def latest_rates(records: Array) -> Array:
    """(M,) share of successes in the last epoch in which each prompt was observed."""
    rates: Array = records["last_successes"] / records["last_rollouts"]
    return rates


def mean_rate(successes: Array, rollouts: Array) -> float:
    mean = float(np.mean(successes / rollouts))
    return min(max(mean, _PRIOR_MEAN_MARGIN), 1.0 - _PRIOR_MEAN_MARGIN)


def mean_before(records: Array, epoch: int) -> tuple[float, bool]:
    """The mean success rate that a prior takes, and whether it stays the same while the epoch runs.

    It is the mean over prompts in the last epoch before ``epoch``; before there is one, that of the epoch so far.
    """
    observed_epoch = np.where(records["last_epoch"] < epoch, records["last_epoch"], records["earlier_epoch"])
    newest = observed_epoch.max()
    if newest == NO_EPOCH:
        return mean_rate(records["last_successes"], records["last_rollouts"]), False
    successes, rollouts = counts_before(records, epoch)
    return mean_rate(successes[observed_epoch == newest], rollouts[observed_epoch == newest]), True


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


def count_prior(records: Array, priors: Array, weight: float) -> None:
    """Count what was known before the first visit as an earlier visit of ``weight`` rollouts; NaN = nothing."""
    is_known = ~np.isnan(priors)
    records["discounted_successes"][is_known] = weight * priors[is_known]
    records["discounted_failures"][is_known] = weight * (1.0 - priors[is_known])


def count_visit(records: Array, prompt_index: Array, outcomes: Array, *, step: int, enough_rollouts: int) -> None:
    """Note when each prompt was visited, and whether the visit told enough to count as a review."""
    rollouts = np.bincount(prompt_index, minlength=len(records))
    successes = sum_by(prompt_index, outcomes, len(records))
    is_mixed = (successes > 0) & (successes < rollouts)
    is_review = is_mixed | (rollouts >= enough_rollouts) | (records["reviewed_step"] == NO_STEP)
    records["reviewed_step"][is_review] = step
    records["visited_step"] = step
    records["ever_succeeded"][successes > 0] = 1


def count_discounted(records: Array, prompt_index: Array, outcomes: Array, discount: float | Array) -> None:
    """Add a visit to the discounted counts, of which ``discount`` (one, or one per record) is left."""
    successes = sum_by(prompt_index, outcomes, len(records))
    failures = sum_by(prompt_index, 1 - outcomes, len(records))
    records["discounted_successes"] = discount * records["discounted_successes"] + successes
    records["discounted_failures"] = discount * records["discounted_failures"] + failures


def share_remembered(records: Array, step: int, half_life: float | None) -> float | Array:
    """(M,) share of each record's discounted counts that is left at ``step``: half of it every ``half_life`` steps.

    A prior that no visit followed yet does not age, and without a half-life nothing does.
    """
    if half_life is None:
        return 1.0
    visited = records["visited_step"]
    with np.errstate(over="ignore"):  # so many half-lives that nothing is left
        return np.where(visited == NO_STEP, 1.0, 0.5 ** ((step - visited) / half_life))


def count_lengths(records: Array, prompt_index: Array, lengths: Array, discount: float) -> None:
    tokens = sum_by(prompt_index, lengths, len(records))
    rollouts = np.bincount(prompt_index, minlength=len(records))
    records["discounted_tokens"] = discount * records["discounted_tokens"] + tokens
    records["discounted_lengths"] = discount * records["discounted_lengths"] + rollouts


def count_greedy(records: Array, prompt_index: Array, greedy: Array) -> None:
    """Note whether each prompt's greedy rollout succeeded; the majority counts."""
    share = sum_by(prompt_index, greedy, len(records)) / np.bincount(prompt_index, minlength=len(records))
    records["greedy_success"] = share > 0.5


def steps_since_review(records: Array, step: int) -> Array:
    """(M,) float64, steps since each prompt was last reviewed; NaN for one that was never seen."""
    reviewed: Array = records["reviewed_step"]
    return np.where(reviewed == NO_STEP, np.nan, step - reviewed.astype(np.float64))


def visited_at(records: Array, step: int) -> Array:
    """The records for a run that counts its steps anew: all their prompts count as visited and reviewed at ``step``."""
    moved = records.copy()
    moved["visited_step"] = moved["reviewed_step"] = step
    return moved


def mean_lengths(records: Array) -> Array:
    """(M,) mean tokens of each prompt's responses; NaN where no length was observed."""
    lengths, count = np.full(len(records), np.nan), records["discounted_lengths"]
    np.divide(records["discounted_tokens"], count, out=lengths, where=count > 0)
    return lengths


def mean_length(records: Array) -> float:
    """Mean over prompts of the mean length of their responses, in tokens; NaN if no length was observed."""
    known = records[records["discounted_lengths"] > 0]
    return float(np.mean(mean_lengths(known))) if len(known) else float("nan")


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


def with_window(records: Array, window: int) -> Array:
    """The records after an empty one, with a window of another width: of a narrower one, the newest outcomes."""
    resized = empty_records(1 + len(records), window)
    for name in records.dtype.names or ():
        if name != "outcomes":
            resized[name][1:] = records[name]
    saved_window = records["outcomes"].shape[1]
    width = min(window, saved_window)
    resized["outcomes"][1:, window - width :] = records["outcomes"][:, saved_window - width :]
    return resized
