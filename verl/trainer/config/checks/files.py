"""Start-up checks of the data files: they are there, are parquet, and hold enough prompts."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.messages import one_line
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import DATA_KEYS, data_paths, is_remote, prompts_per_batch, refuse_home_sign


def check_data_files(config: DictConfig, facts: Facts) -> None:
    """Refuse data files that are missing, no parquet, or hold too few prompts; remote paths are left alone."""
    if config.data.custom_cls.path is not None:
        return  # a data set class of the user's own reads what it likes
    rows = {key: count_rows(config, facts, key) for key in DATA_KEYS}
    if rows["train_files"] is not None and rows["train_files"] < prompts_per_batch(config):
        raise ConfigError(
            f"data.train_files holds {rows['train_files']} prompts, fewer than data.train_batch_size="
            f"{prompts_per_batch(config)}: lower the batch size or give more data."
        )


def count_rows(config: DictConfig, facts: Facts, key: str) -> int | None:
    """Return the number of prompts under ``data.<key>``; None if some of its files are not here."""
    counts = [_rows_of(f"data.{key}", path, config, facts) for path in data_paths(config, key)]
    return None if None in counts else sum(filter(None, counts))


def _rows_of(key: str, path: str, config: DictConfig, facts: Facts) -> int | None:
    file = Path(path).expanduser()
    if is_remote(path) or not (facts.trains_here or file.is_file()):
        return None
    if not file.is_file():
        raise ConfigError(f"{key}={path} does not exist: give the path of a parquet file (see the README on data).")
    refuse_home_sign(key, path)
    try:
        metadata = pyarrow.parquet.read_metadata(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{key}={path} is not a readable parquet file: {one_line(error)}.") from error
    columns = metadata.schema.to_arrow_schema().names
    if config.data.prompt_key not in columns:
        raise ConfigError(
            f"{key}={path} has no column {config.data.prompt_key!r} (data.prompt_key) but {', '.join(columns)}: "
            "expected verl's schema (see the README on data)."
        )
    return metadata.num_rows
