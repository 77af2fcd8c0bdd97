"""What of a run can be checked on any machine, before a GPU is used: the dry run's refusals and what is missing.

The trainer's own start-up checks are applied, but for two things: the GPUs need not be here, and files and models that
are not here are named instead of refused. To these come the limits of the model, whose size may be known without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from recipe.knapsack.planner.model_size import ModelSize, hub_name
from verl.trainer.config.checks import ConfigError, Facts, find_config_errors, longest_sequence, look_around
from verl.trainer.config.checks.run_folder import WANDB_REMEDY, is_logged_in_to_wandb

MADE_BY = {
    "dapo_math_17k": "python3 examples/data_preprocess/dapo_math_17k.py",
    "math_evaluation": "python3 examples/data_preprocess/math_evaluation.py",
}
# What verl 0.5.0 reads though it has no default, and sections that it hands on as a whole; all below them is known too.
_READ_WITHOUT_DEFAULT = (
    "*.override_config",
    "*.override_ddp_config",
    "*.override_transformer_config",
    "*.fsdp_config.mixed_precision",
    "*.fsdp_config.model_dtype",
    "*.fsdp_config.use_orig_params",
    "*.fsdp_config.wrap_policy.disable",
    "*.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap",
    "actor_rollout_ref.rollout.engine_kwargs.sglang",
    "actor_rollout_ref.rollout.engine_kwargs.vllm",
    "actor_rollout_ref.rollout.limit_images",
    "critic.optim.betas",
    "custom_reward_function.reward_kwargs",
    "data.cache_dir",
    "data.chat_template_func",
    "data.custom_cls",
    "data.datagen",
    "data.filter_prompts",
    "data.gen_batch_size",
    "data.need_tools_kwargs",
    "data.sampler",
    "data.seed",
    "reward_model.model.use_shm",
    "reward_model.reward_kwargs",
    "reward_model.truncation",
    "trainer.controller_nsight_options",
    "trainer.remove_previous_ckpt_in_save",
    "trainer.wandb_proxy",
    "trainer.worker_nsight_options",
)
# Of a rollout's keys verl hands those to the engine that its SamplingParams (vLLM 0.10, SGLang 0.4) have.
_SAMPLING_PARAMS = frozenset(
    "allowed_token_ids bad_words best_of custom_params detokenize ebnf extra_args frequency_penalty guided_decoding "
    "include_stop_str_in_output json_schema logit_bias logits_processors logprobs max_new_tokens max_tokens "
    "min_new_tokens min_p min_tokens no_stop_trim output_kind presence_penalty prompt_logprobs regex "
    "repetition_penalty seed skip_special_tokens spaces_between_special_tokens stop stop_token_ids structural_tag "
    "truncate_prompt_tokens".split()
)


@dataclass(frozen=True)
class Missing:
    """Something that a run needs and that is not on this machine."""

    key: str
    value: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}={self.value} ({self.remedy})"


def find_missing(config: DictConfig) -> list[Missing]:
    """Return the data files, the model and the wandb login that are not on this machine."""
    missing = [_missing_file(key, path) for key, path in _local_files(config) if not Path(path).expanduser().is_file()]
    model = str(config.actor_rollout_ref.model.path)
    if _is_local_folder(model) and not (Path(model).expanduser() / "config.json").is_file():
        missing.append(Missing("actor_rollout_ref.model.path", model, _how_to_get_model(model)))
    if "wandb" in config.trainer.logger and not is_logged_in_to_wandb(os.environ):
        missing.append(Missing("trainer.logger", "wandb without a login", WANDB_REMEDY))
    return missing


def _local_files(config: DictConfig) -> Iterator[tuple[str, str]]:
    for key in ("train_files", "val_files"):
        files = config.data[key]
        for path in files if isinstance(files, ListConfig) else [files]:
            if "://" not in str(path):
                yield f"data.{key}", str(path)


def _missing_file(key: str, path: str) -> Missing:
    script = MADE_BY.get(Path(path).parent.name)
    return Missing(key, path, f"make it: {script} --output-dir {Path(path).parent}" if script else "make it")


def _how_to_get_model(folder: str) -> str:
    name = hub_name(folder)
    return f"download it: huggingface-cli download {name} --local-dir {folder}" if name else "put the model there"


def _is_local_folder(model: str) -> bool:
    return "://" not in model and (Path(model).expanduser().is_absolute() or model.startswith("."))


def find_errors(config: DictConfig, defaults: DictConfig, size: ModelSize | None) -> list[str]:
    """Return why the configuration cannot run, one line for each reason; empty if it can.

    Args:
        config: the composed configuration.
        defaults: the same without the user's overrides.
        size: of the model; None leaves out the limits that depend on it.
    """
    model_limits = (lambda config, facts: check_model_limits(config, facts, size),) if size else ()
    return list(map(str, find_config_errors(config, defaults, look_around(trains_here=False), model_limits)))


def check_model_limits(config: DictConfig, facts: Facts, size: ModelSize) -> None:
    """Refuse sequences that the model is not made for, and heads that the GPUs of an engine cannot share."""
    if longest_sequence(config) > size.max_positions:
        raise ConfigError(
            f"data.max_prompt_length={config.data.max_prompt_length} + data.max_response_length="
            f"{config.data.max_response_length} = {longest_sequence(config)} tokens exceed the {size.max_positions} "
            "positions of the model: lower one of them."
        )
    shares = {
        "rollout.tensor_model_parallel_size": config.actor_rollout_ref.rollout.tensor_model_parallel_size,
        "actor.ulysses_sequence_parallel_size": config.actor_rollout_ref.actor.ulysses_sequence_parallel_size,
    }
    for key, gpus in shares.items():
        if size.attention_heads % gpus:
            raise ConfigError(
                f"actor_rollout_ref.{key}={gpus} does not divide the model's {size.attention_heads} attention heads: "
                "expected a divisor."
            )


def find_unknown_keys(config: DictConfig, defaults: DictConfig) -> list[str]:
    """Return the keys, added by ``+``, that neither verl 0.5.0 nor the fork has a default for or reads.

    Where a whole section is unknown it is named once, without what it holds.

    Args:
        config: the composed configuration.
        defaults: the same without the user's overrides.
    """
    known = [_as_dict(defaults)]
    if config.actor_rollout_ref.actor.strategy == "megatron":
        file = resources.files("verl.upstream.trainer.config") / "_generated_ppo_megatron_trainer.yaml"
        known.append(_as_dict(OmegaConf.create(file.read_text())))
    return [key for key in _added_keys(_as_dict(config), known) if not _is_read_without_default(key)]


def _as_dict(config: DictConfig) -> dict[Any, Any]:
    return OmegaConf.to_container(config, resolve=False)


def _added_keys(section: dict[Any, Any], known: list[dict[Any, Any]], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the keys of ``section`` that none of ``known`` has."""
    for key, value in section.items():
        name = f"{prefix}{key}"
        defaults = [other[key] for other in known if key in other]
        sections = [default for default in defaults if isinstance(default, dict)]
        if not defaults:
            yield name
        elif sections and isinstance(value, dict):
            yield from _added_keys(value, sections, f"{name}.")


def _is_read_without_default(key: str) -> bool:
    section, _, name = key.rpartition(".")
    if section == "actor_rollout_ref.rollout" and name in _SAMPLING_PARAMS:
        return True
    return any(fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*") for pattern in _READ_WITHOUT_DEFAULT)
