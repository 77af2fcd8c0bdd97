"""Overlay of ``verl.trainer.ppo.ray_trainer``: upstream's trainer with rollouts allocated to prompts at every step.

The step reads in the order in which data flows: prompts, allocation, expansion, rollout, reward, log-probs, advantage,
update, task status, metrics, checkpoint. What a phase computes is upstream's; what is decided before and learned after
it is in ``exploration_utils`` and ``task_status``.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from omegaconf import OmegaConf, open_dict
from tensordict import TensorDict
from tqdm import tqdm

from verl import DataProto
from verl.experimental.dataset.sampler import AbstractCurriculumSampler
from verl.protocol import pad_dataproto_to_divisor, unpad_dataproto
from verl.single_controller.ray import RayResourcePool
from verl.trainer.config.checks import exploration_config
from verl.trainer.ppo.core_algos import AdvantageEstimator, agg_loss
from verl.trainer.ppo.dispatch import imbalance, packed_order, random_order
from verl.trainer.ppo.exploration_charts import wandb_charts
from verl.trainer.ppo.exploration_history import ExplorationHistory
from verl.trainer.ppo.exploration_utils import (
    Allocation,
    homogeneous_allocate,
    knapsack_allocate,
    value_for_adv_estimator,
)
from verl.trainer.ppo.metric_utils import (
    compute_data_metrics,
    compute_rollout_policy_metrics,
    compute_throughout_metrics,
    compute_timing_metrics,
)
from verl.trainer.ppo.reward import compute_reward, compute_reward_async
from verl.trainer.ppo.rollouts import Exploration, RolloutRecord, effective_rollouts
from verl.trainer.ppo.task_status import TaskStatus, TaskStatusError, prompt_id
from verl.upstream import keep_upstream_names
from verl.upstream.trainer.ppo.ray_trainer import RayPPOTrainer as UpstreamRayPPOTrainer
from verl.upstream.trainer.ppo.ray_trainer import ResourcePoolManager as UpstreamResourcePoolManager
from verl.upstream.trainer.ppo.ray_trainer import (
    Role,
    WorkerType,
    apply_kl_penalty,
    compute_advantage,
    compute_response_mask,
)
from verl.utils.checkpoint.checkpoint_manager import should_save_ckpt_esi
from verl.utils.checkpoint_state import (
    MODEL_PARTS,
    CheckpointError,
    latest_usable_checkpoint,
    mark_complete,
    mark_incomplete,
    read_json,
    remove_superseded,
    step_of,
    whole_checkpoints,
    write_atomically,
)
from verl.utils.debug import marked_timer
from verl.utils.metric import reduce_metrics
from verl.utils.metrics_file import MetricsFile
from verl.utils.quiet import prints_to_log
from verl.utils.run_tracking import RunTracking

__all__ = [
    "RayPPOTrainer",
    "ResourcePoolManager",
    "Role",
    "WorkerType",
    "apply_kl_penalty",
    "clip_advantages",
    "compute_advantage",
    "compute_response_mask",
    "take_rows",
    "truncated_importance_weights",
]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

STATUS_FILE = "task_status.npz"
STATE_FILE = "trainer_state.json"
HISTORY_FOLDER = "history"

_GENERATION_TENSORS = ["input_ids", "attention_mask", "position_ids"]
_GENERATION_COLUMNS = [
    "raw_prompt_ids",
    "multi_modal_data",
    "raw_prompt",
    "tools_kwargs",
    "interaction_kwargs",
    "index",
    "agent_name",
]


@dataclass
class ResourcePoolManager(UpstreamResourcePoolManager):
    """Upstream's resource pools, which without GPUs (``use_gpu=False``) are pools of CPU slots."""

    use_gpu: bool = True

    def create_resource_pool(self) -> None:
        """Create Ray's placement groups for every pool.

        Raises:
            ValueError: the Ray cluster has too few GPUs, or too few CPU slots.
        """
        if self.use_gpu:
            super().create_resource_pool()
            return
        for name, processes_on_nodes in self.resource_pool_spec.items():
            self.resource_pool_dict[name] = RayResourcePool(
                process_on_nodes=processes_on_nodes, use_gpu=False, max_colocate_count=1, name_prefix=name
            )
        self._check_cpu_slots()

    def _check_cpu_slots(self) -> None:
        available = ray.available_resources().get("CPU", 0)
        if available < self.get_n_gpus():
            raise ValueError(
                f"The Ray cluster has {available:g} free CPU slots, fewer than the {self.get_n_gpus()} workers of "
                "trainer.nnodes * trainer.n_gpus_per_node: lower these or raise ray_init.num_cpus."
            )


