"""Whether prior success rates fit the training data: they are success rates, and belong to prompts that there are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from knapsack_rl.identity import prompt_id
from knapsack_rl.prior import PriorError, by_prompt, checked_rates, is_prior_file, read_prior, refuse_unknown

__all__ = ["check_prior"]


def check_prior(
    prior: str, data_files: Sequence[Path], *, are_all: bool, prompt_key: str, media_keys: Collection[str]
) -> None:
    """Read a prior as training will, and compare it with the training data. Needs pyarrow.

    Args:
        prior: ``exploration.success_rate.prior``, a file or a column.
        data_files: parquet files of the training data that are here.
        are_all: whether these are all training data, and handed on as they are.
        prompt_key: their column of messages.
        media_keys: columns of images and the like, part of a prompt's identity: where there is one, priors are
            not compared with the prompts.

    Raises:
        PriorError: it cannot be read, is no success rate, contradicts itself, or names prompts that there are not.
        FileNotFoundError: there is no such file.
    """
    knows_prompts = are_all and not _have_one_of(media_keys, data_files)
    if is_prior_file(prior):
        rates = read_prior(Path(prior).expanduser())
        if knows_prompts:
            refuse_unknown(rates, set(_ids(data_files, prompt_key)), prior)
        return
    column: list[float] = []
    for file in data_files:
        column += _column_of(file, prior)
    if knows_prompts:
        where = f"column {prior!r} of data.train_files"
        by_prompt(_ids(data_files, prompt_key), checked_rates(column, where), where)


def _have_one_of(columns: Collection[str], data_files: Sequence[Path]) -> bool:
    import pyarrow.parquet

    return any(set(columns) & set(pyarrow.parquet.read_schema(file).names) for file in data_files)


def _column_of(file: Path, column: str) -> list[float]:
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(file).names
    if column not in names:
        raise PriorError(
            f"data.train_files={file} has no column {column!r} but {', '.join(names)}; expected one of them, or the "
            "path of a .parquet or .csv file"
        )
    values: list[Any] = pyarrow.parquet.read_table(file, columns=[column])[column].to_pylist()
    return list(checked_rates(values, f"data.train_files={file}, column {column!r},").tolist())


def _ids(data_files: Sequence[Path], prompt_key: str) -> Iterator[str]:
    """The id of every row, as a trainer computes it."""
    import pyarrow.parquet

    for file in data_files:
        has_source = "data_source" in pyarrow.parquet.read_schema(file).names
        columns = [prompt_key, *(["data_source"] if has_source else [])]
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield prompt_id(str(row.get("data_source", "")), row[prompt_key])
