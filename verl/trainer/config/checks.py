"""Start-up checks of the whole configuration: what can be known to fail is refused before Ray starts.

Every refusal is a :class:`~knapsack_rl.config.ConfigError` of one line that names the key, the value and
what to do; limits that have nothing to do with each other are refused together, a line each.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from knapsack_rl import resolve_value_function, value_for_adv_estimator
from knapsack_rl.config import BudgetSchedule, ConfigError, ExplorationConfig
from verl.trainer.config.rollout_engine_checks import check_rollout_engine
from verl.trainer.config.worker_checks import WORKER_CHECKS
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.utils.flash_attention import is_flash_attention_installed

QUICKSTART = "make quickstart"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_REMOTE_PREFIXES = ("hdfs://", "s3://", "gs://", "http://", "https://")


def check_config(config: DictConfig, defaults: DictConfig) -> None:
    """Refuse a configuration that cannot run.

    Args:
        config: the composed configuration with the user's overrides.
        defaults: the same configuration without them; it tells the type each key should have.

    Raises:
        ConfigError: naming the key, the value and what would be accepted.
    """
    errors = find_config_errors(config, defaults)
    if errors:
        raise ConfigError("\n".join(map(str, errors)))


def find_config_errors(
    config: DictConfig, defaults: DictConfig, further_checks: Sequence[Callable[[DictConfig], None]] = ()
) -> list[ConfigError]:
    """Return why a configuration cannot run; empty if it can.

    Args:
        config: the composed configuration with the user's overrides.
        defaults: the same configuration without them.
        further_checks: to be made beside `WORKER_CHECKS`, each raising `ConfigError`.
    """
    try:
        _check_in_order(config, defaults)
    except ConfigError as error:
        # The checks below rely on what was refused here.
        return [error]
    return list(filter(None, (_error_of(check, config) for check in (*WORKER_CHECKS, *further_checks))))


def _check_in_order(config: DictConfig, defaults: DictConfig) -> None:
    """Make the checks that rely on those before them."""
    check_types(config, defaults)
    exploration = exploration_config(config)
    check_device(config)
    check_value_function(exploration, config.algorithm.adv_estimator)
    check_advantage_clip(config.algorithm.adv_clip)
    check_importance_cap(config, exploration)
    check_workers(config)
    check_rollout_engine(config)
    check_budgets(config, exploration)
    check_upstream_rules(config)
    check_files(config)


def _error_of(check: Callable[[DictConfig], None], config: DictConfig) -> ConfigError | None:
    try:
        check(config)
    except ConfigError as error:
        return error
    return None


def exploration_config(config: DictConfig) -> ExplorationConfig:
    """Return the ``exploration`` section as a checked, frozen dataclass."""
    return ExplorationConfig.from_mapping(OmegaConf.to_container(config.exploration, resolve=True))


def iterate_scalars(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf that is no list, without resolving interpolations."""
    items = config.items_ex(resolve=False) if isinstance(config, DictConfig) else ()
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from iterate_scalars(value, f"{name}.")
        elif not isinstance(value, ListConfig):
            yield name, value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_types(config: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value whose type differs from the default's: a number for a number, true or false for a switch."""
    for key, default in iterate_scalars(defaults):
        value = OmegaConf.select(config, key)
        if value is None or isinstance(default, str) and default.startswith("${"):
            continue
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{key}={value!r} is not accepted: expected true or false (default {default}).")
        if _is_number(default) and not _is_number(value):
            raise ConfigError(f"{key}={value!r} is not accepted: expected a number (default {default}).")


def joins_existing_cluster() -> bool:
    """Whether Ray, started without an address, joins a cluster: one named by RAY_ADDRESS or running on this machine."""
    return bool(os.environ.get("RAY_ADDRESS")) or Path("/tmp/ray/ray_current_cluster").exists()


def check_device(config: DictConfig) -> None:
    """Refuse a device that this machine, or the Ray cluster it would start, does not have."""
    device = config.trainer.device
    if device not in ("cuda", "npu", "cpu"):
        raise ConfigError(f"trainer.device={device!r} is not accepted: expected cuda, npu or cpu.")
    if device == "cuda" and not torch.cuda.is_available() and not joins_existing_cluster():
        raise ConfigError(
            "trainer.device='cuda' needs a GPU and this machine has none: run on a GPU machine or a Ray cluster "
            f"(RAY_ADDRESS), or try the same trainer on the CPU with `{QUICKSTART}`."
        )


def check_value_function(exploration: ExplorationConfig, adv_estimator: str) -> None:
    """Refuse a value function that is unknown, or an advantage estimator that implies none."""
    if exploration.allocator == "homogeneous":
        return
    try:
        name = exploration.value or value_for_adv_estimator(adv_estimator)
        resolve_value_function(name)
    except (ValueError, ImportError, AttributeError) as error:
        key = "exploration.value" if exploration.value else "algorithm.adv_estimator"
        raise ConfigError(f"{key}={exploration.value or adv_estimator!r} is not accepted: {error}") from error
    if name in ("grpo", "rloo", "expected") and exploration.n_low < 2:
        raise ConfigError(
            f"exploration.n_low={exploration.n_low} is not accepted with exploration.value={name}: expected at least "
            "2, because a group of one rollout has no advantage."
        )
    if name == "expected" and exploration.success_rate.estimator != "beta":
        raise ConfigError(
            f"exploration.value=expected needs exploration.success_rate.estimator=beta, not "
            f"{exploration.success_rate.estimator}: set it."
        )
    if name == "remax" and adv_estimator != "remax":
        raise ConfigError(
            f"exploration.value=remax needs algorithm.adv_estimator=remax, not {adv_estimator}: no other estimator "
            "draws the greedy response whose success it needs."
        )


def check_advantage_clip(adv_clip: Any) -> None:
    """Refuse a clip that is neither null nor a positive number."""
    if adv_clip is not None and (not _is_number(adv_clip) or not adv_clip > 0):
        raise ConfigError(f"algorithm.adv_clip={adv_clip!r} is not accepted: expected null or a number above 0.")


def check_importance_cap(config: DictConfig, exploration: ExplorationConfig) -> None:
    """Refuse a cap on importance ratios whose denominators the rollout engine would not report."""
    rollout = config.actor_rollout_ref.rollout
    if exploration.rollout_is_cap is not None and rollout.name != "hf" and not rollout.calculate_log_probs:
        raise ConfigError(
            f"exploration.rollout_is_cap={exploration.rollout_is_cap} needs the rollout engine's log-probs: set "
            "actor_rollout_ref.rollout.calculate_log_probs=true."
        )


def _world_size(config: DictConfig) -> int:
    return config.trainer.n_gpus_per_node * config.trainer.nnodes


def check_workers(config: DictConfig) -> None:
    """Refuse a number of workers that the rollout engine cannot be split over, and what a CPU cannot run."""
    for key in ("nnodes", "n_gpus_per_node"):
        value = config.trainer[key]
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"trainer.{key}={value!r} is not accepted: expected an integer of at least 1.")
    rollout = config.actor_rollout_ref.rollout
    if _world_size(config) % rollout.tensor_model_parallel_size:
        raise ConfigError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not "
            f"divide the {_world_size(config)} workers: expected a divisor."
        )
    if (
        config.trainer.device == "cuda"
        and config.actor_rollout_ref.model.use_remove_padding
        and torch.cuda.is_available()
        and not is_flash_attention_installed()
    ):
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding=true needs flash-attn, which is not installed: install it (see "
            "requirements/vllm.txt) or set it to false."
        )
    strategy = config.actor_rollout_ref.actor.strategy
    if config.trainer.device == "cpu" and strategy != "fsdp2":
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={strategy!r} does not run on trainer.device=cpu: set it to fsdp2."
        )
    if config.trainer.device == "cpu" and config.actor_rollout_ref.model.use_remove_padding:
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding=true does not run on trainer.device=cpu (it needs flash-attn): "
            "set it to false."
        )