def clip_advantages(advantages: torch.Tensor, adv_clip: float | None) -> torch.Tensor:
    """Clip advantages of any shape to [-adv_clip, adv_clip]; None leaves them (paper, appendix C).

    Example:
        >>> clip_advantages(torch.tensor([-7.0, 0.5]), 5.0)
        tensor([-5.0000,  0.5000])
    """
    return advantages if adv_clip is None else advantages.clamp(-adv_clip, adv_clip)


def truncated_importance_weights(
    training_log_probs: torch.Tensor, rollout_log_probs: torch.Tensor, cap: float
) -> torch.Tensor:
    """Return min(pi_training / pi_rollout, cap) per token, detached; all arguments (B, response_length).

    Multiplied into the advantages, the weights scale each token's policy-gradient term, clipped or not.

    Example:
        >>> truncated_importance_weights(torch.tensor([0.0, -2.0]), torch.tensor([-2.0, -2.0]), cap=2.0)
        tensor([2., 1.])
    """
    return torch.exp(training_log_probs - rollout_log_probs).clamp(max=cap).detach()


def _check_torch_file(file: Path) -> None:
    try:
        torch.load(file, weights_only=False)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def take_rows(batch: DataProto, rows: np.ndarray) -> DataProto:
    """Return the rows of ``batch`` with the given indices, (B,) int64, repeats allowed, in that order.

    As ``DataProto.select_idxs``, which takes twice as long when rows repeat.
    """
    indices = torch.from_numpy(rows)
    tensors = {name: tensor.index_select(0, indices) for name, tensor in batch.batch.items()}
    return DataProto(
        batch=TensorDict(tensors, batch_size=(len(rows),)),
        non_tensor_batch={name: column[rows] for name, column in batch.non_tensor_batch.items()},
        meta_info=batch.meta_info,
    )


@dataclass
class TrainingStep:
    """What one training step gathers besides its batch."""

    number: int
    is_last: bool
    is_profiled: bool
    exploration: Exploration = field(default_factory=Exploration)
    metrics: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)


