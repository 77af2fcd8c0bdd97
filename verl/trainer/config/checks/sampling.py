"""Start-up checks of how rollouts are drawn: training samples, only validation may be greedy."""

from __future__ import annotations

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.options import is_integer, is_number
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import only_validates

_ROLLOUT = "actor_rollout_ref.rollout"


def check_sampling(config: DictConfig, facts: Facts) -> None:
    """Refuse greedy rollouts in training, and sampling parameters that no engine accepts."""
    rollout = config.actor_rollout_ref.rollout
    if not only_validates(config):
        greedy = "the log-probs are divided by it, so that every update would be NaN; only validation may be greedy"
        if not (is_number(rollout.temperature) and rollout.temperature > 0):
            raise ConfigError(
                f"{_ROLLOUT}.temperature={rollout.temperature} is not accepted: {greedy} ({_ROLLOUT}.val_kwargs). "
                "Expected a number above 0, as a rule 1.0."
            )
        if not rollout.do_sample:
            raise ConfigError(
                f"{_ROLLOUT}.do_sample=false is not accepted: all rollouts of a prompt would be the same and leave no "
                f"gradient; only validation may be greedy ({_ROLLOUT}.val_kwargs). Set it to true."
            )
    for section, values in ((_ROLLOUT, rollout), (f"{_ROLLOUT}.val_kwargs", rollout.val_kwargs)):
        if not (is_number(values.temperature) and values.temperature >= 0):
            raise ConfigError(
                f"{section}.temperature={values.temperature} is not accepted: expected 0 (greedy) or a number above 0."
            )
        if not (is_number(values.top_p) and 0 < values.top_p <= 1):
            raise ConfigError(f"{section}.top_p={values.top_p} is not accepted: expected a number in (0, 1].")
        if not (is_integer(values.top_k) and values.top_k >= -1):
            raise ConfigError(
                f"{section}.top_k={values.top_k} is not accepted: expected -1 or 0 (all tokens), or a number of tokens."
            )
