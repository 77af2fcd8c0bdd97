"""Knapsack RL, the method: how many rollouts each prompt of a training step gets, for any trainer.

>>> from knapsack_rl import knapsack_allocate
>>> knapsack_allocate([0.0, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], total_budget=64).budgets.tolist()
[29, 23, 2, 2, 2, 2, 2, 2]

`Explorer` does the rest of a step's exploration: it keeps what is known of each prompt, plans the rollouts, learns from
their outcomes and tells metrics. Needs NumPy and SciPy; numba, pyarrow, matplotlib and wandb are imported by what uses
them, when it is used.
"""

from knapsack_rl.advantage_estimators import ADVANTAGE_ESTIMATORS, value_for_adv_estimator
from knapsack_rl.allocation import (
    SOLVERS,
    Allocation,
    effective_ratio,
    expected_effective_ratio,
    homogeneous_allocate,
    knapsack_allocate,
)
from knapsack_rl.config import ConfigError, ExplorationConfig
from knapsack_rl.explorer import Explorer, Plan
from knapsack_rl.identity import prompt_id
from knapsack_rl.outcomes import Outcomes
from knapsack_rl.task_status import TaskStatus
from knapsack_rl.theory import (
    expected_prob_nonzero_gradient,
    expected_rollouts_until_nonzero_gradient,
    expected_value,
    grpo_value,
    info_gain,
    prob_nonzero_gradient,
    reinforce_value,
    remax_value,
    rollouts_for_confidence,
)
from knapsack_rl.training_state import TrainingState
from knapsack_rl.value_function import ValueFunction
from knapsack_rl.values import resolve_value_function
from knapsack_rl.version import __version__
from knapsack_rl.weighting import PROMPT_WEIGHTS, prompt_weights

__all__ = [
    "ADVANTAGE_ESTIMATORS",
    "PROMPT_WEIGHTS",
    "SOLVERS",
    "Allocation",
    "ConfigError",
    "ExplorationConfig",
    "Explorer",
    "Outcomes",
    "Plan",
    "TaskStatus",
    "TrainingState",
    "ValueFunction",
    "__version__",
    "effective_ratio",
    "expected_effective_ratio",
    "expected_prob_nonzero_gradient",
    "expected_rollouts_until_nonzero_gradient",
    "expected_value",
    "grpo_value",
    "homogeneous_allocate",
    "info_gain",
    "knapsack_allocate",
    "prob_nonzero_gradient",
    "prompt_id",
    "prompt_weights",
    "reinforce_value",
    "remax_value",
    "resolve_value_function",
    "rollouts_for_confidence",
    "value_for_adv_estimator",
]