def _prompts_per_step(config: DictConfig) -> int:
    return config.data.get("gen_batch_size") or config.data.train_batch_size


def _rows_must_divide_by(config: DictConfig, with_mini_batch: bool) -> int:
    divisors = [_world_size(config)]
    rollout = config.actor_rollout_ref.rollout
    if rollout.mode == "async":
        divisors.append(rollout.agent.num_workers)
    if with_mini_batch:
        divisors.append(config.actor_rollout_ref.actor.ppo_mini_batch_size * rollout.n)
    return math.lcm(*divisors)


def _nearest_legal(budget: int, multiple: int, lowest: int, highest: int) -> str:
    below, above = budget // multiple * multiple, -(-budget // multiple) * multiple
    legal = [value for value in sorted({below, above}) if lowest <= value <= highest]
    return " or ".join(map(str, legal)) if legal else "none; change the batch sizes"


def check_budgets(config: DictConfig, exploration: ExplorationConfig) -> None:
    """Refuse a total budget that is infeasible or that the workers and mini-batches cannot split evenly."""
    rollouts_per_prompt = config.actor_rollout_ref.rollout.n
    prompts = _prompts_per_step(config)
    schedule: BudgetSchedule = exploration.budget_schedule(prompts, rollouts_per_prompt)
    is_explicit = exploration.total_budget is not None
    multiple = _rows_must_divide_by(config, with_mini_batch=is_explicit)
    batch_size = "gen_batch_size" if config.data.get("gen_batch_size") else "train_batch_size"
    key = "exploration.total_budget" if is_explicit else f"data.{batch_size} * actor_rollout_ref.rollout.n"
    if exploration.allocator == "knapsack":
        lowest, highest = prompts * exploration.n_low, prompts * exploration.n_up
    else:
        lowest, highest = prompts, prompts * max(schedule.budgets)
    for budget in schedule.budgets:
        if not lowest <= budget <= highest:
            raise ConfigError(
                f"{key}={budget} is infeasible for {prompts} prompts a step with exploration.n_low={exploration.n_low} "
                f"and exploration.n_up={exploration.n_up}: expected {lowest} to {highest}."
            )
        if budget % multiple:
            raise ConfigError(
                f"{key}={budget} must be a multiple of {multiple} (workers{', mini-batch' if is_explicit else ''}): "
                f"nearest legal: {_nearest_legal(budget, multiple, lowest, highest)}."
            )


