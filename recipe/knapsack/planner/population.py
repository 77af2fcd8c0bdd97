"""What is known of the prompts that a plan is made for, from a task status or a table of success rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from knapsack_rl.messages import one_line
from knapsack_rl.task_status import TaskStatus
from knapsack_rl.training_state import TrainingState


class PlanError(ValueError):
    """The input or the options do not allow a plan; the message says what to change."""


@dataclass(frozen=True)
class Population:
    """What is known of P prompts.

    Attributes:
        success_rates: (P,) float in [0, 1]; NaN = unseen.
        beliefs: (alpha, beta), (P,) each, or None where the number of rollouts behind the rates is unknown.
        greedy_match_rates: (P,) float for ReMax, or None where unknown.
        estimator: that made the success rates from a task status; None where they come from a table.
    """

    success_rates: np.ndarray
    beliefs: tuple[np.ndarray, np.ndarray] | None = None
    greedy_match_rates: np.ndarray | None = None
    estimator: str | None = None

    def __len__(self) -> int:
        return len(self.success_rates)

    def take(self, chosen: np.ndarray) -> Population:
        """The chosen prompts."""
        beliefs = None if self.beliefs is None else (self.beliefs[0][chosen], self.beliefs[1][chosen])
        matches = None if self.greedy_match_rates is None else self.greedy_match_rates[chosen]
        return Population(self.success_rates[chosen], beliefs, matches, self.estimator)

    def estimates(self) -> dict[str, Any]:
        """Keyword arguments for the allocators."""
        return {
            "success_rates": self.success_rates,
            "beliefs": self.beliefs,
            "greedy_match_rates": self.greedy_match_rates,
        }

    def state(self) -> TrainingState:
        """The state of training that a step with these prompts would be planned in, as far as it is known."""
        rates = self.success_rates[~np.isnan(self.success_rates)]
        if len(rates) == 0:
            return TrainingState()
        return TrainingState(mean_success_rate=float(rates.mean()), never_solved=float(np.mean(rates == 0)))

    def counts(self) -> dict[str, int]:
        """Number of prompts by estimated success rate."""
        rates = self.success_rates
        return {
            "prompts": len(rates),
            "unseen": int(np.isnan(rates).sum()),
            "rate_zero": int((rates == 0).sum()),
            "rate_between": int(((rates > 0) & (rates < 1)).sum()),
            "rate_one": int((rates == 1).sum()),
        }


def load_population(
    path: Path, *, column: str = "success_rate", observed_rollouts: str | None = None, estimator: str | None = None
) -> Population:
    """Read what is known of the prompts.

    Args:
        path: a saved task status (``.npz``), or a table (``.csv``, ``.parquet``) with one row per prompt.
        column: the table's column of success rates.
        observed_rollouts: rollouts behind each success rate of a table: a number, or the name of a column.
        estimator: success-rate estimator for a task status; None = the one it was saved with.

    Raises:
        PlanError: the file is of no known kind, or lacks a column, or holds something that is not a success rate.
        FileNotFoundError: there is no such file.
    """
    if path.suffix == ".npz":
        return _from_task_status(TaskStatus.load(path, **({} if estimator is None else {"estimator": estimator})))
    # In a table of one column an untried prompt is an empty line.
    readers = {".csv": partial(pd.read_csv, skip_blank_lines=False), ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise PlanError(
            f"{path}: expected a file named .npz (task status), .csv or .parquet, got {path.suffix or 'none'!r}"
        )
    if estimator is not None:
        raise PlanError(
            f"--estimator {estimator} chooses among the counts of a task status, and {path} is a table of rates"
        )
    try:
        table = readers[path.suffix](path)
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        raise PlanError(f"{path} cannot be read: {one_line(error)}") from error
    return _from_table(table, path, column, observed_rollouts)


def _from_task_status(status: TaskStatus) -> Population:
    if len(status) == 0:
        raise PlanError("the task status knows no prompt yet; plan after the first steps of a run")
    prompts, next_epoch = status.prompt_ids, status.epoch + 1
    return Population(
        success_rates=status.success_rates(prompts, epoch=next_epoch),
        beliefs=status.beliefs(prompts, epoch=next_epoch),
        greedy_match_rates=status.greedy_match_rates(prompts, epoch=next_epoch),
        estimator=status.estimator,
    )


def _from_table(table: pd.DataFrame, path: Path, column: str, observed_rollouts: str | None) -> Population:
    rates = _numbers(table, path, column)
    is_valid = np.isnan(rates) | ((rates >= 0.0) & (rates <= 1.0))
    if len(rates) == 0 or not is_valid.all():
        found = "no rows" if len(rates) == 0 else f"{rates[np.argmin(is_valid)]} in row {np.argmin(is_valid)}"
        raise PlanError(f"{path}: column {column!r} must hold success rates between 0 and 1, found {found}")
    if observed_rollouts is None:
        return Population(rates)
    if observed_rollouts.isdigit():
        rollouts = np.full(len(rates), float(observed_rollouts))
    else:
        rollouts = _numbers(table, path, observed_rollouts)
    if not np.all(rollouts[~np.isnan(rates)] > 0):
        raise PlanError(
            f"{path}: --observed-rollouts {observed_rollouts} must be above 0 wherever there is a success rate"
        )
    return Population(rates, beliefs_from_counts(rates, rollouts))


def _numbers(table: pd.DataFrame, path: Path, column: str) -> np.ndarray:
    if column not in table.columns:
        raise PlanError(f"{path}: there is no column {column!r}; it has {', '.join(map(str, table.columns))}")
    try:
        return pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{path}: column {column!r} must hold numbers: {error}") from error


def beliefs_from_counts(success_rates: np.ndarray, rollouts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beta beliefs from success rates and the rollouts behind them, with one prior rollout at the mean success rate.

    >>> alpha, beta = beliefs_from_counts(np.array([0.0, 1.0, np.nan]), np.array([8.0, 8.0, 0.0]))
    >>> alpha.tolist(), beta.tolist()
    ([0.5, 8.5, 0.5], [8.5, 0.5, 0.5])
    """
    is_seen = ~np.isnan(success_rates)
    mean = np.clip(np.mean(success_rates[is_seen]), 1e-3, 1.0 - 1e-3) if is_seen.any() else 0.5
    successes = np.where(is_seen, success_rates * rollouts, 0.0)
    failures = np.where(is_seen, (1.0 - success_rates) * rollouts, 0.0)
    return successes + mean, failures + 1.0 - mean
