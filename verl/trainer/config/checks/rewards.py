"""Start-up checks of the rewards: the reward manager and the user's reward function."""

from __future__ import annotations

from omegaconf import DictConfig

from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.exploration import ConfigError
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.workers.reward_manager import get_reward_manager_cls


def check_reward_function(config: DictConfig, facts: Facts) -> None:
    """Refuse a file of a reward function that is missing, cannot be imported, or lacks the function."""
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


def check_reward_manager(config: DictConfig, facts: Facts) -> None:
    """Refuse a reward manager that is not registered."""
    name = config.reward_model.reward_manager
    try:
        get_reward_manager_cls(name)
    except ValueError as error:
        raise ConfigError(f"reward_model.reward_manager={name!r} is not accepted: {error}") from error


def check_resampling(config: DictConfig, facts: Facts) -> None:
    """Refuse PF-PPO: it draws rollouts anew by their scores, and success rates are read from what was drawn."""
    if config.algorithm.use_pf_ppo:
        raise ConfigError(
            "algorithm.use_pf_ppo=true is not accepted: it resamples rollouts by score, and the success rates that "
            "budgets are decided by would be biased. Set it to false."
        )
