"""How single prompts fared in a run: their statuses, transitions and estimates. Pure functions on the history.

The history is a data frame with the columns of `exploration_history.SCHEMA`: one row per prompt and step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from knapsack_rl.classes import DIFFICULTIES, difficulty_of, success_rate_class

__all__ = [
    "budgets_by_estimate",
    "choose_prompts",
    "final_statuses",
    "first_and_last_statuses",
    "never_solved",
    "next_statuses",
    "prompt_epochs",
    "reliability",
    "transition_counts",
]


def never_solved(history: pd.DataFrame) -> int:
    """Number of prompts without a single success in the whole history."""
    return int((history.groupby("prompt_id")["successes"].sum() == 0).sum())


def prompt_epochs(history: pd.DataFrame) -> pd.DataFrame:
    """One row per prompt and epoch in which it was tried, sorted by both.

    A prompt that an epoch holds several times counts once, with all its rollouts.

    Returns:
        Columns ``prompt_id``, ``epoch``, ``budget`` and ``successes`` (rollouts), ``success_rate``, ``status`` (index
        into `DIFFICULTIES`).
    """
    visits = history.groupby(["prompt_id", "epoch"], as_index=False)[["budget", "successes"]].sum()
    visits = visits[visits["budget"] > 0].reset_index(drop=True)
    visits["success_rate"] = visits["successes"] / visits["budget"]
    visits["status"] = difficulty_of(visits["success_rate"].to_numpy())
    return visits


class StatusPairs(NamedTuple):
    """Statuses before and after, (K,) each, as indices into `DIFFICULTIES`."""

    before: np.ndarray
    after: np.ndarray


def next_statuses(visits: pd.DataFrame) -> StatusPairs:
    """The statuses of every prompt in every two epochs of its that follow each other, from `prompt_epochs`."""
    is_same_prompt = visits["prompt_id"].eq(visits["prompt_id"].shift())
    return StatusPairs(
        visits["status"].shift()[is_same_prompt].to_numpy(dtype=np.int64),
        visits["status"][is_same_prompt].to_numpy(dtype=np.int64),
    )


def first_and_last_statuses(visits: pd.DataFrame) -> StatusPairs:
    """The statuses of every prompt tried in at least two epochs in its first and its last, from `prompt_epochs`."""
    statuses = visits.groupby("prompt_id")["status"].agg(["first", "last", "size"])
    repeated = statuses[statuses["size"] > 1]
    return StatusPairs(repeated["first"].to_numpy(dtype=np.int64), repeated["last"].to_numpy(dtype=np.int64))


def transition_counts(pairs: StatusPairs) -> np.ndarray:
    """(5, 5) int64: how often status i (row) became status j (column).

    >>> int(transition_counts(StatusPairs(np.array([0, 0, 4]), np.array([2, 2, 4])))[0, 2])
    2
    """
    size = len(DIFFICULTIES)
    return np.bincount(pairs.before * size + pairs.after, minlength=size * size).reshape(size, size)


def final_statuses(visits: pd.DataFrame) -> np.ndarray:
    """(5,) int64: number of prompts by the status of the last epoch in which they were tried, from `prompt_epochs`."""
    last = visits.groupby("prompt_id")["status"].last()
    return np.bincount(last, minlength=len(DIFFICULTIES))


def budgets_by_estimate(history: pd.DataFrame) -> pd.DataFrame:
    """The budgets (rollouts) of the prompts in each bin of their estimated success rate.

    Returns:
        One row per non-empty class of `SUCCESS_RATE_CLASSES` (the index): ``lower`` (10 % quantile), ``median``,
        ``upper`` (90 % quantile), ``largest`` and ``count``, the number of prompts and steps.
    """
    budgets = history["budget"].groupby(success_rate_class(history["estimate"].to_numpy()))
    return pd.DataFrame(
        {
            "lower": budgets.quantile(0.1),
            "median": budgets.median(),
            "upper": budgets.quantile(0.9),
            "largest": budgets.max(),
            "count": budgets.size(),
        }
    )


def reliability(history: pd.DataFrame) -> pd.DataFrame:
    """Estimated against observed success rates by bin of the estimate, every prompt and step counted once.

    Returns:
        One row per non-empty class of `SUCCESS_RATE_CLASSES` but ``unseen`` (the index): ``estimated`` and ``observed``
        means, ``standard_error`` of the latter (NaN for a single prompt), and ``count``.
    """
    seen = history[history["estimate"].notna() & (history["budget"] > 0)]
    table = pd.DataFrame({"estimated": seen["estimate"], "observed": seen["successes"] / seen["budget"]})
    bins = table.groupby(success_rate_class(table["estimated"].to_numpy()))
    means = bins.mean()
    means["standard_error"] = bins["observed"].sem()
    means["count"] = bins.size()
    return means


def choose_prompts(visits_of_runs: list[pd.DataFrame], count: int, seed: int) -> list[str]:
    """Choose prompts at random among those whose success rate changed in some run, tried by as many runs as possible.

    Args:
        visits_of_runs: `prompt_epochs` of each run.
        count: how many prompts; all there are if they are fewer.
        seed: the same seed and runs always give the same prompts.

    Returns:
        Prompt ids, in random order.
    """
    visits = pd.concat([visits.assign(run=run) for run, visits in enumerate(visits_of_runs)])
    rates = visits.groupby(["prompt_id", "run"])["success_rate"].agg(["min", "max"]).reset_index()
    has_changed = (rates["max"] > rates["min"]).groupby(rates["prompt_id"]).any()
    num_runs = rates.groupby("prompt_id").size()
    changed = np.array(sorted(has_changed.index[has_changed]))
    order = np.random.default_rng(seed).permutation(len(changed))
    # A stable sort keeps the random order among prompts that equally many runs have tried.
    by_runs = np.argsort(-num_runs[changed[order]].to_numpy(), kind="stable")
    return changed[order][by_runs][:count].tolist()
