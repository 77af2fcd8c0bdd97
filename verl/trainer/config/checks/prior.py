"""Start-up checks of prior success rates: they can be read, are success rates, and belong to prompts of the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.identity import prompt_id
from knapsack_rl.prior import PriorError, by_prompt, checked_rates, is_prior_file, read_prior, refuse_unknown
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import data_paths, exploration_config, local_data_files, refuse_home_sign


def check_prior(config: DictConfig, facts: Facts) -> None:
    """Refuse a prior file or column that cannot be used."""
    prior = exploration_config(config).success_rate.prior
    if prior is None:
        return
    key = f"exploration.success_rate.prior={prior}"
    try:
        if is_prior_file(prior):
            _check_file(config, facts, key, prior)
        else:
            _check_column(config, key, prior)
    except (PriorError, FileNotFoundError) as error:
        raise ConfigError(f"{key} is not accepted: {error}.") from error


def _check_file(config: DictConfig, facts: Facts, key: str, prior: str) -> None:
    refuse_home_sign("exploration.success_rate.prior", prior)
    path = Path(prior)
    if not (path.is_file() or facts.trains_here):
        return
    rates = read_prior(path)
    if _has_known_identities(config):
        refuse_unknown(rates, set(_ids_of_training_data(config)), str(path))


def _check_column(config: DictConfig, key: str, column: str) -> None:
    if config.data.custom_cls.path is not None:
        return  # a data set class of the user's own hands on what it likes
    rates: list[float] = []
    for file in local_data_files(config, "train_files"):
        names = pyarrow.parquet.read_schema(file).names
        if column not in names:
            raise PriorError(
                f"data.train_files={file} has no column {column!r} but {', '.join(names)}; expected one of them, or "
                "the path of a .parquet or .csv file"
            )
        values = pyarrow.parquet.read_table(file, columns=[column])[column].to_pylist()
        rates += checked_rates(values, f"data.train_files={file}, column {column!r},").tolist()
    if _has_known_identities(config):
        by_prompt(_ids_of_training_data(config), checked_rates(rates, column), f"column {column!r} of data.train_files")


def _has_known_identities(config: DictConfig) -> bool:
    """Whether the training data are all here, and a prompt's identity is that of its text."""
    files = local_data_files(config, "train_files")
    if config.data.custom_cls.path is not None or len(files) < len(data_paths(config, "train_files")):
        return False
    media = {config.data.image_key, config.data.video_key}
    return not any(media & set(pyarrow.parquet.read_schema(file).names) for file in files)


def _ids_of_training_data(config: DictConfig) -> Iterator[str]:
    """Yield the id of every row, as the trainer computes it."""
    prompt_key = config.data.prompt_key
    for file in local_data_files(config, "train_files"):
        has_source = "data_source" in pyarrow.parquet.read_schema(file).names
        columns = [prompt_key, *(["data_source"] if has_source else [])]
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield prompt_id(str(row.get("data_source", "")), row[prompt_key])
