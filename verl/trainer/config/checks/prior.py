"""Start-up checks of prior success rates: they can be read, are success rates, and belong to prompts of the data."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.prior import PriorError, is_prior_file
from knapsack_rl.prior_checks import check_prior as check_prior_of_data
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import data_paths, exploration_config, local_data_files, refuse_home_sign


def check_prior(config: DictConfig, facts: Facts) -> None:
    """Refuse a prior file or column that cannot be used."""
    prior = exploration_config(config).success_rate.prior
    if prior is None:
        return
    if is_prior_file(prior):
        refuse_home_sign("exploration.success_rate.prior", prior)
        if not (Path(prior).is_file() or facts.trains_here):
            return
    elif config.data.custom_cls.path is not None:
        return  # a data set class of the user's own hands on what it likes
    files = local_data_files(config, "train_files")
    try:
        check_prior_of_data(
            prior,
            [Path(file) for file in files],
            prompt_key=config.data.prompt_key,
            has_known_identities=_has_known_identities(config, files),
        )
    except (PriorError, FileNotFoundError) as error:
        raise ConfigError(f"exploration.success_rate.prior={prior} is not accepted: {error}.") from error


def _has_known_identities(config: DictConfig, files: list[str]) -> bool:
    """Whether the training data are all here, and a prompt's identity is that of its text."""
    if config.data.custom_cls.path is not None or len(files) < len(data_paths(config, "train_files")):
        return False
    media = {config.data.image_key, config.data.video_key}
    return not any(media & set(pyarrow.parquet.read_schema(file).names) for file in files)
