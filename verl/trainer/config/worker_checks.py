"""Start-up checks of limits that verl's workers would meet only after they have loaded the model.

Every check stands for itself, so that all that is wrong can be told at once.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from knapsack_rl.config import ConfigError
from verl.workers.reward_manager import get_reward_manager_cls

__all__ = ["WORKER_CHECKS", "longest_sequence"]

ACCEPTED = {
    "actor_rollout_ref.actor.strategy": ("fsdp", "fsdp2", "megatron"),
    "actor_rollout_ref.rollout.name": ("vllm", "sglang", "hf"),
    "trainer.resume_mode": ("auto", "disable", "resume_path"),
    "trainer.use_legacy_worker_impl": ("auto", "enable", "disable"),
}


def longest_sequence(config: DictConfig) -> int:
    """Tokens of the longest sequence that can occur: prompt and response."""
    return config.data.max_prompt_length + config.data.max_response_length


def check_choices(config: DictConfig) -> None:
    """Refuse a name that verl 0.5 does not know, for the keys of `ACCEPTED`."""
    for key, accepted in ACCEPTED.items():
        value = OmegaConf.select(config, key)
        if value not in accepted:
            raise ConfigError(f"{key}={value!r} is not accepted: expected one of {', '.join(accepted)}.")


def check_reward_manager(config: DictConfig) -> None:
    """Refuse a reward manager that is not registered."""
    name = config.reward_model.reward_manager
    try:
        get_reward_manager_cls(name)
    except ValueError as error:
        raise ConfigError(f"reward_model.reward_manager={name!r} is not accepted: {error}") from error


def check_micro_batches(config: DictConfig) -> None:
    """Refuse token limits of micro-batches that the longest sequence exceeds."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    passes: list[tuple[bool, str, Any]] = [
        (actor.use_dynamic_bsz, "actor.ppo_max_token_len_per_gpu", actor.ppo_max_token_len_per_gpu),
        (
            rollout.log_prob_use_dynamic_bsz,
            "rollout.log_prob_max_token_len_per_gpu",
            rollout.log_prob_max_token_len_per_gpu,
        ),
    ]
    gpus_per_sequence = actor.get("ulysses_sequence_parallel_size", 1)  # Megatron's actor has no such key
    for is_dynamic, key, limit in passes:
        if is_dynamic and limit * gpus_per_sequence < longest_sequence(config):
            raise ConfigError(
                f"actor_rollout_ref.{key}={limit} is less than the longest sequence, data.max_prompt_length + "
                f"data.max_response_length = {longest_sequence(config)} tokens over {gpus_per_sequence} GPUs: raise it "
                f"to at least {-(-longest_sequence(config) // gpus_per_sequence)}."
            )


def check_mini_batch(config: DictConfig) -> None:
    """Refuse a mini-batch that is larger than a step's batch: its loss would be scaled down without notice."""
    mini_batch, prompts = config.actor_rollout_ref.actor.ppo_mini_batch_size, config.data.train_batch_size
    if config.exploration.total_budget is None and mini_batch > prompts:
        raise ConfigError(
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini_batch} exceeds data.train_batch_size={prompts}: "
            "lower it."
        )


def check_engine(config: DictConfig) -> None:
    """Refuse limits of the rollout engine that the longest sequence exceeds."""
    rollout, longest = config.actor_rollout_ref.rollout, longest_sequence(config)
    if rollout.name != "vllm":
        return
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        raise ConfigError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} is less than the longest sequence of "
            f"{longest} tokens: raise it or set it to null."
        )
    capacity = rollout.max_model_len or longest
    if rollout.enable_chunked_prefill and rollout.max_num_batched_tokens < capacity:
        raise ConfigError(
            f"actor_rollout_ref.rollout.max_num_batched_tokens={rollout.max_num_batched_tokens} is less than the "
            f"longest sequence of {capacity} tokens: raise it."
        )


def check_resampling(config: DictConfig) -> None:
    """Refuse PF-PPO: it draws rollouts anew by their scores, and success rates are read from what was drawn."""
    if config.algorithm.use_pf_ppo:
        raise ConfigError(
            "algorithm.use_pf_ppo=true is not accepted: it resamples rollouts by score, and the success rates that "
            "budgets are decided by would be biased. Set it to false."
        )


WORKER_CHECKS = (
    check_choices,
    check_reward_manager,
    check_micro_batches,
    check_mini_batch,
    check_engine,
    check_resampling,
)
