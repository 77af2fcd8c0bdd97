"""Start-up checks of what is known of prompts before they are sampled: prior success rates, and which are similar."""

from __future__ import annotations

from pathlib import Path

import pyarrow
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.messages import one_line
from knapsack_rl.prior import PriorError, is_prior_file
from knapsack_rl.prior_checks import check_prior as check_prior_of_data
from knapsack_rl.similar_columns import SimilarColumnsError, check_similar_columns
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


def check_similar_by(config: DictConfig, facts: Facts) -> None:
    """Refuse columns by which prompts cannot be compared."""
    similar_by, data = exploration_config(config).success_rate.similar_by, config.data
    if similar_by is None:
        return
    key = f"exploration.success_rate.similar_by={similar_by}"
    if config.algorithm.adv_estimator == "remax":
        raise ConfigError(
            f"{key} is not accepted with algorithm.adv_estimator=remax, which asks what a prompt's own greedy response "
            "earned: unset it."
        )
    if data.custom_cls.path is not None:
        return  # a data set class of the user's own hands on what it likes
    try:
        check_similar_columns(similar_by, local_data_files(config, "train_files"), data.prompt_key)
    except (SimilarColumnsError, OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{key} is not accepted: {one_line(error)}.") from error
