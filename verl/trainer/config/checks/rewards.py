"""Start-up checks of the rewards: the reward manager and the user's reward function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.workers.reward_manager import get_reward_manager_cls


def check_reward_function(config: DictConfig, facts: Facts) -> None:
    """Refuse a reward function that is missing, cannot be imported, or does not take what it is called with."""
    section = config.custom_reward_function
    try:
        function = get_custom_reward_fn(config)
    except FileNotFoundError as error:
        raise ConfigError(f"custom_reward_function.path={section.path} does not exist: give a Python file.") from error
    except AttributeError as error:
        raise ConfigError(f"custom_reward_function.name={section.name} is not in {section.path}: {error}") from error
    except RuntimeError as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"custom_reward_function.path={section.path} cannot be imported: {type(cause).__name__}: {cause}"
        ) from error
    if function is not None:
        _check_arguments(config, *function.args)


def check_reward_manager(config: DictConfig, facts: Facts) -> None:
    """Refuse a reward manager that is not registered, and arguments that it does not take, or lacks."""
    manager, kwargs = config.reward_model.reward_manager, _manager_kwargs(config)
    try:
        manager_class = get_reward_manager_cls(manager)
    except ValueError as error:
        raise ConfigError(f"reward_model.reward_manager={manager!r} is not accepted: {error}") from error
    given = ("tokenizer", "num_examine", "compute_score", "reward_fn_key")
    _check_call("reward_model.reward_kwargs", f"the reward manager {manager}", manager_class, given, kwargs)
    if manager == "dapo":
        _check_overlong_buffer(config, kwargs)


def check_resampling(config: DictConfig, facts: Facts) -> None:
    """Refuse PF-PPO: it draws rollouts anew by their scores, and success rates are read from what was drawn."""
    if config.algorithm.use_pf_ppo:
        raise ConfigError(
            "algorithm.use_pf_ppo=true is not accepted: it resamples rollouts by score, and the success rates that "
            "budgets are decided by would be biased. Set it to false."
        )


def _check_arguments(config: DictConfig, function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    manager = config.reward_model.reward_manager
    given: tuple[str, ...] = ("data_source", "solution_str", "ground_truth", "extra_info")
    if manager == "batch":
        given = ("data_sources", "solution_strs", "ground_truths", "extra_infos")
        kwargs = {**kwargs, **_manager_kwargs(config)}
    if manager in ("naive", "dapo", "math_verify", "batch"):
        name = f"{config.custom_reward_function.name} of {config.custom_reward_function.path}"
        _check_call("custom_reward_function.reward_kwargs", name, function, given, kwargs)


def _manager_kwargs(config: DictConfig) -> dict[str, Any]:
    return dict(config.reward_model.get("reward_kwargs", {}) or {})


def _check_call(key: str, name: str, function: Any, given: tuple[str, ...], kwargs: dict[str, Any]) -> None:
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        named = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
        own = [parameter for parameter in named if parameter not in given]
        for argument in kwargs:
            if argument not in named:
                takes = ", ".join(own) or "none"
                raise ConfigError(f"{key}.{argument} is not an argument of {name}: it takes {takes}.")
        for argument in given:
            if argument not in named:
                raise ConfigError(
                    f"{name} does not take the argument {argument}: it is called with {', '.join(given)}. Add it, "
                    "or **kwargs."
                )
    required = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    missing = [argument for argument in required if argument not in given and argument not in kwargs]
    if missing:
        raise ConfigError(f"{key} lacks {missing[0]}, which {name} needs: set it.")


def _check_overlong_buffer(config: DictConfig, kwargs: dict[str, Any]) -> None:
    """Refuse DAPO's manager without the section that it reads at the first reward."""
    buffer, longest = kwargs.get("overlong_buffer_cfg"), kwargs.get("max_resp_len")
    example = "{enable: false, len: 0, penalty_factor: 1.0, log: false}"
    names = ("enable", "len", "penalty_factor", "log")
    lacking = list(names) if buffer is None else [name for name in names if name not in buffer]
    if lacking:
        raise ConfigError(
            f"reward_model.reward_manager=dapo needs reward_model.reward_kwargs.overlong_buffer_cfg.{lacking[0]}: give "
            f"all of {example}, and max_resp_len."
        )
    if longest is None or longest < buffer["len"]:
        raise ConfigError(
            f"reward_model.reward_kwargs.max_resp_len={longest} is not accepted: expected at least "
            f"overlong_buffer_cfg.len={buffer['len']}, as a rule data.max_response_length="
            f"{config.data.max_response_length}."
        )
