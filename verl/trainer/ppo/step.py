"""What one training step gathers besides its batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knapsack_rl.explorer import Plan
from knapsack_rl.outcomes import Outcomes

__all__ = ["TrainingStep"]


@dataclass
class TrainingStep:
    """One training step.

    Attributes:
        number: counted from 1.
        is_last: whether training ends with it.
        is_profiled: whether the profiler runs in it.
        explored: the plan of every batch that was generated for the step, with what came of it.
        metrics: what is logged at its end.
        timing: seconds of each phase.
    """

    number: int
    is_last: bool
    is_profiled: bool
    explored: list[tuple[Plan, Outcomes]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> np.ndarray:
        """Outcome rewards of all rollouts of the step, float."""
        return np.concatenate([outcomes.scores for _, outcomes in self.explored])

    @property
    def budgets(self) -> np.ndarray:
        """Budgets of all prompts of the step, int64."""
        return np.concatenate([plan.budgets for plan, _ in self.explored])

    @property
    def success_rates(self) -> np.ndarray:
        """Estimates for all prompts of the step, float64; NaN for unseen."""
        return np.concatenate([plan.success_rates for plan, _ in self.explored])
