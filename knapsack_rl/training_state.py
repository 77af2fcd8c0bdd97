"""How far training has come: what a value function may know besides the prompts themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["TrainingState", "training_state"]


@dataclass(frozen=True)
class TrainingState:
    """The state of training when a step is planned.

    Attributes:
        step: training step that is planned, counted from 1.
        epoch: its epoch, counted from 0.
        mean_success_rate: mean over all prompts observed so far of the share of successes in the last epoch in which
            each was observed, in [0, 1]; 0.5 before anything was observed.
        never_solved: share of the prompts observed so far none of whose rollouts ever succeeded, in [0, 1]; 0.0 before
            anything was observed.
    """

    step: int = 1
    epoch: int = 0
    mean_success_rate: float = 0.5
    never_solved: float = 0.0


def training_state(records: Array, *, step: int, epoch: int) -> TrainingState:
    """The state of training that the records of all observed prompts tell (`status_records.record_dtype`)."""
    if len(records) == 0:
        return TrainingState(step, epoch)
    rates = records["last_successes"] / records["last_rollouts"]
    return TrainingState(step, epoch, float(rates.mean()), float(np.mean(records["ever_succeeded"] == 0)))
