"""The memory of one GPU in a training step, estimated from the configuration and the model's size."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from recipe.knapsack.planner.model_size import ModelSize
from verl.trainer.config.checks import longest_sequence

BYTES_OF_DTYPE = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}
GB = 1e9
# The log-prob pass with its entropy holds the logits, their softmax and the product of both, in bfloat16.
_LOGIT_BYTES = 3 * 2
# A transformer layer keeps 34 bytes per token and unit of width for the backward pass, 2 of them its input
# (Korthikanti et al. 2022, equation 2, without the attention matrix, which flash-attention does not keep).
_ACTIVATION_BYTES, _CHECKPOINTED_BYTES = 34, 2


@dataclass(frozen=True)
class MemoryPlan:
    """Estimated memory of one GPU in bytes, all at their largest; see `plan_memory`.

    Attributes:
        weights, gradients, optimizer: of the trained model, this GPU's shard.
        micro_batch: activations and logits of the largest micro-batch.
        engine_weights: of the rollout engine's copy of the model.
        kv_cache: what the rollout engine has left for keys and values.
        kv_cache_of_step: what keys and values of all rollouts of a GPU would take at full length.
        full_sequences: number of rollouts of full length that the cache holds at once.
        generating, updating: everything on the GPU while rollouts are generated, and while the model is updated.
        checkpoint: bytes of a checkpoint on disk, from all GPUs.
    """

    weights: float
    gradients: float
    optimizer: float
    micro_batch: float
    engine_weights: float
    kv_cache: float
    kv_cache_of_step: float
    full_sequences: int
    generating: float
    updating: float
    checkpoint: float


def micro_batch_tokens(config: DictConfig) -> int:
    """Tokens of the largest micro-batch of an update."""
    actor = config.actor_rollout_ref.actor
    if actor.use_dynamic_bsz:
        return actor.ppo_max_token_len_per_gpu
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rows = actor.ppo_micro_batch_size_per_gpu or -(-actor.ppo_micro_batch_size // gpus)
    return rows * longest_sequence(config)


def plan_memory(config: DictConfig, size: ModelSize, rows_per_gpu: int, gpu_memory: float) -> MemoryPlan:
    """Estimate the memory of one GPU of an FSDP run, in bytes.

    Weights and gradients are kept in ``fsdp_config.model_dtype`` (fp32 by default), Adam's two moments likewise, all
    sharded over ``fsdp_size`` GPUs; the rollout engine holds its own weights, split over its tensor-parallel GPUs, and
    gives what ``gpu_memory_utilization`` leaves to its cache. While the model is updated, an engine with
    ``free_cache_engine`` holds nothing. With LoRA, gradients and optimizer of the adapters are too small to count. A
    critic, a reference model and fragmentation come on top.
    """
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    fsdp = actor.fsdp_config
    shards = fsdp.fsdp_size if fsdp.fsdp_size > 0 else config.trainer.nnodes * config.trainer.n_gpus_per_node
    weights = size.parameters * BYTES_OF_DTYPE[fsdp.get("model_dtype") or "fp32"] / shards
    trained = 0.0 if config.actor_rollout_ref.model.get("lora_rank", 0) > 0 else weights
    is_offloaded = bool(fsdp.offload_policy)
    idle_weights = 0.0 if fsdp.param_offload or is_offloaded else weights
    idle_optimizer = 0.0 if fsdp.optimizer_offload or is_offloaded else 2 * trained
    engine = _plan_engine(config, size, rows_per_gpu, gpu_memory)
    in_engine = gpu_memory * rollout.gpu_memory_utilization if engine["engine_weights"] else 0.0
    micro_batch = _micro_batch_bytes(config, size)
    sharded = 0.0 if is_offloaded else weights + 3 * trained
    return MemoryPlan(
        weights=weights,
        gradients=trained,
        optimizer=2 * trained,
        micro_batch=micro_batch,
        **engine,
        generating=idle_weights + idle_optimizer + in_engine,
        updating=sharded + micro_batch + (0.0 if rollout.free_cache_engine else in_engine),
        checkpoint=(weights + 2 * trained) * shards,
    )


def _plan_engine(config: DictConfig, size: ModelSize, rows_per_gpu: int, gpu_memory: float) -> dict[str, float]:
    """The rollout engine's part of `MemoryPlan`; the fork's own rollout (hf) takes its memory as it goes."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.name == "hf":
        return {"engine_weights": 0.0, "kv_cache": 0.0, "kv_cache_of_step": 0.0, "full_sequences": 0}
    gpus = rollout.tensor_model_parallel_size
    weights = size.parameters * BYTES_OF_DTYPE[rollout.dtype] / gpus
    # Fewer key-value heads than GPUs are copied to each.
    share = 1 / min(gpus, size.key_value_heads)
    of_sequence = size.kv_cache_bytes(longest_sequence(config), BYTES_OF_DTYPE[rollout.dtype]) * share
    cache = max(gpu_memory * rollout.gpu_memory_utilization - weights, 0.0)
    return {
        "engine_weights": weights,
        "kv_cache": cache,
        "kv_cache_of_step": rows_per_gpu * gpus * of_sequence,
        "full_sequences": int(cache // of_sequence),
    }


def _micro_batch_bytes(config: DictConfig, size: ModelSize) -> float:
    tokens = micro_batch_tokens(config)
    if config.actor_rollout_ref.model.enable_gradient_checkpointing:
        per_unit = _CHECKPOINTED_BYTES * size.layers + _ACTIVATION_BYTES
    else:
        per_unit = _ACTIVATION_BYTES * size.layers
    return tokens * (per_unit * size.hidden_size + _LOGIT_BYTES * size.vocabulary)
