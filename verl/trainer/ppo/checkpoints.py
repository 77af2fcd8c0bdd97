"""What the trainer keeps with verl's checkpoints, and from which of them a run resumes."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from knapsack_rl.config import SuccessRateConfig
from knapsack_rl.history import ExplorationHistory
from knapsack_rl.run_folder import (
    CHECKPOINT_PREFIX,
    STATUS_FILE,
    TRAINER_STATE_FILE,
    read_json,
    write_atomically,
)
from knapsack_rl.task_status import TaskStatus, TaskStatusError
from verl.utils.checkpoint_state import (
    DATA_LOADER_FILE,
    MODEL_PARTS,
    CheckpointError,
    latest_usable_checkpoint,
    mark_complete,
    mark_incomplete,
    remove_superseded,
    step_of,
    whole_checkpoints,
)

__all__ = ["Checkpoint", "Checkpoints"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole, with what the trainer itself keeps in it already read.

    Attributes:
        folder: ``global_step_N``.
        task_status: None if the checkpoint was saved without one.
        state: epoch and counters; empty if it was saved without them.
    """

    folder: Path
    task_status: TaskStatus | None
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        trainer: the ``trainer`` section of the configuration.
        run_folder: where the ``global_step_N`` folders are.
        history: flushed before a checkpoint is saved, and checked with it.
        success_rate: options of the task status that a checkpoint is read into.
    """

    def __init__(
        self, trainer: DictConfig, run_folder: Path, history: ExplorationHistory, success_rate: SuccessRateConfig
    ) -> None:
        self._trainer = trainer
        self._run_folder = run_folder
        self._history = history
        self._success_rate = success_rate

    @contextmanager
    def saving(self, step: int, task_status: TaskStatus, state: Mapping[str, Any]) -> Iterator[None]:
        """Save status, history and counters, then verl's checkpoint in the block, then declare the whole of it whole.

        Old checkpoints are removed only after that: a run killed in between would have none left, and start over.
        """
        folder = self._run_folder / f"{CHECKPOINT_PREFIX}{step}"
        folder.mkdir(parents=True, exist_ok=True)
        mark_incomplete(folder)  # it may be there already, damaged
        self._history.flush()
        task_status.save(folder / STATUS_FILE)
        write_atomically(folder / TRAINER_STATE_FILE, json.dumps(state))
        with self._without_upstream_rotation() as checkpoints_to_keep:
            yield
        mark_complete(folder)
        remove_superseded(self._run_folder, step, checkpoints_to_keep)

    @contextmanager
    def _without_upstream_rotation(self) -> Iterator[dict[str, int | None]]:
        """Keep upstream from removing the oldest checkpoint before the next is whole; yield how many to keep."""
        trainer = self._trainer
        configured = {f"max_{part}_ckpt_to_keep": trainer.get(f"max_{part}_ckpt_to_keep") for part in MODEL_PARTS}
        removes_previous = trainer.get("remove_previous_ckpt_in_save", False)
        with open_dict(trainer):
            trainer.update({key: None for key in configured}, remove_previous_ckpt_in_save=False)
            try:
                yield dict(zip(MODEL_PARTS, (1, 1) if removes_previous else configured.values(), strict=True))
            finally:
                trainer.update(configured, remove_previous_ckpt_in_save=removes_previous)

    def to_resume(self) -> Checkpoint | None:
        """The checkpoint that the configuration asks for, read; None to train from the start.

        Raises:
            CheckpointError: the one asked for by name is not usable, or none of those there is.
        """
        if self._trainer.resume_mode == "disable":
            return None
        if self._trainer.resume_mode == "resume_path":
            return self._named(str(self._trainer.resume_from_path))
        read: dict[Path, Checkpoint] = {}

        def problem(folder: Path, previous_step: int) -> str | None:
            try:
                read[folder] = self._read(folder, previous_step)
            except (TaskStatusError, ValueError, OSError) as error:
                return str(error)
            return None

        folder = latest_usable_checkpoint(self._run_folder, problem)
        return None if folder is None else read[folder]

    def _named(self, path: str) -> Checkpoint:
        folder = Path(path).absolute()
        if not folder.name.startswith(CHECKPOINT_PREFIX) or not folder.is_dir():
            raise CheckpointError(
                f"trainer.resume_from_path={path} is not a checkpoint: expected a {CHECKPOINT_PREFIX}N folder."
            )
        try:
            return self._read(folder, previous_step=0)
        except (TaskStatusError, ValueError, OSError) as error:
            raise CheckpointError(f"trainer.resume_from_path={folder} is not usable: {error}.") from error

    def _read(self, folder: Path, previous_step: int) -> Checkpoint:
        status_file, state_file = folder / STATUS_FILE, folder / TRAINER_STATE_FILE
        status = TaskStatus.load(status_file, **self._success_rate.status_options) if status_file.exists() else None
        state = read_json(state_file) if state_file.exists() else {}
        if (folder / DATA_LOADER_FILE).exists():
            _check_archive(folder / DATA_LOADER_FILE)
        self._history.check_until(step_of(folder), since=previous_step)
        return Checkpoint(folder, status, state)

    def give_up_after(self, step: int) -> None:
        """Keep an automatic resume from returning to the course that this run leaves at ``step``."""
        for later in whole_checkpoints(self._run_folder):
            if step_of(later) > step:
                mark_incomplete(later)
                logger.warning(
                    "Training starts again from step %d: checkpoint %s is of the course given up here. It is kept for "
                    "trainer.resume_mode=resume_path.",
                    step,
                    later,
                )


def _check_archive(file: Path) -> None:
    """Refuse a file of torch.save that is not whole: its records carry checksums, so nothing is unpickled for it.

    Raises:
        ValueError: the file is truncated or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"{file} is damaged: its record {damaged} fails its checksum")
