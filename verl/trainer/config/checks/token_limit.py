"""Start-up checks of what limits a step: expected tokens, and the share of reviews."""

from __future__ import annotations

from omegaconf import DictConfig

from knapsack_rl.config_checks import check_reviews, check_token_limit
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import exploration_config, prompts_per_batch


def check_limits(config: DictConfig, facts: Facts) -> None:
    """Refuse a limit on expected tokens that cannot be met, and reviews that never come."""
    exploration, rollouts = exploration_config(config), config.actor_rollout_ref.rollout.n
    prompts = prompts_per_batch(config)
    check_token_limit(exploration, config.algorithm.adv_estimator, prompts, rollouts)
    check_reviews(exploration, prompts, rollouts)
