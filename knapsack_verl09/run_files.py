"""What a run keeps besides verl's own files, under the names that the report and the fork for verl 0.5 use."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from knapsack_rl.config import ExplorationConfig
from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from knapsack_rl.rollout_dump import RolloutDump
from knapsack_rl.run_folder import (
    CHECKPOINT_PREFIX,
    CONFIG_FILE,
    HISTORY_FOLDER,
    ROLLOUTS_FOLDER,
    STATUS_FILE,
    TRAINER_STATE_FILE,
    read_json,
    write_atomically,
)
from knapsack_rl.task_status import TaskStatus

__all__ = ["RunFiles"]

logger = logging.getLogger(__name__)


class RunFiles:
    """The files of one run.

    Args:
        folder: ``trainer.default_local_dir``.
        exploration: options of the task status that a checkpoint is read into, and the limit of kept rollouts.
    """

    def __init__(self, folder: Path, exploration: ExplorationConfig) -> None:
        self.folder = folder
        self.rollouts = RolloutDump(folder / ROLLOUTS_FOLDER, limit_bytes=int(exploration.dump_limit_gb * 1e9))
        self.history = ExplorationHistory(folder / HISTORY_FOLDER)
        self._metrics = MetricsFile(folder)
        self._success_rate = exploration.success_rate

    def save_config(self, config: DictConfig) -> None:
        """Write the configuration in force."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / CONFIG_FILE, OmegaConf.to_yaml(config, resolve=True))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append the metrics of a step that are numbers."""
        self._metrics.log({name: value for name, value in metrics.items() if isinstance(value, Number)}, step)

    def save(self, step: int, task_status: TaskStatus, state: Mapping[str, Any]) -> None:
        """Write what belongs to the checkpoint of a step. Call it before verl notes the checkpoint as its latest."""
        checkpoint = self.folder / f"{CHECKPOINT_PREFIX}{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        self.history.flush()
        task_status.save(checkpoint / STATUS_FILE)
        write_atomically(checkpoint / TRAINER_STATE_FILE, json.dumps(state))

    def load(self, checkpoint: Path) -> tuple[TaskStatus | None, dict[str, Any]]:
        """Read what belongs to a checkpoint: the task status and the counters; ``(None, {})`` of one saved without.

        Raises:
            TaskStatusError: the status is damaged; names the file.
            ValueError: the state is; likewise.
        """
        if not (checkpoint / STATUS_FILE).exists():
            logger.warning("Checkpoint %s has no task status: all its prompts count as unseen.", checkpoint)
            return None, {}
        status = TaskStatus.load(checkpoint / STATUS_FILE, **self._success_rate.status_options)
        return status, read_json(checkpoint / TRAINER_STATE_FILE)

    def forget_after(self, step: int) -> None:
        """Forget the steps after ``step``: they are repeated. A run that starts anew forgets all."""
        self._metrics.truncate_after(step if step > 0 else -1)
        self.history.truncate_after(step)
        self.rollouts.truncate_after(step)
