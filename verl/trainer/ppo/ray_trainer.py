"""Overlay of ``verl.trainer.ppo.ray_trainer``: upstream's trainer with rollouts allocated to prompts at every step.

The step reads in the order in which data flows: prompts, allocation, expansion, rollout, reward, log-probs, advantage,
update, task status, metrics, checkpoint. What a phase computes is upstream's. What is decided before it and learned
after it is the `knapsack_rl.Explorer`'s.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch

from knapsack_rl.explorer import Explorer, Plan
from knapsack_rl.metrics import imbalance
from knapsack_rl.outcomes import Outcomes
from knapsack_rl.prior import prior_of_column, prior_of_file
from knapsack_rl.similar_columns import labels_of_batch
from verl import DataProto
from verl.experimental.dataset.sampler import AbstractCurriculumSampler
from verl.protocol import pad_dataproto_to_divisor, unpad_dataproto
from verl.trainer.config.checks import exploration_config
from verl.trainer.ppo.advantages import (
    clip_advantages,
    clipped_share,
    gradient_shares,
    weigh_by_importance,
    weigh_prompts,
    without_single_rollouts,
)
from verl.trainer.ppo.core_algos import AdvantageEstimator, agg_loss
from verl.trainer.ppo.exploration_utils import knapsack_allocate
from verl.trainer.ppo.metric_utils import compute_rollout_policy_metrics, process_validation_metrics
from verl.trainer.ppo.outcomes import read_outcomes
from verl.trainer.ppo.prompts import group_names, identify, split_generation_inputs, take_rows
from verl.trainer.ppo.resource_pools import check_cpu_slots, cpu_pool
from verl.trainer.ppo.reward import add_rewards, compute_reward, compute_reward_async
from verl.trainer.ppo.samplers import OneBatch, Sampler, UntilEffective
from verl.trainer.ppo.step import TrainingStep
from verl.trainer.ppo.step_metrics import batch_metrics
from verl.trainer.ppo.training_run import TrainingRun
from verl.upstream import keep_upstream_names
from verl.upstream.trainer.ppo import ray_trainer as upstream
from verl.upstream.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage, compute_response_mask
from verl.utils.debug import marked_timer
from verl.utils.metric import reduce_metrics
from verl.utils.quiet import prints_to_log

__all__ = ["RayPPOTrainer", "ResourcePoolManager"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))


@dataclass
class ResourcePoolManager(upstream.ResourcePoolManager):
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
            self.resource_pool_dict[name] = cpu_pool(name, processes_on_nodes)
        check_cpu_slots(self.get_n_gpus())


class RayPPOTrainer(TrainingRun, upstream.RayPPOTrainer):
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
        # The explorer lives on the driver: data-loader workers hold copies of the data set as it was when forked.
        self.explorer = Explorer(
            self.exploration,
            adv_estimator=config.algorithm.adv_estimator,
            rollouts_per_prompt=config.actor_rollout_ref.rollout.n,
            allocate=knapsack_allocate,
            prior=prior_of_file(self.exploration.success_rate.prior),
        )
        self.sampler = self._make_sampler()
        self._prepare_run()

    def _make_sampler(self) -> Sampler:
        dynamic = self.exploration.dynamic_sampling
        if not dynamic.enable:
            return OneBatch(self)
        # Rewards are scores unless a KL penalty is taken off.
        reward_metrics = ("score",) if self.config.algorithm.use_kl_in_reward else ("score", "rewards")
        return UntilEffective(self, self._rows_to_train, dynamic.max_generations, reward_metrics)

    def _rows_to_train(self, step_number: int) -> int:
        """Return the rollouts that dynamic sampling trains on: of train_batch_size prompts, however many it draws."""
        return self.explorer.total_budget(self.config.data.train_batch_size, step_number)

    def _validate(self) -> dict[str, float]:
        responses = self.config.actor_rollout_ref.rollout.val_kwargs.n
        by_row = partial(process_validation_metrics, responses_per_prompt=responses)
        with patch.object(upstream, "process_validation_metrics", by_row):
            return super()._validate()

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
            batch = self.add_rewards(step, batch)
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
        batch = self.sampler.draw(step, batch_dict)
        if self.config.trainer.balance_batch:
            self._balance_batch(batch, metrics=step.metrics)
        batch.meta_info["global_token_num"] = torch.sum(batch.batch["attention_mask"], dim=-1).tolist()
        self.sampler.start_rewards(step, batch)
        return batch

    # ---------------------------------------------------------------- prompts, allocation, rollout

    def explore(self, step: TrainingStep, batch_dict: dict[str, Any], generation: int) -> tuple[DataProto, Plan]:
        """Plan the rollouts of a batch of prompts, expand it accordingly, and generate them.

        Args:
            step: the step that they are for.
            batch_dict: M prompts as the data loader gives them.
            generation: how many batches were generated for the step before this one.

        Returns:
            The batch of N_total rows, every row with its prompt's uid and ground truth and its own response.
        """
        batch = DataProto.from_single_dict(batch_dict)
        prompt_ids = identify(batch)
        if not self.config.data.return_raw_chat:
            batch.non_tensor_batch.pop("raw_prompt", None)
        with marked_timer("allocate", step.timing):
            plan = self.explorer.plan(
                prompt_ids,
                epoch=self.epoch,
                step=step.number,
                num_workers=self._rollout_engines(),
                prior=prior_of_column(self.exploration.success_rate.prior, batch.non_tensor_batch),
                similar=labels_of_batch(self.exploration.success_rate.similar_by, batch.non_tensor_batch),
            )
        gen_batch = split_generation_inputs(batch)
        batch.non_tensor_batch["uid"] = group_names(step.number, generation, len(batch))
        batch.non_tensor_batch["prompt_index"] = np.arange(len(batch))
        batch.non_tensor_batch["prompt_id"] = np.array(prompt_ids, dtype=object)
        gen_batch.meta_info.update(
            {"global_steps": step.number, "seed": self.exploration.seed + generation * 1_000_003}
        )
        if self.config.algorithm.adv_estimator == AdvantageEstimator.REMAX:
            self._add_greedy_baselines(step, batch, gen_batch)
        batch, gen_batch = take_rows(batch, plan.order), take_rows(gen_batch, plan.order)
        return self._generate(step, plan, batch, gen_batch), plan

    def _generate(self, step: TrainingStep, plan: Plan, batch: DataProto, gen_batch: DataProto) -> DataProto:
        engine = self.async_rollout_manager if self.async_rollout_mode else self.actor_rollout_wg
        with marked_timer("gen", step.timing, color="red"):
            generated = engine.generate_sequences(gen_batch)
            step.timing.update(generated.meta_info.pop("timing", {}))
        self.cumulative_rollouts += len(batch)
        worker_seconds = generated.meta_info.pop("worker_seconds", None)
        batch = batch.union(generated)
        if "response_mask" not in batch.batch:
            batch.batch["response_mask"] = compute_response_mask(batch)
        step.metrics.update(self._imbalance(plan.order, batch.batch["response_mask"].sum(-1).numpy(), worker_seconds))
        return batch

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

    def _add_greedy_baselines(self, step: TrainingStep, batch: DataProto, gen_batch: DataProto) -> None:
        """Add ``reward_baselines`` (M,): what each prompt's greedy response earns (ReMax)."""
        with marked_timer("gen_max", step.timing, color="purple"):
            greedy = gen_batch.select_idxs(np.arange(len(gen_batch)))
            greedy.meta_info = {**gen_batch.meta_info, "do_sample": False}
            engine, parts = self.actor_rollout_wg, self.actor_rollout_wg.world_size
            if self.async_rollout_mode:
                engine, parts = self.async_rollout_manager, self._rollout_engines()
            greedy, padding = pad_dataproto_to_divisor(greedy, parts)
            greedy = unpad_dataproto(engine.generate_sequences(greedy), pad_size=padding)
            for measured in ("timing", "worker_seconds"):
                greedy.meta_info.pop(measured, None)
            answered = batch.select_idxs(np.arange(len(batch)))
            answered.meta_info = dict(batch.meta_info)
            rewards, _ = compute_reward(answered.union(greedy), self.reward_fn)
            batch.batch["reward_baselines"] = rewards.sum(dim=-1)

    # ---------------------------------------------------------------- rewards

    def start_rewards(self, step: TrainingStep, batch: DataProto) -> None:
        """Compute the rewards, or start their computation beside the log-prob pass."""
        with marked_timer("reward", step.timing, color="yellow"):
            if self.use_rm:
                batch.union(self.rm_wg.compute_rm_score(batch))
            if self.config.reward_model.launch_reward_fn_async:
                self._pending_rewards = compute_reward_async.remote(data=batch, reward_fn=self.reward_fn)
            else:
                self._pending_rewards = compute_reward(batch, self.reward_fn)

    def add_rewards(self, step: TrainingStep, batch: DataProto) -> DataProto:
        """Add ``token_level_scores`` (B, response_length) and the reward function's further columns."""
        if self._pending_rewards is None:
            return batch
        with marked_timer("reward_wait", step.timing, color="yellow"):
            pending, self._pending_rewards = self._pending_rewards, None
            scores, extra_columns = ray.get(pending) if isinstance(pending, ray.ObjectRef) else pending
        add_rewards(batch, scores, extra_columns)
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
        """Add ``advantages`` (B, response_length): the estimator's, clipped, then weighted as configured."""
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
            if self.explorer.adv_estimator.compares_group:
                advantages = without_single_rollouts(advantages, batch.non_tensor_batch["uid"])
            batch.batch["advantages"] = weigh_prompts(
                clip_advantages(advantages, algorithm.adv_clip),
                batch.non_tensor_batch["uid"],
                algorithm.get("prompt_weight", "rows"),
            )
            if algorithm.adv_clip is not None:
                step.metrics["actor/adv_clip_ratio"] = clipped_share(
                    advantages, batch.batch["response_mask"], algorithm.adv_clip
                )
            if self.exploration.rollout_is_cap is not None:
                step.metrics.update(weigh_by_importance(batch, self.exploration.rollout_is_cap))
            step.metrics.update(gradient_shares(batch, self.config.actor_rollout_ref.actor.loss_agg_mode))
        self.sampler.read_outcomes(step, batch)
        return batch

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

    def outcomes(self, batch: DataProto) -> Outcomes:
        """Read what came of every rollout of ``batch``."""
        return read_outcomes(batch, self.explorer.adv_estimator, self.exploration.success_threshold)

    def _observe(self, step: TrainingStep) -> None:
        with marked_timer("observe", step.timing):
            for plan, outcomes in step.explored:
                self.explorer.observe(plan, outcomes)
                self.history.record(plan, outcomes)

    # ---------------------------------------------------------------- dumps

    def _dump_rollouts(self, step: TrainingStep, batch: DataProto) -> None:
        with marked_timer("keep_rollouts", step.timing):
            self.kept_rollouts.keep(step, self.epoch, batch)
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
        num_gpus = self.resource_pool_manager.get_n_gpus()
        step.metrics.update(batch_metrics(batch, step.timing, use_critic=self.use_critic, num_gpus=num_gpus))
        step.metrics.update(self.explorer.metrics(step.explored))
        step.metrics.update(self.sampler.metrics(step))
        if isinstance(self.train_dataloader.sampler, AbstractCurriculumSampler):
            self.train_dataloader.sampler.update(batch=batch)
        self._log(step.metrics)
        self._log_charts(step)
        if not step.is_last and hasattr(self.train_dataset, "on_batch_end"):
            self.train_dataset.on_batch_end(batch=batch)

    def _log_charts(self, step: TrainingStep) -> None:
        if self._is_due(self.exploration.log_histogram_every, step):
            self.logger.log_charts(step.success_rates, step.budgets, step.number)


keep_upstream_names(globals())
