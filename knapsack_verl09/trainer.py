"""verl's trainers with the allocation of rollouts to prompts: ``trainer.v1.trainer_mode=knapsack_sync``.

A step, in the order in which data flows: prompts, plan, rollouts (verl's), rewards (verl's), advantages (verl's, then
clipped), update (verl's), outcomes, task status, metrics, checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from knapsack_rl.explorer import Explorer, Plan
from knapsack_rl.identity import prompt_id
from knapsack_rl.logger_charts import log_charts
from knapsack_rl.outcomes import Outcomes
from knapsack_rl.prior import prior_of_column, prior_of_file
from knapsack_rl.run_folder import CHECKPOINT_PREFIX
from knapsack_rl.similar_columns import labels_of_batch
from knapsack_rl.status_records import visited_at
from knapsack_rl.task_status import TaskStatus
from knapsack_verl09.advantages import adjust_advantages, gradient_shares, uid_of
from knapsack_verl09.checks import TRAINER_MODES, exploration_config
from knapsack_verl09.groups import Groups
from knapsack_verl09.kept_rollouts import RolloutKeeper
from knapsack_verl09.run_files import RunFiles
from knapsack_verl09.sessions import Sessions, read_sessions
from knapsack_verl09.wandb_run import name_wandb_run
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer

__all__ = ["KnapsackTrainer", "KnapsackTrainerColocateAsync", "KnapsackTrainerSync", "identify"]

_TRAINING = "train"
"""verl's name of the TransferQueue partition that holds the rollouts to train on."""


def identify(batch: TensorDict) -> list[str]:
    """Identify each prompt of a batch by its content: data source and messages."""
    sources = batch["data_source"] if "data_source" in batch.keys() else [""] * len(batch)
    return [prompt_id(str(source), messages) for source, messages in zip(sources, batch["raw_prompt"], strict=True)]


