"""Start-up checks of limits that verl's workers would meet only after they have loaded the model."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import longest_sequence


def check_micro_batch_tokens(config: DictConfig, facts: Facts) -> None:
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


def check_engine_tokens(config: DictConfig, facts: Facts) -> None:
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
