"""Start-up checks of what the data files hold: their columns' types, and rows that would fail in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import DATA_KEYS, local_data_files
from verl.utils.reward_score import default_compute_score

OWNED_COLUMNS = ("uid", "prompt_index", "prompt_id")
"""Names that the trainer gives to columns of its own."""
_READ_GROUND_TRUTH = ("naive", "dapo", "prime", "batch", "math_verify")
_GLOB_CHARACTERS = "*?["
_MESSAGES = "a list of messages such as [{'role': 'user', 'content': 'What is 1 + 1?'}]"
_MOST_SOURCES = 100


def check_columns(config: DictConfig, facts: Facts) -> None:
    """Refuse columns that are missing or of a type that verl's data set cannot read; only metadata are read."""
    for key, file, schema in _schemas(config):
        _check_path(key, file)
        _check_prompt_type(f"{key}={file}", schema.field(config.data.prompt_key), config.data.prompt_key)
        if _rewards_read_data(config):
            _check_reward_columns(config, f"{key}={file}", schema)
        if "extra_info" in schema.names and not pyarrow.types.is_struct(schema.field("extra_info").type):
            raise ConfigError(
                f"{key}={file} has a column extra_info of type {schema.field('extra_info').type}: expected a struct "
                "such "
                "as {'index': 0}, or no such column."
            )
        owned = [name for name in OWNED_COLUMNS if name in schema.names]
        if owned:
            raise ConfigError(
                f"{key}={file} has a column {owned[0]!r}, a name that the trainer gives to a column of its own: "
                "rename it."
            )


def _schemas(config: DictConfig) -> Iterator[tuple[str, Path, pyarrow.Schema]]:
    if config.data.custom_cls.path is not None:
        return  # a data set class of the user's own reads what it likes
    for key in DATA_KEYS:
        for file in local_data_files(config, key):
            yield f"data.{key}", file, pyarrow.parquet.read_schema(file)


def _check_path(key: str, file: Path) -> None:
    if any(character in str(file) for character in _GLOB_CHARACTERS):
        raise ConfigError(
            f"{key}={file} holds one of {' '.join(_GLOB_CHARACTERS)}, which the library datasets reads as a pattern: "
            "rename the file or its folder."
        )


def _rewards_read_data(config: DictConfig) -> bool:
    """Whether rewards are computed from the data, by a manager that is known; a reward model needs the text alone."""
    return config.reward_model.reward_manager in _READ_GROUND_TRUTH and not config.reward_model.enable


def _check_prompt_type(where: str, field: pyarrow.Field, name: str) -> None:
    is_list = pyarrow.types.is_list(field.type) or pyarrow.types.is_large_list(field.type)
    messages = field.type.value_type if is_list else None
    if messages is None or not pyarrow.types.is_struct(messages):
        raise ConfigError(f"{where} has a column {name!r} of type {field.type}: expected {_MESSAGES}.")
    fields = {messages.field(index).name for index in range(messages.num_fields)}
    if not {"role", "content"} <= fields:
        raise ConfigError(f"{where} has messages of {', '.join(sorted(fields))} in {name!r}: expected {_MESSAGES}.")


def _check_reward_columns(config: DictConfig, where: str, schema: pyarrow.Schema) -> None:
    source = config.data.reward_fn_key
    if source not in schema.names:
        raise ConfigError(
            f"{where} has no column {source!r} (data.reward_fn_key), by which rewards are computed: add it, e.g. "
            "with the "
            "name of the data set."
        )
    if "reward_model" not in schema.names:
        raise ConfigError(f"{where} has no column 'reward_model': expected {{'ground_truth': the answer}}.")
    kind = schema.field("reward_model").type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("ground_truth") < 0:
        raise ConfigError(
            f"{where} has a column 'reward_model' of type {kind}: expected {{'ground_truth': the answer}}."
        )


