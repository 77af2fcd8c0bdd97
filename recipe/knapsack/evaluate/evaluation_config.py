"""Which model is evaluated, and the configuration with which the trainer does so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from knapsack_rl.run_folder import CHECKPOINT_PREFIX, CONFIG_FILE
from verl.utils.checkpoint_state import whole_checkpoints

CONFIG_NAME = "evaluation"
RESPONSES_FILE = Path("responses") / "0.jsonl"


class EvaluationError(RuntimeError):
    """An evaluation that cannot be done; the message says what to change."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: of its row in the table and of its folder in the output.
        run_folder: of the run whose settings it is evaluated with.
        checkpoint: folder global_step_N; None stands for the model that the run started from.
    """

    name: str
    run_folder: Path
    checkpoint: Path | None


def find_subject(path: Path) -> Subject:
    """Return the checkpoint that ``path`` stands for: itself, or the latest of a run.

    Raises:
        EvaluationError: there is no whole checkpoint, or no config.yaml beside it.
    """
    checkpoint = path.absolute()
    if not checkpoint.name.startswith(CHECKPOINT_PREFIX):
        checkpoints = whole_checkpoints(checkpoint)
        if not checkpoints:
            raise EvaluationError(
                f"{path} holds no whole checkpoint: expected a run's folder or a folder global_step_N."
            )
        checkpoint = checkpoints[0]
    if not (checkpoint / "actor").is_dir():
        raise EvaluationError(f"{path} is no checkpoint: it has no folder actor.")
    run_folder = checkpoint.parent
    if not (run_folder / CONFIG_FILE).is_file():
        raise EvaluationError(f"{run_folder} has no {CONFIG_FILE}, from which a run's settings are taken.")
    return Subject(f"{run_folder.name}-{checkpoint.name}", run_folder, checkpoint)


def evaluation_config(
    subject: Subject, overrides: Sequence[str], data: Sequence[str], responses: int, model: Path, output: Path
) -> DictConfig:
    """The run's configuration, with ``overrides``, turned into one that validates ``model`` once and ends.

    Args:
        subject: whose run to take the configuration from.
        overrides: Hydra overrides.
        data: parquet files to evaluate on; empty for the run's own validation files.
        responses: to each prompt.
        model: folder of a transformers model.
        output: folder that gets the responses.

    Raises:
        HydraException: an override is malformed or its key unknown.
        EvaluationError: the run trained with Megatron or LoRA, or several responses would be greedy and so the same.
    """
    with hydra.initialize_config_dir(str(subject.run_folder), version_base=None):
        config = hydra.compose("config", overrides=list(overrides))
    _refuse_unsupported(config)
    _refuse_equal_responses(config, responses)
    files = list(data) or config.data.val_files
    rows = _smallest_batch(config)
    lengths = config.data.max_prompt_length, config.data.max_response_length
    changes: dict[str, Any] = {
        "data.train_files": files,
        "data.val_files": files,
        "data.val_batch_size": None,
        "data.validation_shuffle": False,
        "data.filter_overlong_prompts": False,
        "data.truncation": "error",
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.rollout.val_kwargs.n": responses,
        # A run's saved configuration is resolved: what depended on the lengths does not follow their overrides.
        "actor_rollout_ref.rollout.prompt_length": lengths[0],
        "actor_rollout_ref.rollout.response_length": lengths[1],
        "actor_rollout_ref.rollout.max_num_batched_tokens": max(
            config.actor_rollout_ref.rollout.max_num_batched_tokens, sum(lengths)
        ),
        "trainer.val_only": True,
        "trainer.val_before_train": True,
        "trainer.resume_mode": "disable",
        "trainer.logger": [],
        "trainer.default_local_dir": str(output),
        "trainer.validation_data_dir": str(output / RESPONSES_FILE.parent),
        # Nothing is trained: the smallest batch that the workers can split, and no models besides the policy.
        "data.train_batch_size": rows,
        "data.gen_batch_size": rows,
        "actor_rollout_ref.rollout.n": 1,
        "actor_rollout_ref.actor.ppo_mini_batch_size": rows,
        "actor_rollout_ref.actor.use_dynamic_bsz": False,
        "actor_rollout_ref.actor.ppo_micro_batch_size": None,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 1,
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size": None,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 1,
        "actor_rollout_ref.actor.use_kl_loss": False,
        "algorithm.use_kl_in_reward": False,
        "algorithm.adv_estimator": "grpo",
        "exploration.allocator": "homogeneous",
        "exploration.total_budget": None,
        "exploration.rollout_is_cap": None,
        "exploration.dynamic_sampling.enable": False,
    }
    if config.trainer.device != "cpu":
        # The merged weights are in bfloat16; a master copy in float32 would only take memory from the rollout engine.
        changes["actor_rollout_ref.actor.fsdp_config.model_dtype"] = "bfloat16"
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


def _refuse_unsupported(config: DictConfig) -> None:
    model, strategy = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.strategy
    if strategy not in ("fsdp", "fsdp2"):
        raise EvaluationError(
            f"The run trained with actor_rollout_ref.actor.strategy={strategy}: only fsdp and fsdp2 are evaluated here."
        )
    if model.get("lora_rank", 0):
        raise EvaluationError(
            f"The run trained LoRA adapters (actor_rollout_ref.model.lora_rank={model.lora_rank}), which verl's merger "
            "leaves apart from the model: only full weights are evaluated here."
        )


def _refuse_equal_responses(config: DictConfig, responses: int) -> None:
    sampling = config.actor_rollout_ref.rollout.val_kwargs
    if responses > 1 and (not sampling.do_sample or sampling.temperature == 0):
        key = "actor_rollout_ref.rollout.val_kwargs"
        raise EvaluationError(
            f"The run validates greedily ({key}.do_sample={str(sampling.do_sample).lower()}, temperature="
            f"{sampling.temperature}), so that the {responses} responses to a prompt would all be the same: append "
            f"{key}.do_sample=true {key}.temperature=0.6 (the paper's), or give --responses 1."
        )


def _smallest_batch(config: DictConfig) -> int:
    workers = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout = config.actor_rollout_ref.rollout
    return math.lcm(workers, rollout.agent.num_workers) if rollout.mode == "async" else workers