class RayPPOTrainer(UpstreamRayPPOTrainer):
    """Upstream's PPO trainer, whose every step allocates a fixed number of rollouts to its prompts.

    Args:
        config: the composed configuration with an ``exploration`` section.

    All other arguments are upstream's.

    Raises:
        ConfigError: the exploration section is not accepted.
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        self.exploration = exploration_config(config)
        super().__init__(config, *args, **kwargs)
        # The task status lives on the driver: data-loader workers hold copies of the data set as it was when forked.
        rates = self.exploration.success_rate
        self.task_status = TaskStatus(
            rates.estimator,
            window=rates.window,
            min_rollouts=rates.min_rollouts,
            discount=rates.discount,
            prior_strength=rates.prior_strength,
        )
        self.budget_schedule = self.exploration.budget_schedule(
            config.data.get("gen_batch_size") or config.data.train_batch_size, config.actor_rollout_ref.rollout.n
        )
        self.run_folder = Path(config.trainer.default_local_dir).absolute()
        self.metrics_file = MetricsFile(self.run_folder)
        self.history = ExplorationHistory(self.run_folder / HISTORY_FOLDER)
        self.global_steps = 0
        self.epoch = 0
        self.cumulative_rollouts = 0
        self.max_steps_duration = 0.0

    # ---------------------------------------------------------------- the run

    def fit(self) -> None:
        """Train until the last step, from the latest usable checkpoint if there is one."""
        with self._open_loggers() as self.logger:
            self._load_checkpoint()
            if self._validate_before_training() or self.global_steps >= self.total_training_steps:
                return
            try:
                self._train()
            finally:
                # Also when a step fails: the report on a crashed run needs what led up to it.
                self.history.flush()

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

    def release_workers(self) -> None:
        """End the worker processes; without this Ray reports their end with the run as a failure."""
        groups = [self.actor_rollout_wg]
        groups += [self.critic_wg] if self.use_critic else []
        groups += [self.ref_policy_wg] if self.use_reference_policy and not self.ref_in_actor else []
        groups += [self.rm_wg] if self.use_rm else []
        for worker in {worker._actor_id: worker for group in groups for worker in group.workers}.values():
            ray.kill(worker)

    def _open_loggers(self) -> RunTracking:
        trainer = self.config.trainer
        return RunTracking(
            project_name=trainer.project_name,
            experiment_name=trainer.experiment_name,
            default_backend=trainer.logger,
            config=OmegaConf.to_container(self.config, resolve=True),
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

    # ---------------------------------------------------------------- the step

    def _train_step(self, batch_dict: dict[str, Any]) -> TrainingStep:
        step = TrainingStep(
            number=self.global_steps,
            is_last=self.global_steps >= self.total_training_steps,
            is_profiled=self.global_steps in (self.config.trainer.profile_steps or ()),
        )
        with marked_timer("start_profile", step.timing):
            self._start_profiling(step.is_profiled)
        with marked_timer("step", step.timing):
            batch = self._roll_out(step, batch_dict)
            batch = self._add_log_probs(step, batch)
            batch = self._add_values(step, batch)
            batch = self._add_rewards(step, batch)
            batch = self._add_advantages(step, batch)
            self._update(step, batch)
            self._observe(step)
            self._dump_rollouts(step, batch)
            self._validate_and_save(step)
        with marked_timer("stop_profile", step.timing):
            self._stop_profiling(step.is_profiled)
        self._finish_step(step, batch)
        return step

    def _roll_out(self, step: TrainingStep, batch_dict: dict[str, Any]) -> DataProto:
        """Allocate rollouts to the prompts of the batch and generate them; their rewards may still be under way."""
        if self.exploration.dynamic_sampling.enable:
            batch = self._roll_out_until_effective(step, batch_dict)
        else:
            batch, record = self._explore(step, batch_dict)
            step.exploration.add(record)
        if self.config.trainer.balance_batch:
            self._balance_batch(batch, metrics=step.metrics)
        batch.meta_info["global_token_num"] = torch.sum(batch.batch["attention_mask"], dim=-1).tolist()
        if not self.exploration.dynamic_sampling.enable:
            self._start_rewards(step, batch)
        return batch

    def _roll_out_until_effective(self, step: TrainingStep, batch_dict: dict[str, Any]) -> DataProto:
        """Generate batches until enough rollouts belong to prompts with mixed rewards (DAPO's dynamic sampling).

        The batch always has the step's full number of rows, so that it divides over workers and mini-batches: at the
        cap on generations, rollouts without a gradient fill it.
        """
        num_rows = self._rows_to_train(step.number)
        generated: list[DataProto] = []
        while True:
            batch, record = self._explore(step, batch_dict)
            self._start_rewards(step, batch)
            batch = self._add_rewards(step, batch)
            self._read_outcomes(record, batch)
            step.exploration.add(record)
            generated.append(batch)
            enough = step.exploration.num_effective >= num_rows
            if enough or len(generated) == self.exploration.dynamic_sampling.max_generations:
                break
            batch_dict = next(self._batches, None)
            if batch_dict is None:
                break
        step.metrics["training/num_generations"] = len(generated)
        step.metrics["training/reached_max_generations"] = float(not enough)
        return DataProto.concat(generated).select_idxs(step.exploration.rows_to_train(num_rows))

    def _rows_to_train(self, step_number: int) -> int:
        """Return the rollouts that dynamic sampling trains on: of train_batch_size prompts, however many it draws."""
        if self.exploration.total_budget is None:
            return self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        return self.budget_schedule.at(step_number)

    # ---------------------------------------------------------------- prompts, allocation, rollout

    def _explore(self, step: TrainingStep, batch_dict: dict[str, Any]) -> tuple[DataProto, RolloutRecord]:
        batch = DataProto.from_single_dict(batch_dict)
        prompt_ids = self._prompt_ids(batch)
        with marked_timer("allocate", step.timing):
            success_rates = self.task_status.success_rates(prompt_ids, epoch=self.epoch)
            allocation = self._allocate(prompt_ids, success_rates, self.budget_schedule.at(step.number))
            order = self._dispatch_order(prompt_ids, allocation.budgets, step.number)
        record = RolloutRecord(
            epoch=self.epoch, prompt_ids=prompt_ids, success_rates=success_rates, allocation=allocation
        )
        gen_batch = self._split_generation_inputs(batch)
        generation = len(step.exploration.records)
        batch.non_tensor_batch["uid"] = np.array(
            [f"{step.number}-{generation}-{prompt}" for prompt in range(len(batch))], dtype=object
        )
        batch.non_tensor_batch["prompt_index"] = np.arange(len(batch))
        batch.non_tensor_batch["prompt_id"] = np.array(prompt_ids, dtype=object)
        gen_batch.meta_info.update(
            {"global_steps": step.number, "seed": self.exploration.seed + generation * 1_000_003}
        )
        if self.config.algorithm.adv_estimator == AdvantageEstimator.REMAX:
            self._add_greedy_baselines(step, batch, gen_batch)
        batch, gen_batch = take_rows(batch, order), take_rows(gen_batch, order)
        with marked_timer("gen", step.timing, color="red"):
            generated = self._generate(gen_batch)
            step.timing.update(generated.meta_info.pop("timing", {}))
        self.cumulative_rollouts += len(batch)
        worker_seconds = generated.meta_info.pop("worker_seconds", None)
        batch = batch.union(generated)
        if "response_mask" not in batch.batch:
            batch.batch["response_mask"] = compute_response_mask(batch)
        step.metrics.update(self._imbalance(order, batch.batch["response_mask"].sum(-1).numpy(), worker_seconds))
        return batch, record

    def _rollout_engines(self) -> int:
        """Number of equal parts of a batch that are generated apart: a tensor-parallel group's workers share theirs."""
        if self.async_rollout_mode:
            return self.config.actor_rollout_ref.rollout.agent.num_workers
        rollout = self.config.actor_rollout_ref.rollout
        workers_per_engine = 1 if rollout.name == "hf" else rollout.tensor_model_parallel_size
        return self.actor_rollout_wg.world_size // workers_per_engine

    def _imbalance(
        self, order: np.ndarray, tokens_per_row: np.ndarray, worker_seconds: list[float] | None
    ) -> dict[str, float]:
        engines = self._rollout_engines()
        seconds = None if worker_seconds is None else np.reshape(worker_seconds, (engines, -1)).max(axis=1)
        return imbalance(order, engines, tokens_per_row, worker_seconds=seconds)

    def _prompt_ids(self, batch: DataProto) -> list[str]:
        """Identify each prompt by its content: data source, messages and media; by its tokens without messages."""
        columns = batch.non_tensor_batch
        sources = columns.get("data_source", np.full(len(batch), ""))
        contents = columns.get("raw_prompt", columns["raw_prompt_ids"])
        media = columns.get("multi_modal_data", [None] * len(batch))
        if not self.config.data.return_raw_chat:
            columns.pop("raw_prompt", None)
        return [
            prompt_id(str(source), content, media=shown) for source, content, shown in zip(sources, contents, media)
        ]

    def _allocate(self, prompt_ids: list[str], success_rates: np.ndarray, total_budget: int) -> Allocation:
        """Return the rollouts of each prompt, ``budgets`` (M,), for the estimated ``success_rates`` (M,)."""
        exploration = self.exploration
        if exploration.allocator == "homogeneous":
            return homogeneous_allocate(len(prompt_ids), total_budget, success_rates=success_rates)
        value = exploration.value or value_for_adv_estimator(self.config.algorithm.adv_estimator)
        beliefs, greedy_match_rates = None, None
        if value == "expected":
            beliefs = self.task_status.beliefs(prompt_ids, epoch=self.epoch)
        if value == "remax":
            greedy_match_rates = self.task_status.greedy_match_rates(prompt_ids, epoch=self.epoch)
        return knapsack_allocate(
            success_rates,
            total_budget,
            exploration.n_low,
            exploration.n_up,
            value=value,
            fallback=exploration.fallback,
            fallback_confidence=exploration.fallback_confidence,
            solver=exploration.solver,
            greedy_match_rates=greedy_match_rates,
            beliefs=beliefs,
        )

    def _dispatch_order(self, prompt_ids: list[str], budgets: np.ndarray, step_number: int) -> np.ndarray:
        """Return the prompt index of every row, (N_total,), in the order in which rows are dealt to the workers."""
        if self.exploration.allocator == "homogeneous":
            return np.repeat(np.arange(len(budgets)), budgets)
        if self.exploration.dispatch == "random":
            return random_order(budgets, seed=self.exploration.seed, step=step_number)
        expected_tokens = self.task_status.mean_response_lengths(prompt_ids)
        return packed_order(budgets, self._rollout_engines(), expected_tokens=expected_tokens)

    def _split_generation_inputs(self, batch: DataProto) -> DataProto:
        present = [column for column in _GENERATION_COLUMNS if column in batch.non_tensor_batch]
        return batch.pop(batch_keys=list(_GENERATION_TENSORS), non_tensor_batch_keys=present)

    def _generate(self, gen_batch: DataProto) -> DataProto:
        engine = self.async_rollout_manager if self.async_rollout_mode else self.actor_rollout_wg
        return engine.generate_sequences(gen_batch)

    def _add_greedy_baselines(self, step: TrainingStep, batch: DataProto, gen_batch: DataProto) -> None:
        """Add ``reward_baselines`` (M,): what each prompt's greedy response earns (ReMax)."""
        with marked_timer("gen_max", step.timing, color="purple"):
            greedy = gen_batch.select_idxs(np.arange(len(gen_batch)))
            greedy.meta_info = {**gen_batch.meta_info, "do_sample": False}
            greedy, padding = pad_dataproto_to_divisor(greedy, self.actor_rollout_wg.world_size)
            greedy = unpad_dataproto(self.actor_rollout_wg.generate_sequences(greedy), pad_size=padding)
            for measured in ("timing", "worker_seconds"):
                greedy.meta_info.pop(measured, None)
            answered = batch.select_idxs(np.arange(len(batch)))
            answered.meta_info = dict(batch.meta_info)
            rewards, _ = compute_reward(answered.union(greedy), self.reward_fn)
            batch.batch["reward_baselines"] = rewards.sum(dim=-1)

    # ---------------------------------------------------------------- rewards

    def _start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        """Compute the rewards, or start their computation beside the log-prob pass."""
        with marked_timer("reward", step.timing, color="yellow"):
            if self.use_rm:
                batch.union(self.rm_wg.compute_rm_score(batch))
            if self.config.reward_model.launch_reward_fn_async:
                self._pending_rewards = compute_reward_async.remote(data=batch, reward_fn=self.reward_fn)
            else:
                self._pending_rewards = compute_reward(batch, self.reward_fn)

    def _add_rewards(self, step: TrainingStep, batch: DataProto) -> DataProto:
        """Add ``token_level_scores`` (B, response_length) and the reward function's further columns."""
        if self._pending_rewards is None:
            return batch
        with marked_timer("reward_wait", step.timing, color="yellow"):
            pending, self._pending_rewards = self._pending_rewards, None
            scores, extra_columns = ray.get(pending) if isinstance(pending, ray.ObjectRef) else pending
        batch.batch["token_level_scores"] = scores
        batch.non_tensor_batch.update({name: np.array(values) for name, values in extra_columns.items()})
        batch.meta_info["reward_columns"] = sorted(extra_columns)
        return batch

    # ---------------------------------------------------------------- log-probs, values, advantages

    def _add_log_probs(self, step: TrainingStep, batch: DataProto) -> DataProto:
        with marked_timer("old_log_prob", step.timing, color="blue"):
            log_probs = self.actor_rollout_wg.compute_log_prob(batch)
            entropy = agg_loss(
                loss_mat=log_probs.batch.pop("entropys"),
                loss_mask=batch.batch["response_mask"],
                loss_agg_mode=self.config.actor_rollout_ref.actor.loss_agg_mode,
            )
            step.metrics["actor/entropy"] = entropy.detach().item()
            batch = batch.union(log_probs)
            step.metrics.update(compute_rollout_policy_metrics(batch))
        if self.use_reference_policy:
            with marked_timer("ref", step.timing, color="olive"):
                workers = self.actor_rollout_wg if self.ref_in_actor else self.ref_policy_wg
                batch = batch.union(workers.compute_ref_log_prob(batch))
        return batch

    def _add_values(self, step: TrainingStep, batch: DataProto) -> DataProto:
        if not self.use_critic:
            return batch
        with marked_timer("values", step.timing, color="cyan"):
            return batch.union(self.critic_wg.compute_values(batch))

    def _add_advantages(self, step: TrainingStep, batch: DataProto) -> DataProto:
        """Add ``advantages`` (B, response_length): the estimator's, clipped, and weighted where that is configured."""
        algorithm = self.config.algorithm
        with marked_timer("adv", step.timing, color="brown"):
            if algorithm.use_kl_in_reward:
                batch, kl_metrics = apply_kl_penalty(
                    batch, kl_ctrl=self.kl_ctrl_in_reward, kl_penalty=algorithm.kl_penalty
                )
                step.metrics.update(kl_metrics)
            else:
                batch.batch["token_level_rewards"] = batch.batch["token_level_scores"]
            batch = compute_advantage(
                batch,
                adv_estimator=algorithm.adv_estimator,
                gamma=algorithm.gamma,
                lam=algorithm.lam,
                num_repeat=self.config.actor_rollout_ref.rollout.n,
                norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
                config=algorithm,
            )
            advantages = batch.batch["advantages"]
            batch.batch["advantages"] = clip_advantages(advantages, algorithm.adv_clip)
            if algorithm.adv_clip is not None:
                clipped = (advantages.abs() > algorithm.adv_clip) & batch.batch["response_mask"].bool()
                step.metrics["actor/adv_clip_ratio"] = (clipped.sum() / batch.batch["response_mask"].sum()).item()
            if self.exploration.rollout_is_cap is not None:
                self._weight_by_importance(step, batch)
        if not self.exploration.dynamic_sampling.enable:
            self._read_outcomes(step.exploration.records[-1], batch)
        return batch

    def _weight_by_importance(self, step: TrainingStep, batch: DataProto) -> None:
        cap = self.exploration.rollout_is_cap
        weights = truncated_importance_weights(batch.batch["old_log_probs"], batch.batch["rollout_log_probs"], cap)
        batch.batch["advantages"] = batch.batch["advantages"] * weights
        on_response = weights[batch.batch["response_mask"].bool()]
        step.metrics["training/rollout_is_weight_mean"] = on_response.mean().item()
        step.metrics["training/rollout_is_capped_ratio"] = (on_response >= cap).float().mean().item()

    # ---------------------------------------------------------------- update

    def _update(self, step: TrainingStep, batch: DataProto) -> None:
        if self.use_critic:
            with marked_timer("update_critic", step.timing, color="pink"):
                critic_output = self.critic_wg.update_critic(batch)
            step.metrics.update(reduce_metrics(critic_output.meta_info["metrics"]))
        if self.config.trainer.critic_warmup <= step.number:
            with marked_timer("update_actor", step.timing, color="red"):
                batch.meta_info["multi_turn"] = self.config.actor_rollout_ref.rollout.multi_turn.enable
                actor_output = self.actor_rollout_wg.update_actor(batch)
            step.metrics.update(reduce_metrics(actor_output.meta_info["metrics"]))

    # ---------------------------------------------------------------- what was learned about the prompts

    def _read_outcomes(self, record: RolloutRecord, batch: DataProto) -> None:
        """Fill ``record`` with the outcome of every rollout of ``batch``."""
        scores = batch.batch["token_level_scores"].sum(-1).numpy()
        accuracy = batch.non_tensor_batch.get("acc")
        outcome = scores if accuracy is None else np.asarray(accuracy, dtype=float)
        record.prompt_index = batch.non_tensor_batch["prompt_index"]
        record.scores = scores
        record.successes = outcome > self.exploration.success_threshold
        record.response_tokens = batch.batch["response_mask"].sum(-1).numpy()
        advantages = batch.batch["advantages"].numpy() if "advantages" in batch.batch else None
        record.effective = effective_rollouts(
            scores, record.prompt_index, self.config.algorithm.adv_estimator, advantages
        )
        if "reward_baselines" in batch.batch:
            record.greedy_successes = batch.batch["reward_baselines"].numpy() > self.exploration.success_threshold

    def _observe(self, step: TrainingStep) -> None:
        with marked_timer("observe", step.timing):
            for record in step.exploration.records:
                self.task_status.observe(
                    [record.prompt_ids[index] for index in record.prompt_index],
                    record.successes,
                    epoch=record.epoch,
                    step=step.number,
                    response_lengths=record.response_tokens,
                    greedy_successes=record.greedy_successes,
                )
                self.history.append(
                    step.number,
                    record.epoch,
                    record.prompt_ids,
                    record.success_rates,
                    record.allocation.budgets,
                    record.successes_by_prompt,
                    record.response_tokens_by_prompt,
                )

    # ---------------------------------------------------------------- dumps, validation, checkpoints

    def _dump_rollouts(self, step: TrainingStep, batch: DataProto) -> None:
        folder = self.config.trainer.get("rollout_data_dir", None)
        if not folder:
            return
        with marked_timer("dump_rollout_generations", step.timing, color="green"), prints_to_log(logger):
            columns = [*batch.meta_info.get("reward_columns", ()), "request_id", "prompt_id"]
            self._dump_generations(
                inputs=self.tokenizer.batch_decode(batch.batch["prompts"], skip_special_tokens=True),
                outputs=self.tokenizer.batch_decode(batch.batch["responses"], skip_special_tokens=True),
                scores=batch.batch["token_level_scores"].sum(-1).tolist(),
                reward_extra_infos_dict={
                    name: batch.non_tensor_batch[name].tolist() for name in columns if name in batch.non_tensor_batch
                },
                dump_path=folder,
            )

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

    def _checkpoint_folder(self) -> Path:
        return self.run_folder / f"global_step_{self.global_steps}"

    def _save_checkpoint(self) -> None:
        """Save task status, history and counters, then upstream's checkpoint, then declare it whole."""
        folder = self._checkpoint_folder()
        folder.mkdir(parents=True, exist_ok=True)
        mark_incomplete(folder)  # it may be there already, damaged
        self.history.flush()
        self.task_status.save(folder / STATUS_FILE)
        state = {"epoch": self.epoch, "cumulative_rollouts": self.cumulative_rollouts}
        write_atomically(folder / STATE_FILE, json.dumps(state))
        with prints_to_log(logger), self._without_upstream_rotation() as checkpoints_to_keep:
            super()._save_checkpoint()
        mark_complete(folder)
        remove_superseded(self.run_folder, self.global_steps, checkpoints_to_keep)

    @contextmanager
    def _without_upstream_rotation(self) -> Iterator[dict[str, int | None]]:
        """Keep upstream from removing the oldest checkpoint before the next is whole; yield how many to keep.

        A run killed in between would have none left, and start over.
        """
        trainer = self.config.trainer
        configured = {f"max_{part}_ckpt_to_keep": trainer.get(f"max_{part}_ckpt_to_keep") for part in MODEL_PARTS}
        removes_previous = trainer.get("remove_previous_ckpt_in_save", False)
        with open_dict(trainer):
            trainer.update({key: None for key in configured}, remove_previous_ckpt_in_save=False)
            try:
                yield dict(zip(MODEL_PARTS, (1, 1) if removes_previous else configured.values(), strict=True))
            finally:
                trainer.update(configured, remove_previous_ckpt_in_save=removes_previous)

    def _load_checkpoint(self) -> None:
        """Restore the latest checkpoint that is whole and undamaged; steps after it are forgotten, to be repeated."""
        folder = self._checkpoint_to_resume()
        if folder is not None:
            self._load_upstream_checkpoint(folder)
            self._load_task_status(folder)
        if self._only_validates():  # nothing will be repeated
            self.metrics_file.truncate_after(math.inf)
            return
        self._give_up_later_checkpoints()
        self.metrics_file.truncate_after(self.global_steps if folder is not None else -1)
        self.history.truncate_after(self.global_steps)

    def _give_up_later_checkpoints(self) -> None:
        """Keep an automatic resume from returning to the course that this run leaves at the present step."""
        for later in whole_checkpoints(self.run_folder):
            if step_of(later) > self.global_steps:
                mark_incomplete(later)
                logger.warning(
                    "Training starts again from step %d: checkpoint %s is of the course given up here. It is kept for "
                    "trainer.resume_mode=resume_path.",
                    self.global_steps,
                    later,
                )

    def _checkpoint_to_resume(self) -> Path | None:
        trainer = self.config.trainer
        if trainer.resume_mode == "disable":
            return None
        if trainer.resume_mode == "auto":
            return latest_usable_checkpoint(self.run_folder, self._checkpoint_problem)
        folder = Path(str(trainer.resume_from_path)).absolute()
        if not folder.name.startswith("global_step_") or not folder.is_dir():
            raise CheckpointError(
                f"trainer.resume_from_path={trainer.resume_from_path} is not a checkpoint: expected a "
                "global_step_N folder."
            )
        problem = self._checkpoint_problem(folder, previous_step=0)
        if problem is not None:
            raise CheckpointError(f"trainer.resume_from_path={folder} is not usable: {problem}.")
        return folder

    def _checkpoint_problem(self, folder: Path, previous_step: int) -> str | None:
        """Return what is wrong with the files that the trainer itself keeps for a checkpoint, or None."""
        try:
            if (folder / STATUS_FILE).exists():
                TaskStatus.load(folder / STATUS_FILE)
            if (folder / STATE_FILE).exists():
                read_json(folder / STATE_FILE)
            if (folder / "data.pt").exists():
                _check_torch_file(folder / "data.pt")
            self.history.check_until(step_of(folder), since=previous_step)
        except (TaskStatusError, ValueError, OSError) as error:
            return str(error)
        return None

    def _load_upstream_checkpoint(self, folder: Path) -> None:
        with open_dict(self.config.trainer):
            self.config.trainer.resume_mode = "resume_path"
            self.config.trainer.resume_from_path = str(folder)
        with prints_to_log(logger):
            super()._load_checkpoint()

    def _load_task_status(self, folder: Path) -> None:
        if not (folder / STATUS_FILE).exists():
            logger.warning("Checkpoint %s has no %s: all its prompts count as unseen.", folder, STATUS_FILE)
            return
        self.task_status.load_state_dict(TaskStatus.load(folder / STATUS_FILE).state_dict())
        state = read_json(folder / STATE_FILE)
        self.epoch, self.cumulative_rollouts = state["epoch"], state["cumulative_rollouts"]

    # ---------------------------------------------------------------- metrics

    def _finish_step(self, step: TrainingStep, batch: DataProto) -> None:
        self.max_steps_duration = max(self.max_steps_duration, step.timing["step"])
        step.metrics.update(
            {
                "training/global_step": step.number,
                "training/epoch": self.epoch,
                "training/cumulative_rollouts": self.cumulative_rollouts,
            }
        )
        step.metrics.update(compute_data_metrics(batch=batch, use_critic=self.use_critic))
        step.metrics.update(self._exploration_metrics(step))
        step.metrics.update(compute_timing_metrics(batch=batch, timing_raw=step.timing))
        step.metrics.update(
            compute_throughout_metrics(
                batch=batch, timing_raw=step.timing, n_gpus=self.resource_pool_manager.get_n_gpus()
            )
        )
        if isinstance(self.train_dataloader.sampler, AbstractCurriculumSampler):
            self.train_dataloader.sampler.update(batch=batch)
        self._log(step.metrics)
        self._log_charts(step)
        if not step.is_last and hasattr(self.train_dataset, "on_batch_end"):
            self.train_dataset.on_batch_end(batch=batch)

    def _kinds_of_scores(self) -> tuple[str, ...]:
        """Return verl's names of metrics that speak of scores: rewards are scores unless a KL penalty is taken off."""
        return ("score",) if self.config.algorithm.use_kl_in_reward else ("score", "rewards")

    def _log_charts(self, step: TrainingStep) -> None:
        if self.logger.has("wandb") and self._is_due(self.exploration.log_histogram_every, step):
            charts = wandb_charts(step.exploration.success_rates, step.exploration.budgets)
            self.logger.log(data=charts, step=step.number, backend=["wandb"])

    def _exploration_metrics(self, step: TrainingStep) -> dict[str, float]:
        exploration = self.exploration
        metrics = step.exploration.metrics(
            n_low=exploration.n_low, n_up=exploration.n_up, fallback_confidence=exploration.fallback_confidence
        )
        if exploration.dynamic_sampling.enable:
            # What was filtered out was explored all the same: scores of the kept rollouts alone would flatter.
            scores = step.exploration.scores
            metrics.update(
                {
                    f"critic/{kind}/{statistic}": float(value)
                    for kind in self._kinds_of_scores()
                    for statistic, value in (("mean", scores.mean()), ("max", scores.max()), ("min", scores.min()))
                }
            )
        return metrics


keep_upstream_names(globals())
