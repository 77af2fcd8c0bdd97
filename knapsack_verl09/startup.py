"""The Hydra callback of `config/exploration/knapsack.yaml`: what happens between composing and running.

A configuration that cannot run ends here with a line on standard error and exit status 2, before Ray starts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

import verl
from knapsack_rl.config import ConfigError
from knapsack_verl09.checks import check_config, exploration_config
from knapsack_verl09.compatibility import IncompatibleVerl, check_verl, installed_version

__all__ = ["KnapsackStartup", "load_plugin_everywhere", "plan_of_a_step"]

PLUGIN = "knapsack_verl09.plugin"
MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"
"""verl imports the modules that this environment variable names, in every process."""


class KnapsackStartup(Callback):
    """Checks the verl that is installed and the configuration; then has every process of the run load the plug-in."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See the class.

        Raises:
            SystemExit: with status 2, where the run cannot succeed; with status 0, where ``knapsack.dry_run`` is set.
        """
        try:
            check_verl(Path(verl.__file__).parent)
            check_config(config)
        except (IncompatibleVerl, ConfigError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        if config.knapsack.dry_run:
            print(plan_of_a_step(config))
            sys.exit(0)
        load_plugin_everywhere(config)


def plan_of_a_step(config: DictConfig) -> str:
    """What a step of this configuration will do, for people to read."""
    exploration = exploration_config(config)
    prompts, rollouts = config.data.train_batch_size, config.actor_rollout_ref.rollout.n
    budgets = exploration.budget_schedule(prompts, rollouts).budgets
    bounds = f"{exploration.n_low} to {exploration.n_up} each"
    if exploration.allocator == "homogeneous":
        bounds = "the same for each"
    return (
        f"Accepted: verl {installed_version(Path(verl.__file__).parent)}, {config.trainer.v1.trainer_mode}, "
        f"{config.algorithm.adv_estimator}, success rates by {exploration.success_rate.estimator}.\n"
        f"A step: {prompts} prompts, {' then '.join(map(str, budgets))} rollouts, {bounds}; mini-batches of "
        f"{config.actor_rollout_ref.actor.ppo_mini_batch_size * rollouts} rollouts.\n"
        "Checkpoints, metrics and history: " + str(Path(config.trainer.default_local_dir).absolute())
    )


def load_plugin_everywhere(config: DictConfig) -> None:
    """Name the plug-in in the environment of Ray's workers, beside the modules that the user names there."""
    key = "ray_kwargs.ray_init.runtime_env.env_vars"
    named = OmegaConf.select(config, f"{key}.{MODULES_VARIABLE}") or os.environ.get(MODULES_VARIABLE, "")
    modules = [module for module in named.split(",") if module]
    with open_dict(config):
        OmegaConf.update(
            config,
            f"{key}.{MODULES_VARIABLE}",
            ",".join(dict.fromkeys([*modules, PLUGIN])),
            force_add=True,
        )
