"""The dry run of a training script: checks its whole configuration on any machine and prints the plan of a step.

    DRY_RUN=1 bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh [HYDRA OVERRIDES]
    python -m recipe.knapsack.step_plan [HYDRA OVERRIDES]

Errors end it with exit status 2, one line for each. Data, model and logins that are not on this machine are named, and
are no error; keys added by ``+`` that verl does not read are warned of. ``GPU_MEMORY_GB`` (default 80) is the memory of
a GPU that the estimates are compared with.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import pyarrow.parquet
from omegaconf import DictConfig, ListConfig

from recipe.knapsack.model_size import ModelSize, model_size
from recipe.knapsack.preflight import Missing, find_errors, find_missing, find_unknown_keys
from verl.trainer.config.checks import exploration_config, longest_sequence
from verl.trainer.config.composition import COMPOSITION_ERRORS, explain_composition_error
from verl.utils.quiet import prints_to_log

logger = logging.getLogger(__name__)

DEFAULT_GPU_MEMORY_GB = 80.0
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


@dataclass(frozen=True)
class StepPlan:
    """What one training step does; counts are per step unless said otherwise.

    Attributes:
        nodes, gpus_per_node: the machines.
        prompts: M.
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
        budgets=budgets,
        fewest_rollouts=exploration.n_low if is_knapsack else min(budgets) // prompts,
        most_rollouts=exploration.n_up if is_knapsack else -(-rollouts // prompts),
        rows_per_gpu=rows_per_gpu,
        mini_batches=mini_batches,
        updates=mini_batches * actor.ppo_epochs,
        longest_prompt=config.data.max_prompt_length,
        longest_response=config.data.max_response_length,
        most_tokens=rollouts * longest_sequence(config),
        micro_batch_tokens=_micro_batch_tokens(config),
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


def _micro_batch_tokens(config: DictConfig) -> int:
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
    tokens = _micro_batch_tokens(config)
    if config.actor_rollout_ref.model.enable_gradient_checkpointing:
        per_unit = _CHECKPOINTED_BYTES * size.layers + _ACTIVATION_BYTES
    else:
        per_unit = _ACTIVATION_BYTES * size.layers
    return tokens * (per_unit * size.hidden_size + _LOGIT_BYTES * size.vocabulary)


# --- Output -----------------------------------------------------------------------------------------------------------


def format_plan(plan: StepPlan, model: str, gpu_memory_gb: float) -> str:
    """The plan as text."""
    gpus = plan.nodes * plan.gpus_per_node
    budgets = " or ".join(f"{budget:,}" for budget in plan.budgets)
    parameters = f"{plan.parameters / 1e9:.2f} billion parameters" if plan.parameters else "size unknown"
    rows = [
        ("model", f"{model}: {parameters}"),
        ("machines", f"{plan.nodes} with {plan.gpus_per_node} GPUs of {gpu_memory_gb:g} GB, {gpus} GPUs in all"),
        ("prompts", f"{plan.prompts:,}"),
        ("rollouts", f"{budgets} ({plan.allocator}: {_bounds(plan)})"),
        ("rows per GPU", f"{plan.rows_per_gpu:,}"),
        ("mini-batches", f"{plan.mini_batches} (updates: {plan.updates})"),
        (
            "longest sequence",
            f"{plan.longest_prompt + plan.longest_response:,} tokens "
            f"({plan.longest_prompt:,} prompt + {plan.longest_response:,} response)",
        ),
        ("tokens", f"at most {plan.most_tokens / 1e6:.1f} million, {plan.most_tokens / gpus / 1e6:.2f} per GPU"),
        ("whole run", _format_run(plan)),
        ("validation", _format_validation(plan)),
        ("checkpoints", _format_checkpoints(plan)),
    ]
    lines = ["Plan of a training step", *(f"  {name:18}{text}" for name, text in rows)]
    return "\n".join(lines + _format_memory(plan, gpu_memory_gb))


def _bounds(plan: StepPlan) -> str:
    if plan.fewest_rollouts == plan.most_rollouts:
        return f"{plan.fewest_rollouts} a prompt"
    return f"{plan.fewest_rollouts} to {plan.most_rollouts} a prompt"


def _format_run(plan: StepPlan) -> str:
    steps = f"{plan.steps:,} steps" if plan.steps else "steps as trainer.total_epochs says"
    if plan.train_prompts is None:
        return steps
    per_epoch = plan.train_prompts // plan.prompts
    epochs = f" = {plan.steps / per_epoch:.1f} epochs" if plan.steps else ""
    return f"{steps}{epochs} of {plan.train_prompts:,} prompts ({per_epoch} steps an epoch)"


def _format_validation(plan: StepPlan) -> str:
    if plan.validate_every <= 0:
        return "never"
    every = f"every {plan.validate_every} steps, {plan.validation_responses} responses"
    if plan.validation_prompts is None:
        return f"{every} to each prompt"
    total = plan.validation_prompts * plan.validation_responses
    return f"{every} to each of {plan.validation_prompts:,} prompts, {total:,} in all"


def _format_checkpoints(plan: StepPlan) -> str:
    if plan.save_every <= 0:
        return "none"
    every = f"every {plan.save_every} steps"
    return f"{every}, about {plan.memory.checkpoint / GB:.0f} GB each" if plan.memory else every


def _format_memory(plan: StepPlan, gpu_memory_gb: float) -> list[str]:
    memory = plan.memory
    if memory is None:
        reason = "it is estimated for FSDP only" if plan.parameters else "the model's config.json is not here"
        return [f"Memory per GPU: unknown, {reason}"]
    rows = [
        ("weights", f"{_gb(memory.weights)} (sharded; master copy)"),
        ("gradients", _gb(memory.gradients)),
        ("optimizer", _gb(memory.optimizer)),
        ("micro-batch", f"{_gb(memory.micro_batch)} (activations and logits of {plan.micro_batch_tokens:,} tokens)"),
    ]
    if memory.engine_weights:
        rows += [
            ("rollout weights", _gb(memory.engine_weights)),
            (
                "KV cache",
                f"{_gb(memory.kv_cache)}: {memory.full_sequences} full-length rollouts at once; all of a GPU's at full "
                f"length would take {_gb(memory.kv_cache_of_step)}",
            ),
        ]
    rows += [
        ("while generating", f"{_gb(memory.generating)} of {gpu_memory_gb:g} GB"),
        ("while updating", f"{_gb(memory.updating)} of {gpu_memory_gb:g} GB"),
    ]
    return ["Estimated memory per GPU", *(f"  {name:18}{text}" for name, text in rows)]


def _gb(number_of_bytes: float) -> str:
    return f"{number_of_bytes / GB:.1f} GB"


def memory_warnings(plan: StepPlan, gpu_memory_gb: float) -> list[str]:
    """What the estimates say will not fit; with what to change."""
    memory, limit = plan.memory, gpu_memory_gb * GB
    if memory is None:
        return []
    warnings = []
    if memory.engine_weights and memory.full_sequences < 1:
        warnings.append(
            "the rollout engine has no room for one full-length rollout: raise "
            "actor_rollout_ref.rollout.gpu_memory_utilization or tensor_model_parallel_size."
        )
    if memory.generating > limit:
        warnings.append(
            f"generating takes {_gb(memory.generating)} of {gpu_memory_gb:g} GB: lower "
            "actor_rollout_ref.rollout.gpu_memory_utilization or set actor_rollout_ref.actor.fsdp_config.param_offload "
            "and optimizer_offload."
        )
    if memory.updating > limit:
        warnings.append(
            f"updating takes {_gb(memory.updating)} of {gpu_memory_gb:g} GB: use more GPUs, offload, or lower "
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu (or the micro-batch size)."
        )
    return warnings


# --- Command line -----------------------------------------------------------------------------------------------------


def compose(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return the trainer's configuration with ``overrides``, and without.

    Raises:
        HydraException: an override is malformed or its key unknown.
    """
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=list(overrides)), hydra.compose("knapsack_trainer")


def gpu_memory_from_environment() -> float:
    """Return ``GPU_MEMORY_GB`` as a number.

    Raises:
        ValueError: it is no number above 0.
    """
    text = os.environ.get("GPU_MEMORY_GB", str(DEFAULT_GPU_MEMORY_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ValueError(f"GPU_MEMORY_GB={text} is not accepted: expected a number above 0.")
    return gigabytes


def _describe_missing(missing: Sequence[Missing]) -> list[str]:
    return ["Missing on this machine, and needed to train:", *(f"  {item}" for item in missing)] if missing else []


def dry_run(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Check the configuration and plan a step.

    Returns:
        What is to be printed, and the reasons why the configuration cannot run.

    Raises:
        HydraException, OmegaConfBaseException: the configuration cannot be composed.
        ValueError: ``GPU_MEMORY_GB`` is no number, or the model's ``config.json`` cannot be understood.
    """
    config, defaults = compose(overrides)
    gpu_memory_gb = gpu_memory_from_environment()
    model = config.actor_rollout_ref.model
    size = model_size(str(model.path), trust_remote_code=bool(model.trust_remote_code))
    with prints_to_log(logger):
        errors = find_errors(config, defaults, size)
    if errors:
        return "", errors
    plan = plan_step(config, size, gpu_memory_gb)
    lines = [format_plan(plan, str(model.path), gpu_memory_gb)]
    lines += [f"WARNING: {warning}" for warning in memory_warnings(plan, gpu_memory_gb)]
    lines += [
        f"WARNING: {key} is not known to verl 0.5.0: nothing reads it unless your own code does"
        for key in find_unknown_keys(config, defaults)
    ]
    lines += _describe_missing(find_missing(config))
    lines.append("The configuration is accepted. Nothing was started: unset DRY_RUN to train.")
    return "\n".join(lines), []


def main(overrides: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        text, errors = dry_run(sys.argv[1:] if overrides is None else overrides)
    except COMPOSITION_ERRORS as error:
        text, errors = "", [explain_composition_error(error)]
    except (ValueError, OSError) as error:
        text, errors = "", [" ".join(str(error).split())]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if text:
        print(text)
    return 2 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