def check_upstream_rules(config: DictConfig) -> None:
    """Apply verl's own rules now, which it would apply only after Ray and the workers' processes have started."""
    from verl.upstream.trainer.ppo.ray_trainer import RayPPOTrainer as UpstreamTrainer

    actor = config.actor_rollout_ref.actor
    trainer = SimpleNamespace(
        config=config,
        use_critic=config.algorithm.adv_estimator == "gae",
        use_reference_policy=config.algorithm.use_kl_in_reward or actor.use_kl_loss,
    )
    try:
        UpstreamTrainer._validate_config(trainer)
    except (AssertionError, ValueError) as error:
        reason = str(error) or (
            # Upstream asserts these without a message.
            f"data.train_batch_size={config.data.train_batch_size} must be at least "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}, and micro-batches must divide "
            "mini-batches"
        )
        raise ConfigError(f"verl refuses this configuration: {reason.rstrip('.')}.") from error
    micro_batch = actor.ppo_micro_batch_size_per_gpu
    rows = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // _data_parallel_size(config)
    if not actor.use_dynamic_bsz and micro_batch is not None and (rows == 0 or rows % micro_batch):
        raise ConfigError(
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro_batch} does not divide the {rows} rows of a "
            "mini-batch on each data-parallel worker (ppo_mini_batch_size * rollout.n / workers): expected a divisor."
        )


def _data_parallel_size(config: DictConfig) -> int:
    """Return the parts of a mini-batch: workers that share a sequence or a model have the same rows."""
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron":
        parallel = actor.megatron
        sharing = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
        sharing *= parallel.context_parallel_size
    else:
        sharing = actor.get("ulysses_sequence_parallel_size", 1)
    return max(1, _world_size(config) // sharing)


def _as_list(paths: Any) -> Iterable[str]:
    return list(paths) if isinstance(paths, ListConfig | list | tuple) else [paths]


def _check_data_file(key: str, path: str, prompt_key: str) -> int:
    """Return the number of prompts in the parquet file at ``path``."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{key}={path} does not exist: give the path of a parquet file (see the README on data).")
    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{key}={path} is not a readable parquet file: {error}.") from error
    columns = metadata.schema.to_arrow_schema().names
    if prompt_key not in columns:
        raise ConfigError(
            f"{key}={path} has no column {prompt_key!r} (data.prompt_key) but {', '.join(columns)}: "
            "expected verl's schema (see the README on data)."
        )
    return metadata.num_rows


def check_files(config: DictConfig) -> None:
    """Refuse data files, models and reward functions that are missing; remote paths and hub names are left alone."""
    if config.data.custom_cls.path is None:  # a data set class of the user's own reads what it likes
        _check_data_files(config)
    _check_model(str(config.actor_rollout_ref.model.path))
    _check_reward_function(config)


def _check_data_files(config: DictConfig) -> None:
    prompts = {}
    for key in ("train_files", "val_files"):
        paths = [str(path) for path in _as_list(config.data[key])]
        local = [path for path in paths if not path.startswith(_REMOTE_PREFIXES)]
        rows = [_check_data_file(f"data.{key}", path, config.data.prompt_key) for path in local]
        prompts[key] = sum(rows) if len(local) == len(paths) else None
    if prompts["train_files"] is not None and prompts["train_files"] < _prompts_per_step(config):
        raise ConfigError(
            f"data.train_files holds {prompts['train_files']} prompts, fewer than data.train_batch_size="
            f"{_prompts_per_step(config)}: lower the batch size or give more data."
        )


def _check_model(path: str) -> None:
    folder = Path(path).expanduser()
    if path.startswith(_REMOTE_PREFIXES):
        return
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"actor_rollout_ref.model.path={path} has no config.json: expected a transformers model.")
    elif not _HUB_NAME.fullmatch(path):
        raise ConfigError(
            f"actor_rollout_ref.model.path={path} does not exist: give a transformers model's folder or a hub name."
        )


def _check_reward_function(config: DictConfig) -> None:
    section = config.custom_reward_function
    try:
        get_custom_reward_fn(config)
    except FileNotFoundError as error:
        raise ConfigError(f"custom_reward_function.path={section.path} does not exist: give a Python file.") from error
    except AttributeError as error:
        raise ConfigError(f"custom_reward_function.name={section.name} is not in {section.path}: {error}") from error
    except RuntimeError as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"custom_reward_function.path={section.path} cannot be imported: {type(cause).__name__}: {cause}"
        ) from error
