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
from knapsack_verl09.checks import check_config
from knapsack_verl09.compatibility import IncompatibleVerl, check_verl

__all__ = ["KnapsackStartup", "load_plugin_everywhere"]

PLUGIN = "knapsack_verl09.plugin"
MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"
"""verl imports the modules that this environment variable names, in every process."""


class KnapsackStartup(Callback):
    """Checks the verl that is installed and the configuration; then has every process of the run load the plug-in."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See the class.

        Raises:
            SystemExit: with status 2, where the run cannot succeed.
        """
        try:
            check_verl(Path(verl.__file__).parent)
            check_config(config)
        except (IncompatibleVerl, ConfigError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        load_plugin_everywhere(config)


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