class KnapsackTrainer(PPOTrainer):
    """A trainer of verl whose every batch of prompts shares a fixed number of rollouts.

    Args:
        config: the composed configuration, with the section ``exploration``.

    Raises:
        ConfigError: the section is not accepted.
    """

    def __init__(self, config: DictConfig) -> None:
        with open_dict(config):
            # verl compares the mode with its own names.
            config.trainer.v1.trainer_mode = TRAINER_MODES[config.trainer.v1.trainer_mode]
        exploration = exploration_config(config)
        self.explorer = Explorer(
            exploration,
            adv_estimator=config.algorithm.adv_estimator,
            rollouts_per_prompt=config.actor_rollout_ref.rollout.n,
            prior=prior_of_file(exploration.success_rate.prior),
        )
        self.groups = Groups(self.explorer, exploration.success_threshold)
        self.files = RunFiles(Path(config.trainer.default_local_dir).absolute(), exploration)
        self.files.save_config(config)
        self.explored: list[tuple[Plan, Outcomes]] = []
        self.prompts_fetched = 0
        self.first_epoch = 0
        self.cumulative_rollouts = 0
        self.timing_raw: dict[str, float] = {}
        self._is_training = False
        super().__init__(config)

    def fit(self, agent_loop_manager: Any) -> None:
        """Train until the last step."""
        if "wandb" in self.config.trainer.logger:
            name_wandb_run(self.files.folder, continues=self.global_steps > 0)
        self.kept_rollouts = RolloutKeeper(self.files.rollouts, self.explorer.config, self.tokenizer)
        try:
            super().fit(agent_loop_manager)
        finally:
            # Also when a step fails: the report on a crashed run needs what led up to it.
            self.files.history.flush()
            self.kept_rollouts.flush()

    # ---------------------------------------------------------------- prompts and plan

    @property
    def epoch(self) -> int:
        """Passes through the training data that were completed before the latest prompt, counted from 0."""
        prompts_of_an_epoch = len(self.train_dataloader) * self.train_dataloader.batch_size
        return self.first_epoch + max(self.prompts_fetched - 1, 0) // prompts_of_an_epoch

    def _fetch_one_gen_batch(self) -> TensorDict:
        batch = super()._fetch_one_gen_batch()
        self.prompts_fetched += len(batch)
        return batch

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        with marked_timer("allocate", self.timing_raw):
            plan = self.explorer.plan(
                identify(batch),
                epoch=self.epoch,
                step=self.global_steps,
                prior=prior_of_column(self.explorer.config.success_rate.prior, batch),
                similar=labels_of_batch(self.explorer.config.success_rate.similar_by, batch),
            )
        self.groups.add(plan, list(batch["uid"]))
        # verl's agent loop runs so many sessions of each prompt. Where verl keeps prompts for a resume, it keeps this.
        batch["__rollout_n__"] = torch.as_tensor(plan.budgets)
        return super()._submit_batch_to_rollout(batch)

    # ---------------------------------------------------------------- outcomes

    def _build_replay_buffer(self) -> ReplayBuffer:
        """Build verl's buffer, and look at every group before the buffer evicts it."""
        buffer = super()._build_replay_buffer()
        clear_groups = buffer._clear_groups

        def look_and_clear(partition_id: str, uids: Iterable[str]) -> None:
            if partition_id == _TRAINING:
                evicted = set(uids)
                keys = [key for key in buffer.partitions[partition_id] if uid_of(key) in evicted]
                self.groups.take_back(sorted(evicted), read_sessions(keys, partition_id))
            clear_groups(partition_id, uids)

        buffer._clear_groups = look_and_clear
        return buffer

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        real = [row for row, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
        keys = [batch.keys[row] for row in real]
        advantages = list(
            tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["advantages"])["advantages"]
        )
        adv_clip = self.config.algorithm.adv_clip
        adjusted, clipped_share = adjust_advantages(
            advantages,
            keys,
            adv_clip=adv_clip,
            compares_group=self.explorer.adv_estimator.compares_group,
            prompt_weight=self.config.algorithm.prompt_weight,
        )
        if adv_clip is not None:
            metrics["actor/adv_clip_ratio"] = clipped_share
        nested = torch.nested.as_nested_tensor(adjusted, layout=torch.jagged)
        tq.kv_batch_put(
            keys=keys, partition_id=batch.partition_id, fields=TensorDict({"advantages": nested}, batch_size=len(keys))
        )
        metrics.update(gradient_shares(adjusted, keys, self.config.actor_rollout_ref.actor.loss_agg_mode))
        with marked_timer("observe", self.timing_raw):
            sessions = read_sessions(keys, batch.partition_id)
        self._keep_rollouts(sessions, keys, batch.partition_id)
        with marked_timer("observe", self.timing_raw):
            self.groups.take_back([uid_of(key) for key in keys], sessions)
            self.explored = self.groups.learn(self.global_steps)
            for plan, outcomes in self.explored:
                self.files.history.record(plan, outcomes)
                self.cumulative_rollouts += len(outcomes.prompt_index)
        return batch

    def _keep_rollouts(self, sessions: Sessions | None, keys: Sequence[str], partition_id: str) -> None:
        if sessions is None:
            return
        with marked_timer("keep_rollouts", self.timing_raw):
            self.kept_rollouts.keep(
                self.global_steps,
                sessions,
                keys,
                partition_id,
                self.groups.planned,
                least_epoch=self.explorer.task_status.epoch,
            )

    # ---------------------------------------------------------------- metrics

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        metrics.update(self.explorer.metrics(self.explored))
        metrics["training/cumulative_rollouts"] = self.cumulative_rollouts
        self._is_training = True
        self.files.log(metrics, global_steps)
        self._log_charts(global_steps)

    def _log_charts(self, step: int) -> None:
        every = self.explorer.config.log_histogram_every
        if every > 0 and self.explored and (step % every == 0 or step == self.total_training_steps):
            success_rates = np.concatenate([plan.success_rates for plan, _ in self.explored])
            budgets = np.concatenate([plan.budgets for plan, _ in self.explored])
            log_charts(self.logger.logger, success_rates, budgets, step)

    def _validate(self) -> dict[str, float]:
        metrics = super()._validate()
        if not self._is_training:
            # Later ones are among the metrics of their step.
            self.files.log(metrics, self.global_steps)
        return metrics

    # ---------------------------------------------------------------- checkpoints

    def _save_checkpoint(self) -> None:
        # First: verl's own last act is to note the checkpoint as its latest, and what is noted must be whole.
        self.kept_rollouts.flush()
        self.files.save(
            self.global_steps,
            self.explorer.task_status,
            {
                "epoch": self.epoch,
                "cumulative_rollouts": self.cumulative_rollouts,
                "prompts_fetched": self.prompts_fetched,
                "first_epoch": self.first_epoch,
                "groups": self.groups.state_dict(),
            },
        )
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        self.files.forget_after(self.global_steps)
        if self.global_steps > 0:
            self._restore(self._resumed_folder())
        elif self.config.knapsack.task_status is not None:
            self._start_from(Path(self.config.knapsack.task_status))

    def _resumed_folder(self) -> Path:
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(trainer.resume_from_path).absolute()
        return self.files.folder / f"{CHECKPOINT_PREFIX}{self.global_steps}"

    def _restore(self, checkpoint: Path) -> None:
        task_status, state = self.files.load(checkpoint)
        if task_status is None:
            return
        # The explorer keeps the priors that it was made with.
        self.explorer.load_state_dict({"task_status": task_status.state_dict()})
        # A checkpoint of the fork for verl 0.5 has epoch and rollouts only.
        self.first_epoch = state.get("first_epoch", state["epoch"])
        self.prompts_fetched = state.get("prompts_fetched", 0)
        self.cumulative_rollouts = state["cumulative_rollouts"]
        self.groups.load_state_dict(state.get("groups", {}))

    def _start_from(self, file: Path) -> None:
        """Begin with what another run knew of the prompts: its last epoch is the one before the first of this run."""
        known = TaskStatus.load(file)
        self.first_epoch = known.epoch + 1
        state = known.state_dict()
        self.explorer.load_state_dict(
            {"task_status": {**state, "step": 0, "records": visited_at(state["records"], step=0)}}
        )


@register_trainer("knapsack_sync")
class KnapsackTrainerSync(KnapsackTrainer, PPOTrainerSync):
    """Rollouts and updates take turns."""


@register_trainer("knapsack_colocate_async")
class KnapsackTrainerColocateAsync(KnapsackTrainer, PPOTrainerColocateAsync):
    """The next batch is under way while this one is trained on, so budgets are one step staler."""
