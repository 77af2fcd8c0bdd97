"""Start-up checks of where a run writes: its folder, its dumps, and its loggers."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from omegaconf import DictConfig, ListConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import refuse_home_sign, run_folder
from verl.utils.run_lock import RunFolderInUse, check_free
from verl.utils.run_tracking import RunTracking

_FOLDER_KEYS = ("default_local_dir", "rollout_data_dir", "validation_data_dir")
_PACKAGE_OF_LOGGER: Mapping[str, tuple[str, str]] = {
    "wandb": ("wandb", "wandb"),
    "tracking": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio>=0.3,<0.22"),
    "clearml": ("clearml", "clearml"),
    "vemlp_wandb": ("volcengine_ml_platform", "volcengine-ml-platform"),
}
"""The package that each logger imports, and the distribution that has it."""


def check_folders(config: DictConfig, facts: Facts) -> None:
    """Refuse folders that cannot be written to; they need not exist yet."""
    if not facts.trains_here:
        return
    for key in _FOLDER_KEYS:
        path = config.trainer.get(key)
        if path is not None:
            _check_folder(f"trainer.{key}", str(path))


def _check_folder(key: str, path: str) -> None:
    refuse_home_sign(key, path)
    folder = Path(path).absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists() or parent.is_symlink())
    if not nearest.is_dir():
        raise ConfigError(f"{key}={path} cannot be made: {nearest} is no folder. Give another path.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={path} cannot be written to: {nearest} is not writable for this user. Give another.")


def check_not_in_use(config: DictConfig, facts: Facts) -> None:
    """Refuse a folder in which another run is going on."""
    if not facts.trains_here:
        return
    try:
        check_free(run_folder(config))
    except RunFolderInUse as error:
        raise ConfigError(str(error)) from error


def check_loggers(config: DictConfig, facts: Facts) -> None:
    """Refuse loggers that verl does not know, whose package is not installed, or that nobody is logged in to."""
    configured = config.trainer.logger
    loggers = list(configured) if isinstance(configured, ListConfig) else [configured]
    known = [*RunTracking.supported_backend, "tracking"]
    for logger in loggers:
        if logger not in known:
            raise ConfigError(
                f"trainer.logger={logger!r} is not accepted: expected a list of "
                f"{', '.join(RunTracking.supported_backend)}."
            )
        package, distribution = _PACKAGE_OF_LOGGER.get(logger, ("", ""))
        if facts.trains_here and package and package not in facts.packages:
            raise ConfigError(
                f"trainer.logger={logger} needs the package {distribution}, which is not installed: install it (pip "
                f"install '{distribution}'), or leave {logger} out of trainer.logger."
            )
        if facts.trains_here and package == "wandb" and not is_logged_in_to_wandb(facts.environment):
            raise ConfigError(f"trainer.logger={logger} has no login: {WANDB_REMEDY}.")


WANDB_REMEDY = "set WANDB_API_KEY, or WANDB_MODE=offline, or leave wandb out of trainer.logger"


def is_logged_in_to_wandb(environment: Mapping[str, str]) -> bool:
    """Whether wandb would find a key, or needs none, with these environment variables."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    if environment.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    home = Path(environment.get("HOME", "~")).expanduser()
    for file in (environment.get("NETRC"), home / ".netrc", home / "_netrc"):
        try:
            if file is not None and netrc.netrc(file).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
