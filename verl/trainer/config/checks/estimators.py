"""Start-up checks of the advantages: their estimator, the groups that it compares, the value of a budget, the clip."""

from __future__ import annotations

from omegaconf import DictConfig

from knapsack_rl.advantage_estimators import advantage_estimator
from knapsack_rl.config import ConfigError
from knapsack_rl.config_checks import check_adv_clip, check_prompt_weight, configured_value
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import exploration_config, only_validates, prompts_per_batch


def check_value_function(config: DictConfig, facts: Facts) -> None:
    """Refuse a value function that is unknown, or an advantage estimator that implies none."""
    exploration, adv_estimator = exploration_config(config), config.algorithm.adv_estimator
    if exploration.allocator == "homogeneous":
        return
    function = configured_value(exploration, adv_estimator)
    if exploration.n_low < function.minimum_rollouts:
        raise ConfigError(
            f"exploration.n_low={exploration.n_low} is not accepted with exploration.value={function.name}: expected "
            "at least 2, because a group of one rollout has no advantage."
        )
    if function.name == "remax" and adv_estimator != "remax":
        raise ConfigError(
            f"exploration.value=remax needs algorithm.adv_estimator=remax, not {adv_estimator}: no other estimator "
            "draws the greedy response whose success it needs."
        )


def check_groups(config: DictConfig, facts: Facts) -> None:
    """Refuse groups of one rollout for an estimator that compares the rollouts of a group, whatever allocates them."""
    estimator = config.algorithm.adv_estimator
    if not advantage_estimator(estimator).compares_group or only_validates(config):
        return
    exploration, prompts = exploration_config(config), prompts_per_batch(config)
    because = (
        f"algorithm.adv_estimator={estimator} compares the rollouts of a prompt, and a group of one would be trained "
        "on its raw score"
    )
    if exploration.allocator == "knapsack":
        if exploration.n_low < 2:
            raise ConfigError(
                f"exploration.n_low={exploration.n_low} is not accepted: {because}. Expected at least 2, or an "
                "estimator that compares no group (reinforce_plus_plus, remax)."
            )
        return
    rollouts_per_prompt = config.actor_rollout_ref.rollout.n
    budget = min(exploration.budget_schedule(prompts, rollouts_per_prompt).budgets)
    if budget < 2 * prompts:
        value = (
            f"actor_rollout_ref.rollout.n={rollouts_per_prompt}"
            if exploration.total_budget is None
            else f"exploration.total_budget={budget} for {prompts} prompts"
        )
        expected = 2 if exploration.total_budget is None else 2 * prompts
        raise ConfigError(
            f"{value} is not accepted with exploration.allocator=homogeneous: {because}. Expected at least {expected}."
        )


def check_advantages(config: DictConfig, facts: Facts) -> None:
    """Refuse a clip that is neither null nor a positive number, and an unknown weight of prompts."""
    check_adv_clip(config.algorithm.adv_clip)
    check_prompt_weight(config.algorithm.get("prompt_weight", "rows"))  # configurations of earlier versions have none


def check_importance_cap(config: DictConfig, facts: Facts) -> None:
    """Refuse a cap on importance ratios whose denominators the rollout engine would not report."""
    rollout, cap = config.actor_rollout_ref.rollout, config.exploration.rollout_is_cap
    if cap is not None and rollout.name != "hf" and not rollout.calculate_log_probs:
        raise ConfigError(
            f"exploration.rollout_is_cap={cap} needs the rollout engine's log-probs: set "
            "actor_rollout_ref.rollout.calculate_log_probs=true."
        )
