"""Door to `knapsack_rl`'s task status, under the name that verl's users know."""

from knapsack_rl.task_status import ESTIMATORS, TaskStatus, TaskStatusError, prompt_id

__all__ = ["ESTIMATORS", "TaskStatus", "TaskStatusError", "prompt_id"]
