"""What one training step of a configuration does: prompts, rollouts, updates, tokens and memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
from omegaconf import DictConfig, ListConfig

from recipe.knapsack.planner.model_size import ModelSize
from recipe.knapsack.planner.step_memory import GB, MemoryPlan, micro_batch_tokens, plan_memory
from verl.trainer.config.checks import exploration_config, longest_sequence

DEFAULT_GPU_MEMORY_GB = 80.0


@dataclass(frozen=True)
class StepPlan:
    """What one training step does; counts are per step unless said otherwise.

    Attributes:
        nodes, gpus_per_node: the machines.
        prompts: M.
        allocator, estimator, prompt_weight: how rollouts are allocated, success rates estimated, prompts weighted.
        budgets: the total budgets N_total that occur; a schedule has several.
        fewest_rollouts, most_rollouts: bounds on the rollouts of one prompt.
        rows_per_gpu: rollouts that each GPU generates and is trained on.
        mini_batches, updates: mini-batches of the batch; optimizer steps.
        longest_prompt, longest_response: limits in tokens.
        most_tokens: tokens if every rollout reached the limits.
        micro_batch_tokens: tokens of the largest micro-batch.
        steps, validate_every, save_every: of the run, in steps.
        validation_responses: responses to a validation prompt.
        train_prompts, validation_prompts: in the data files; None if they are not here.
        parameters: of the model; None if it is not known.
        memory: None if the model is not known, or is trained by Megatron.
    """

    nodes: int
    gpus_per_node: int
    prompts: int
    allocator: str
    estimator: str
    prompt_weight: str
    budgets: tuple[int, ...]
    fewest_rollouts: int
    most_rollouts: int
    rows_per_gpu: int
    mini_batches: int
    updates: int
    longest_prompt: int
    longest_response: int
    most_tokens: int
    micro_batch_tokens: int
    steps: int | None
    validate_every: int
    save_every: int
    validation_responses: int
    train_prompts: int | None
    validation_prompts: int | None
    parameters: int | None
    memory: MemoryPlan | None


def plan_step(config: DictConfig, size: ModelSize | None, gpu_memory_gb: float = DEFAULT_GPU_MEMORY_GB) -> StepPlan:
    """Plan a step of the largest budget of a configuration that has passed its checks."""
    exploration, rollout, actor = (
        exploration_config(config),
        config.actor_rollout_ref.rollout,
        config.actor_rollout_ref.actor,
    )
    prompts = config.data.get("gen_batch_size") or config.data.train_batch_size
    budgets = exploration.budget_schedule(prompts, rollout.n).budgets
    rollouts, gpus = max(budgets), config.trainer.nnodes * config.trainer.n_gpus_per_node
    is_knapsack = exploration.allocator == "knapsack"
    mini_batches = -(-rollouts // (actor.ppo_mini_batch_size * rollout.n))
    rows_per_gpu = rollouts // gpus
    has_memory_plan = size is not None and actor.strategy != "megatron"
    return StepPlan(
        nodes=config.trainer.nnodes,
        gpus_per_node=config.trainer.n_gpus_per_node,
        prompts=prompts,
        allocator=exploration.allocator,
        estimator=exploration.success_rate.estimator,
        prompt_weight=config.algorithm.prompt_weight,
        budgets=budgets,
        fewest_rollouts=exploration.n_low if is_knapsack else min(budgets) // prompts,
        most_rollouts=exploration.n_up if is_knapsack else -(-rollouts // prompts),
        rows_per_gpu=rows_per_gpu,
        mini_batches=mini_batches,
        updates=mini_batches * actor.ppo_epochs,
        longest_prompt=config.data.max_prompt_length,
        longest_response=config.data.max_response_length,
        most_tokens=rollouts * longest_sequence(config),
        micro_batch_tokens=micro_batch_tokens(config),
        steps=config.trainer.total_training_steps,
        validate_every=config.trainer.test_freq,
        save_every=config.trainer.save_freq,
        validation_responses=rollout.val_kwargs.n,
        train_prompts=_count_rows(config.data.train_files),
        validation_prompts=_count_rows(config.data.val_files),
        parameters=size.parameters if size else None,
        memory=plan_memory(config, size, rows_per_gpu, gpu_memory_gb * GB) if has_memory_plan else None,
    )


def _count_rows(files: str | ListConfig) -> int | None:
    paths = [Path(path).expanduser() for path in (files if isinstance(files, ListConfig) else [files])]
    if not all(path.is_file() for path in paths):
        return None
    return sum(pyarrow.parquet.read_metadata(path).num_rows for path in paths)
