"""verl's own rules, which it would apply only after Ray and the workers' processes have started."""

from __future__ import annotations

from types import SimpleNamespace

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import uses_critic


def check_upstream_rules(config: DictConfig, facts: Facts) -> None:
    """Refuse what the trainer's constructor would refuse."""
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer  # which itself imports checks

    actor = config.actor_rollout_ref.actor
    trainer = SimpleNamespace(
        config=config,
        use_critic=uses_critic(config),
        use_reference_policy=config.algorithm.use_kl_in_reward or actor.use_kl_loss,
    )
    try:
        RayPPOTrainer._validate_config(trainer)
    except (AssertionError, ValueError) as error:
        reason = str(error) or (
            # verl asserts these without a message.
            f"data.train_batch_size={config.data.train_batch_size} must be at least "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={actor.ppo_mini_batch_size}, and micro-batches must divide "
            "mini-batches"
        )
        raise ConfigError(f"verl refuses this configuration: {reason.rstrip('.')}.") from error
