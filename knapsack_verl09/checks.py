"""Start-up checks of a configuration for verl 0.9: what cannot run ends in a line before Ray starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow
from omegaconf import DictConfig, OmegaConf

from knapsack_rl.advantage_estimators import advantage_estimator
from knapsack_rl.config import ConfigError, ExplorationConfig, check_preset
from knapsack_rl.config_checks import (
    check_adv_clip,
    check_prompt_weight,
    check_reviews,
    check_token_limit,
    configured_value,
)
from knapsack_rl.messages import one_line
from knapsack_rl.options import TRUE_OR_FALSE, Option, integer_at_least, null_or
from knapsack_rl.prior import PriorError, is_prior_file
from knapsack_rl.prior_checks import check_prior
from knapsack_rl.similar_columns import SimilarColumnsError, check_similar_columns
from knapsack_rl.status_file import TaskStatusError
from knapsack_rl.task_status import TaskStatus

__all__ = ["TRAINER_MODES", "check_config", "exploration_config"]

TRAINER_MODES = {"knapsack_sync": "sync", "knapsack_colocate_async": "colocate_async"}
"""The trainers of the plug-in, and the mode of verl that each extends."""

_DONE_BY_VERL = {
    "dispatch": ("random", "verl 0.9 deals every session to the rollout server with the least to do"),
    "rollout_is_cap": (None, "set algorithm.rollout_correction.rollout_is and rollout_is_threshold"),
}

_TEXT = Option("text", lambda value: isinstance(value, str))
_AT_LEAST_ONE = integer_at_least(1)
_KINDS = {
    "data.train_batch_size": _AT_LEAST_ONE,
    "actor_rollout_ref.rollout.n": _AT_LEAST_ONE,
    "actor_rollout_ref.actor.ppo_mini_batch_size": _AT_LEAST_ONE,
    "trainer.default_local_dir": _TEXT,
    "trainer.v1.trainer_mode": _TEXT,
    "knapsack.task_status": null_or(_TEXT),
    "knapsack.dry_run": TRUE_OR_FALSE,
}
"""The values that the other checks compute with."""


def exploration_config(config: DictConfig) -> ExplorationConfig:
    """Read the section ``exploration``.

    Raises:
        ConfigError: a key is unknown or a value is not accepted.
    """
    check_preset(config.exploration.get("preset"))  # other keys are read by it
    return ExplorationConfig.from_mapping(OmegaConf.to_container(config.exploration, resolve=True))


def check_config(config: DictConfig) -> None:
    """Refuse what cannot run.

    Raises:
        ConfigError: naming the key, its value and what would be accepted.
    """
    exploration = exploration_config(config)
    for check in _CHECKS:
        check(config, exploration)


def _check_kinds(config: DictConfig, exploration: ExplorationConfig) -> None:
    for key, option in _KINDS.items():
        value = OmegaConf.select(config, key)
        if not option.accepts(value):
            raise ConfigError(f"{key}={value!r} is not accepted: expected {option.accepted}.")


def _check_trainer(config: DictConfig, exploration: ExplorationConfig) -> None:
    mode = config.trainer.v1.trainer_mode
    if not config.trainer.use_v1:
        raise ConfigError("trainer.use_v1=False is not accepted: verl's legacy trainer gives every prompt the same n.")
    if "separate_async" in mode:
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode} is not accepted: each of its updates trains on whichever prompts finished "
            "first, so no update has a budget that could be kept. Expected knapsack_sync or knapsack_colocate_async."
        )
    if mode not in TRAINER_MODES:
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode} would train without Knapsack RL: expected one of "
            f"{', '.join(TRAINER_MODES)}."
        )
    if OmegaConf.select(config, "skip.rollout_tq.enable"):
        raise ConfigError(
            "skip.rollout_tq.enable=True is not accepted: rollouts that are read from a file were planned by nobody."
        )


def _check_left_to_verl(config: DictConfig, exploration: ExplorationConfig) -> None:
    for key, (accepted, instead) in _DONE_BY_VERL.items():
        value = getattr(exploration, key)
        if value != accepted:
            raise ConfigError(f"exploration.{key}={value} is not accepted on verl 0.9: {instead}.")
    if exploration.dynamic_sampling.enable:
        raise ConfigError(
            "exploration.dynamic_sampling.enable=True is not accepted on verl 0.9: set algorithm.filter_groups.enable."
        )


def _check_advantages(config: DictConfig, exploration: ExplorationConfig) -> None:
    name = config.algorithm.adv_estimator
    check_adv_clip(config.algorithm.adv_clip)
    check_prompt_weight(config.algorithm.prompt_weight)
    if name == "remax":
        raise ConfigError(
            "algorithm.adv_estimator=remax is not accepted on verl 0.9: its trainers draw no greedy response."
        )
    if exploration.allocator == "knapsack":
        _check_value(name, exploration)
    if not advantage_estimator(name).compares_group:
        return
    least, key = exploration.n_low, f"exploration.n_low={exploration.n_low}"
    if exploration.allocator == "homogeneous":
        least, key = (
            config.actor_rollout_ref.rollout.n,
            f"actor_rollout_ref.rollout.n={config.actor_rollout_ref.rollout.n}",
        )
    if least < 2:
        raise ConfigError(
            f"{key} is not accepted: algorithm.adv_estimator={name} compares the rollouts of a prompt, and a group of "
            "one has nothing to be compared with. Expected at least 2."
        )


def _check_value(adv_estimator: str, exploration: ExplorationConfig) -> None:
    function = configured_value(exploration, adv_estimator)
    if "greedy_match_rates" in function.parameters:
        raise ConfigError(
            f"exploration.value={function.name} is not accepted on verl 0.9: no greedy response is drawn."
        )


def _check_budgets(config: DictConfig, exploration: ExplorationConfig) -> None:
    prompts, rollouts = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    if exploration.total_budget is not None and _refills(config):
        raise ConfigError(
            f"exploration.total_budget={exploration.total_budget} is not accepted where verl replaces prompts in other "
            "numbers than data.train_batch_size (filter_groups, sync_refill_failed_groups, colocate_async): set "
            "actor_rollout_ref.rollout.n."
        )
    key = "data.train_batch_size * actor_rollout_ref.rollout.n"
    if exploration.total_budget is not None:
        key = "exploration.total_budget"
    multiple = config.actor_rollout_ref.actor.ppo_mini_batch_size * rollouts
    lowest, highest = prompts * exploration.n_low, prompts * exploration.n_up
    for budget in exploration.budget_schedule(prompts, rollouts).budgets:
        if exploration.allocator == "knapsack" and not lowest <= budget <= highest:
            raise ConfigError(
                f"{key}={budget} is infeasible for {prompts} prompts a step with exploration.n_low={exploration.n_low} "
                f"and exploration.n_up={exploration.n_up}: expected {lowest} to {highest}."
            )
        if budget % multiple:
            raise ConfigError(
                f"{key}={budget} must be a multiple of {multiple} rollouts (ppo_mini_batch_size * rollout.n): verl "
                "would fill every step up with empty rows."
            )


def _check_limits(config: DictConfig, exploration: ExplorationConfig) -> None:
    prompts, rollouts = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    check_token_limit(exploration, config.algorithm.adv_estimator, prompts, rollouts)
    check_reviews(exploration, prompts, rollouts)


def _refills(config: DictConfig) -> bool:
    return bool(
        config.algorithm.filter_groups.enable
        or config.trainer.v1.sampler.sync_refill_failed_groups
        or config.trainer.v1.trainer_mode != "knapsack_sync"
    )


def _named_files(config: DictConfig, key: str) -> list[str]:
    named = OmegaConf.select(config, key)
    return [named] if isinstance(named, str) else list(named or [])


def _is_here(file: str) -> bool:
    return "://" not in file and Path(file).expanduser().exists()


def _parquet_files(config: DictConfig) -> list[Path]:
    """The files of the training data that can be looked into here."""
    named = _named_files(config, "data.train_files")
    return [Path(file).expanduser() for file in named if _is_here(file) and file.endswith(".parquet")]


def _check_files(config: DictConfig, exploration: ExplorationConfig) -> None:
    for key in ("data.train_files", "data.val_files"):
        for file in _named_files(config, key):
            if "://" not in file and not _is_here(file):
                raise ConfigError(f"{key}={file} does not exist.")


def _check_prior(config: DictConfig, exploration: ExplorationConfig) -> None:
    prior, data = exploration.success_rate.prior, config.data
    of_the_user = data.custom_cls.path is not None
    if prior is None or (of_the_user and not is_prior_file(prior)):
        return
    files = _parquet_files(config)
    try:
        check_prior(
            prior,
            files,
            are_all=0 < len(files) == len(_named_files(config, "data.train_files")) and not of_the_user,
            prompt_key=data.prompt_key,
            media_keys=(data.image_key, data.video_key, data.audio_key),
        )
    except (PriorError, OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"exploration.success_rate.prior={prior} is not accepted: {one_line(error)}.") from error


def _check_similar_by(config: DictConfig, exploration: ExplorationConfig) -> None:
    similar_by = exploration.success_rate.similar_by
    if config.data.custom_cls.path is not None:
        return
    try:
        check_similar_columns(similar_by, _parquet_files(config), config.data.prompt_key)
    except (SimilarColumnsError, OSError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"exploration.success_rate.similar_by={similar_by} is not accepted: {one_line(error)}."
        ) from error


def _check_task_status(config: DictConfig, exploration: ExplorationConfig) -> None:
    path = config.knapsack.task_status
    if path is None:
        return
    try:
        TaskStatus.load(Path(path))
    except (OSError, TaskStatusError) as error:
        raise ConfigError(
            f"knapsack.task_status={path} is not accepted: {error}. Expected a task_status.npz of a checkpoint."
        ) from error


_CHECKS: tuple[Callable[[DictConfig, ExplorationConfig], None], ...] = (
    _check_kinds,
    _check_trainer,
    _check_left_to_verl,
    _check_advantages,
    _check_budgets,
    _check_limits,
    _check_files,
    _check_prior,
    _check_similar_by,
    _check_task_status,
)
