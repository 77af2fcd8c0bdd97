"""The plan of a training step as text, and warnings of what will not fit."""

from __future__ import annotations

from recipe.knapsack.planner.step_memory import GB
from recipe.knapsack.planner.training_step import StepPlan


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
        ("method", f"success rates by {plan.estimator}, prompts weighted by {plan.prompt_weight}"),
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
