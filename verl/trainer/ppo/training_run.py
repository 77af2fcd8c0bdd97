"""The run around the steps: loggers, validation, checkpoints, the end."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf, open_dict
from tqdm import tqdm

from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from knapsack_rl.rollout_dump import RolloutDump
from knapsack_rl.run_folder import HISTORY_FOLDER, ROLLOUTS_FOLDER, WANDB_RUN_FILE
from verl.trainer.ppo.checkpoints import Checkpoint, Checkpoints
from verl.trainer.ppo.rollout_dump import RolloutKeeper
from verl.trainer.ppo.step import TrainingStep
from verl.utils.checkpoint.checkpoint_manager import should_save_ckpt_esi
from verl.utils.checkpoint_state import whole_checkpoints
from verl.utils.debug import marked_timer
from verl.utils.quiet import prints_to_log
from verl.utils.run_tracking import RunTracking
from verl.utils.worker_groups import log_dead, workers_of

__all__ = ["TrainingRun"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))


class TrainingRun:
    """The part of a trainer that runs its steps one after another; mixed into upstream's trainer.

    The trainer has ``config``, ``exploration`` and ``explorer`` when it calls `_prepare_run`, and offers
    ``_train_step``.
    """

    def _prepare_run(self) -> None:
        self.run_folder = Path(self.config.trainer.default_local_dir).absolute()
        self.metrics_file = MetricsFile(self.run_folder)
        self.history = ExplorationHistory(self.run_folder / HISTORY_FOLDER)
        dump = RolloutDump(self.run_folder / ROLLOUTS_FOLDER, limit_bytes=int(self.exploration.dump_limit_gb * 1e9))
        self.kept_rollouts = RolloutKeeper(dump, self.exploration, self.tokenizer)
        self.checkpoints = Checkpoints(
            self.config.trainer, self.run_folder, self.history, self.exploration.success_rate
        )
        self.global_steps = 0
        self.epoch = 0
        self.cumulative_rollouts = 0
        self.max_steps_duration = 0.0

    def fit(self) -> None:
        """Train until the last step, from the latest usable checkpoint if there is one."""
        with self._open_loggers() as self.logger:
            try:
                self._load_checkpoint()
                if not self._validate_before_training() and self.global_steps < self.total_training_steps:
                    self._train()
            except ray.exceptions.RayTaskError:
                log_dead(workers_of(self))
                raise
            finally:
                # Also when a step fails: the report on a crashed run needs what led up to it.
                self.history.flush()
                self.kept_rollouts.flush()

    def _train(self) -> None:
        self._batches = self._prompt_batches()
        first_step = self.global_steps + 1
        with tqdm(
            total=self.total_training_steps, initial=self.global_steps, desc="Training Progress", mininterval=1.0
        ) as progress:
            for batch_dict in self._batches:
                self.global_steps += 1
                step = self._train_step(batch_dict)
                progress.update()
                if step.is_last:
                    return
        logger.warning(
            "The data ended after step %d of %d: raise trainer.total_epochs (%d) to train on.",
            self.global_steps,
            self.total_training_steps,
            self.config.trainer.total_epochs,
        )
        if self.global_steps >= first_step:
            self._validate_and_save_at_end()

    def _validate_and_save_at_end(self) -> None:
        """Validate and save after a last step that was not known to be the last: the data ended with it."""
        trainer = self.config.trainer
        if self.val_reward_fn is not None and trainer.test_freq > 0 and self.global_steps % trainer.test_freq:
            self._log(self._validate())
        if trainer.save_freq > 0 and self.global_steps % trainer.save_freq:
            self._save_checkpoint()

    def _open_loggers(self) -> RunTracking:
        trainer = self.config.trainer
        return RunTracking(
            project_name=trainer.project_name,
            experiment_name=trainer.experiment_name,
            default_backend=trainer.logger,
            config=OmegaConf.to_container(self.config, resolve=True),
            wandb_run_file=self.run_folder / WANDB_RUN_FILE,
            continues=trainer.resume_mode != "disable" and bool(whole_checkpoints(self.run_folder)),
        )

    def _log(self, metrics: dict[str, Any]) -> None:
        self.metrics_file.log(metrics, step=self.global_steps)
        self.logger.log(data=metrics, step=self.global_steps)

    def _validate_before_training(self) -> bool:
        """Validate if configured; return whether that is all this run is for."""
        if not self._validates_first():
            return False
        self._log(self._validate())
        return self._only_validates()

    def _validates_first(self) -> bool:
        return self.val_reward_fn is not None and self.config.trainer.get("val_before_train", True)

    def _only_validates(self) -> bool:
        return self._validates_first() and self.config.trainer.get("val_only", False)

    def _validate(self) -> dict[str, float]:
        with prints_to_log(logger):
            return super()._validate()

    def _prompt_batches(self) -> Iterator[dict[str, Any]]:
        """Yield batches of prompts, epoch after epoch, from where the data loader stands."""
        while self.epoch < self.config.trainer.total_epochs:
            yield from self.train_dataloader
            self.epoch += 1

    def next_prompts(self) -> dict[str, Any] | None:
        """Return the next batch of prompts, for a sampler that needs more than one; None at the end of the data."""
        return next(self._batches, None)

    # ---------------------------------------------------------------- validation and checkpoints

    def _is_due(self, frequency: int, step: TrainingStep) -> bool:
        return frequency > 0 and (step.is_last or step.number % frequency == 0)

    def _validate_and_save(self, step: TrainingStep) -> None:
        trainer = self.config.trainer
        if self.val_reward_fn is not None and self._is_due(trainer.test_freq, step):
            with marked_timer("testing", step.timing, color="green"):
                step.metrics.update(self._validate())
        expires_soon = should_save_ckpt_esi(
            max_steps_duration=self.max_steps_duration, redundant_time=trainer.esi_redundant_time
        )
        if self._is_due(trainer.save_freq, step) or (trainer.save_freq > 0 and expires_soon):
            with marked_timer("save_checkpoint", step.timing, color="green"):
                self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        self.kept_rollouts.flush()
        state = {"epoch": self.epoch, "cumulative_rollouts": self.cumulative_rollouts}
        with self.checkpoints.saving(self.global_steps, self.explorer.task_status, state), prints_to_log(logger):
            super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        """Restore the latest checkpoint that is whole and undamaged; steps after it are forgotten, to be repeated."""
        checkpoint = self.checkpoints.to_resume()
        if checkpoint is not None:
            self._restore(checkpoint)
        if self._only_validates():  # nothing will be repeated
            self.metrics_file.truncate_after(math.inf)
            return
        self.checkpoints.give_up_after(self.global_steps)
        self.metrics_file.truncate_after(self.global_steps if checkpoint is not None else -1)
        self.history.truncate_after(self.global_steps)
        self.kept_rollouts.truncate_after(self.global_steps)

    def _restore(self, checkpoint: Checkpoint) -> None:
        with open_dict(self.config.trainer):
            self.config.trainer.resume_mode = "resume_path"
            self.config.trainer.resume_from_path = str(checkpoint.folder)
        with prints_to_log(logger):
            super()._load_checkpoint()
        if checkpoint.task_status is None:
            logger.warning("Checkpoint %s has no task status: all its prompts count as unseen.", checkpoint.folder)
            return
        # The explorer keeps the priors that it was made with.
        self.explorer.load_state_dict({"task_status": checkpoint.task_status.state_dict()})
        self.epoch = checkpoint.state["epoch"]
        self.cumulative_rollouts = checkpoint.state["cumulative_rollouts"]