def check_files_agree(config: DictConfig, facts: Facts) -> None:
    """Refuse files of one key whose columns differ: verl would concatenate them."""
    from datasets import Features, Value

    first: dict[str, tuple[Path, Features]] = {}
    for key, file, schema in _schemas(config):
        features = Features.from_arrow_schema(schema)
        if key not in first:
            first[key] = file, features
            continue
        other_file, other = first[key]
        for name in sorted(features.keys() & other.keys()):
            if features[name] != other[name] and Value("null") not in (features[name], other[name]):
                types = [pyarrow.parquet.read_schema(path).field(name).type for path in (other_file, file)]
                raise ConfigError(
                    f"{key}: column {name!r} is {types[0]} in {other_file} and {types[1]} in {file}, and cannot be "
                    "concatenated: write both with the same type."
                )
        if ("extra_info" in features) != ("extra_info" in other):
            without = file if "extra_info" in other else other_file
            raise ConfigError(
                f"{key}: {without} has no column extra_info, and another file has: its rows would have null. Add the "
                "column, or drop it from all."
            )


def check_row_counts(config: DictConfig, facts: Facts) -> None:
    """Refuse an empty validation set: verl makes a data loader of it even if nothing is validated."""
    if config.data.custom_cls.path is not None:
        return
    files = local_data_files(config, "val_files")
    if files and sum(pyarrow.parquet.read_metadata(file).num_rows for file in files) == 0:
        raise ConfigError(
            f"data.val_files={config.data.val_files} holds no prompt: give some, also if trainer.test_freq is off."
        )


def check_rows(config: DictConfig, facts: Facts) -> None:
    """Refuse rows that lack what training reads; of each struct one field is read."""
    for key, file, schema in _schemas(config):
        refuse = partial(_refuse_row, f"{key}={file}")
        lengths = pyarrow.compute.list_value_length(_read(file, schema, f"{config.data.prompt_key}", "role"))
        _check_each(refuse, lengths, "no prompt", _MESSAGES, empty=0)
        if "extra_info" in schema.names and schema.field("extra_info").type.num_fields:
            field = schema.field("extra_info").type.field(0).name
            _check_each(
                refuse, _read(file, schema, "extra_info", field), "extra_info null", "a struct such as {'index': 0}"
            )
        if _rewards_read_data(config):
            answers = pyarrow.compute.struct_field(_read(file, schema, "reward_model", "ground_truth"), "ground_truth")
            _check_each(refuse, answers, "no reward_model.ground_truth", "the answer that rewards are computed from")
            sources = pyarrow.parquet.ParquetFile(file).read(columns=[config.data.reward_fn_key]).column(0)
            _check_each(refuse, sources, f"no {config.data.reward_fn_key}", "the name of the data set")
            if config.custom_reward_function.path is None and config.reward_model.reward_manager != "batch":
                _check_sources(f"{key}={file}", sources, config.data.reward_fn_key)


def _read(file: Path, schema: pyarrow.Schema, column: str, field: str) -> pyarrow.ChunkedArray:
    """Read one field of a struct or of a list of structs; the nulls around it come with it."""
    metadata = pyarrow.parquet.read_metadata(file)
    paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    wanted = next(path for path in paths if path.startswith(f"{column}.") and f".{field}." in f".{path}.")
    return pyarrow.parquet.ParquetFile(file).read(columns=[wanted]).column(0)


def _check_each(
    refuse: Callable[[int, int, str, str], None],
    values: pyarrow.ChunkedArray,
    fault: str,
    expected: str,
    empty: int | None = None,
) -> None:
    bad = pyarrow.compute.is_null(values)
    if empty is not None:
        bad = pyarrow.compute.or_(bad, pyarrow.compute.fill_null(pyarrow.compute.equal(values, empty), True))
    rows = np.flatnonzero(bad.to_numpy())
    if len(rows):
        refuse(int(rows[0]), len(rows), fault, expected)


def _refuse_row(where: str, row: int, count: int, fault: str, expected: str) -> None:
    others = f" (and {count - 1} more)" if count > 1 else ""
    raise ConfigError(f"{where} has {fault} in row {row}{others}: expected {expected}. Mend or remove these rows.")


def _check_sources(where: str, sources: pyarrow.ChunkedArray, key: str) -> None:
    for source in pyarrow.compute.unique(sources).to_pylist()[:_MOST_SOURCES]:
        if not _is_scored(source):
            raise ConfigError(
                f"{where} has {key}={source!r}, for which there is no reward function: set "
                "custom_reward_function.path, or "
                "a data source that verl scores."
            )


def _is_scored(source: Any) -> bool:
    try:
        default_compute_score(str(source), "", "")
    except NotImplementedError:
        return False
    except Exception:
        return True  # it has a rule, which does not like an empty answer
    return True
