"""The columns of the data by which prompts are compared: which may be, and what they say of a batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl.options import Option

__all__ = ["SIMILAR_BY", "SimilarColumnsError", "check_similar_columns", "labels_of_batch"]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and all(value.split("."))


SIMILAR_BY = Option(
    "null, the name of a column of the data (as data_source or extra_info.level), or a list of such names",
    lambda value: (
        value is None
        or _is_name(value)
        or (isinstance(value, list | tuple) and bool(value) and all(map(_is_name, value)))
    ),
)
"""What ``exploration.success_rate.similar_by`` accepts."""


class SimilarColumnsError(ValueError):
    """Columns by which prompts cannot be compared; the message names the column."""


def labels_of_batch(
    similar_by: str | Sequence[str] | None, batch: Mapping[str, Iterable[Any]]
) -> list[str | None] | None:
    """A text for each of a batch's M prompts that is the same for similar ones.

    Args:
        similar_by: ``exploration.success_rate.similar_by``; ``a.b`` is entry ``b`` of the dictionaries in column ``a``,
            unless there is a column of that name.
        batch: columns of M values.

    Returns:
        M labels, None for a prompt of which a value is missing; None alone where nothing is compared.

    Raises:
        SimilarColumnsError: the batch has no such column, or a value is neither text, number nor missing.

    >>> labels_of_batch(["data_source", "extra_info.level"], {"data_source": ["math"], "extra_info": [{"level": 3}]})
    ['{"data_source": "math", "extra_info.level": 3}']
    """
    if similar_by is None:
        return None
    names = _names(similar_by)
    columns = [_column(name, batch) for name in names]
    return [
        None if None in values else json.dumps(dict(zip(names, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]


def check_similar_columns(similar_by: str | Sequence[str] | None, files: Iterable[Path], prompt_key: str) -> None:
    """Refuse columns that parquet files of training data do not have, or by which prompts cannot be compared.

    Needs pyarrow.

    Args:
        similar_by: ``exploration.success_rate.similar_by``.
        files: those that are here.
        prompt_key: their column of messages, which says nothing of other prompts.

    Raises:
        SimilarColumnsError: naming the file, and what it has.
        OSError, pyarrow.ArrowException: a file cannot be read.
    """
    if similar_by is None:
        return
    import pyarrow.parquet

    for file in files:
        schema = pyarrow.parquet.read_schema(file)
        for name in _names(similar_by):
            _check_column(name, schema, file, prompt_key)


def _names(similar_by: str | Sequence[str]) -> tuple[str, ...]:
    return (similar_by,) if isinstance(similar_by, str) else tuple(similar_by)


def _column(name: str, batch: Mapping[str, Iterable[Any]]) -> list[Any]:
    where = f"exploration.success_rate.similar_by={name}"
    if name in batch.keys():
        return [_plain(value, where) for value in batch[name]]
    column, _, entry = name.partition(".")
    if column not in batch.keys():
        raise SimilarColumnsError(f"{where}: the rows have no column {column!r} but {', '.join(batch.keys())}")
    rows = list(batch[column])
    if not all(row is None or isinstance(row, Mapping) for row in rows):
        raise SimilarColumnsError(f"{where}: column {column!r} holds no dictionaries, so it has no entry {entry!r}")
    return [None if row is None else _plain(row.get(entry), where) for row in rows]


def _plain(value: Any, where: str) -> str | int | float | None:
    """Text, or a number that is written in one way only; None where it is missing."""
    if value is None or isinstance(value, str):
        return value if value is None else str(value)
    if isinstance(value, Integral | np.bool_):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if number != number:
            return None
        return int(number) if number.is_integer() else number
    raise SimilarColumnsError(f"{where} holds {value!r}: expected text or a number, by which prompts can be compared")


def _check_column(name: str, schema: Any, file: Path, prompt_key: str) -> None:
    import pyarrow

    column, _, entry = (name, "", "") if name in schema.names else name.partition(".")
    if column not in schema.names:
        raise SimilarColumnsError(f"{file} has no column {column!r} but {', '.join(schema.names)}")
    if column == prompt_key:
        raise SimilarColumnsError(f"column {column!r} holds the prompts themselves: name what prompts have in common")
    kind = schema.field(column).type
    entries = {field.name: field.type for field in kind} if pyarrow.types.is_struct(kind) else {}
    if entry and entry not in entries:
        has = f"entries {', '.join(entries)}" if entries else "no entries"
        raise SimilarColumnsError(f"{file} has no {name!r}: column {column!r} has {has}")
    if not entry and entries:
        example = f"{column}.{next(iter(entries))}"
        raise SimilarColumnsError(f"{file} has dictionaries in column {column!r}: name an entry, as {example}")
    kind = entries.get(entry, kind)
    kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    kinds = ("is_string", "is_large_string", "is_integer", "is_floating", "is_boolean")
    if not any(getattr(pyarrow.types, is_kind)(kind) for is_kind in kinds):
        raise SimilarColumnsError(f"{file} holds {kind} in {name!r}: expected text or numbers to compare prompts by")
