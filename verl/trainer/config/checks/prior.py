"""Start-up checks of prior success rates: they can be read, are success rates, and belong to prompts of the data."""

from __future__ import annotations

from pathlib import Path

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
    files, data = local_data_files(config, "train_files"), config.data
    try:
        check_prior_of_data(
            prior,
            [Path(file) for file in files],
            are_all=data.custom_cls.path is None and len(files) == len(data_paths(config, "train_files")),
            prompt_key=data.prompt_key,
            media_keys=(data.image_key, data.video_key),
        )
    except (PriorError, FileNotFoundError) as error:
        raise ConfigError(f"exploration.success_rate.prior={prior} is not accepted: {error}.") from error
