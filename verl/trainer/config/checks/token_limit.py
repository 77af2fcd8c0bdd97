"""Start-up checks of the limit on expected tokens: it can be met, and the value can be solved under it."""

from __future__ import annotations

from omegaconf import DictConfig

from knapsack_rl import resolve_value_function, value_for_adv_estimator
from knapsack_rl.config import ConfigError, ExplorationConfig
from knapsack_rl.token_limit import is_share, least_factor
from knapsack_rl.value_checks import check_concave
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import exploration_config, prompts_per_batch


def check_token_limit(config: DictConfig, facts: Facts) -> None:
    """Refuse a limit on expected tokens that no lengths could meet, or that cannot be solved exactly."""
    exploration = exploration_config(config)
    limit = exploration.max_expected_tokens
    if limit is None:
        return
    key = f"exploration.max_expected_tokens={limit}"
    if exploration.allocator == "homogeneous":
        raise ConfigError(
            f"{key} needs exploration.allocator=knapsack: homogeneous allocation has no choice. Unset it."
        )
    if exploration.solver == "dp":
        raise ConfigError(f"{key} needs exploration.solver=auto or greedy, not dp.")
    try:
        value = resolve_value_function(exploration.value or value_for_adv_estimator(config.algorithm.adv_estimator))
        check_concave(value, exploration.n_low, exploration.n_up)
    except ValueError as error:
        raise ConfigError(f"{key} is not accepted: {error}.") from error
    _check_possible(config, exploration, key)


def _check_possible(config: DictConfig, exploration: ExplorationConfig, key: str) -> None:
    prompts, limit = prompts_per_batch(config), exploration.max_expected_tokens
    schedule = exploration.budget_schedule(prompts, config.actor_rollout_ref.rollout.n)
    for budget in schedule.budgets:
        if not is_share(limit) and limit < budget:
            raise ConfigError(
                f"{key} cannot be met by the {budget} rollouts of a step: the least possible is {budget}, a token each."
            )
        least = least_factor(prompts, budget, exploration.n_low)
        if is_share(limit) and float(limit[:-1]) < least:
            raise ConfigError(
                f"{key} cannot be met: the least possible is {least:g}x, which exploration.n_low={exploration.n_low} "
                f"rollouts for each of {prompts} prompts have of {budget}."
            )
