"""What prompts that were seen tell of those that were not: the mean success rate of prompts alike in some columns.

Data sets say where a prompt comes from (``data_source``) and often how hard it is (``extra_info.level``). Prompts with
the same values are similar, and their mean is a first estimate for one that was never sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.options import Option

__all__ = ["SIMILAR_BY", "SimilarPrompts", "SimilarPromptsError", "check_columns", "labels_of_batch"]

_NO_LABEL = ""
_STATE = "similar"


def _is_column(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


SIMILAR_BY = Option(
    "null, the name of a column of the data (as data_source or extra_info.level), or a list of such names",
    lambda value: (
        value is None
        or _is_column(value)
        or (isinstance(value, list | tuple) and bool(value) and all(map(_is_column, value)))
    ),
)
"""What ``exploration.success_rate.similar_by`` accepts."""


class SimilarPromptsError(ValueError):
    """Columns by which prompts cannot be compared; the message names the column."""


def columns_of(similar_by: str | Sequence[str]) -> tuple[str, ...]:
    """The columns that ``exploration.success_rate.similar_by`` names."""
    return (similar_by,) if isinstance(similar_by, str) else tuple(similar_by)


def labels_of_batch(similar_by: str | Sequence[str] | None, batch: Mapping[str, Iterable[Any]]) -> list[str] | None:
    """A text for each of a batch's M prompts that is the same for similar ones; None where nothing is compared.

    Args:
        similar_by: ``exploration.success_rate.similar_by``; ``a.b`` is entry ``b`` of the dictionaries in column ``a``.
        batch: columns of M values.

    Raises:
        SimilarPromptsError: the batch has no such column, or a value is neither text, number nor missing.

    >>> labels_of_batch(["data_source", "extra_info.level"], {"data_source": ["math"], "extra_info": [{"level": 3}]})
    ['["math", 3]']
    """
    if similar_by is None:
        return None
    columns = [_column(name, batch) for name in columns_of(similar_by)]
    return [json.dumps(values) for values in zip(*columns, strict=True)]


def _column(name: str, batch: Mapping[str, Iterable[Any]]) -> list[Any]:
    column, _, entry = name.partition(".")
    where = f"exploration.success_rate.similar_by={name}"
    if column not in batch.keys():
        raise SimilarPromptsError(f"{where}: the rows have no column {column!r} but {', '.join(batch.keys())}")
    values = list(batch[column])
    if entry:
        if not all(value is None or isinstance(value, Mapping) for value in values):
            raise SimilarPromptsError(f"{where}: column {column!r} holds no dictionaries, so it has no entry {entry!r}")
        values = [None if value is None else value.get(entry) for value in values]
    return [_plain(value, where) for value in values]


def _plain(value: Any, where: str) -> str | int | float | None:
    if value is None or (isinstance(value, Real) and value != value):
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral | np.bool_):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise SimilarPromptsError(f"{where} holds {value!r}: expected text or a number, by which prompts can be compared")


def check_columns(similar_by: str | Sequence[str] | None, files: Iterable[Path]) -> None:
    """Refuse columns that parquet files of training data do not have. Needs pyarrow.

    Raises:
        SimilarPromptsError: naming the file and what it has.
    """
    if similar_by is None:
        return
    import pyarrow
    import pyarrow.parquet

    for file in files:
        schema = pyarrow.parquet.read_schema(file)
        for name in columns_of(similar_by):
            column, _, entry = name.partition(".")
            if column not in schema.names:
                raise SimilarPromptsError(f"{file} has no column {column!r} but {', '.join(schema.names)}")
            kind = schema.field(column).type
            entries = [field.name for field in kind] if pyarrow.types.is_struct(kind) else []
            if entry and entry not in entries:
                has = f"entries {', '.join(entries)}" if entries else "no entries"
                raise SimilarPromptsError(f"{file} has no {name!r}: column {column!r} has {has}")
            if not entry and entries:
                example = f"{column}.{entries[0]}"
                raise SimilarPromptsError(f"{file} has dictionaries in column {column!r}: name an entry, as {example}")


class SimilarPrompts:
    """Labels of prompts; those with the same label are similar.

    >>> similar = SimilarPrompts()
    >>> similar.add(["a", "b", "new"], ["easy", "hard", "easy"])
    >>> similar.means(["new"], ["a", "b"], np.array([1.0, 0.0]), common_mean=0.5)
    array([0.75])
    """

    def __init__(self) -> None:
        self._label_of: dict[str, str] = {}

    @classmethod
    def from_state(cls, prompt_ids: Iterable[str], state: Mapping[str, Any]) -> SimilarPrompts:
        """What `state_dict` held of these prompts; no labels where it held none."""
        similar = cls()
        if _STATE in state:
            labels = [label.decode() for label in np.asarray(state[_STATE]).tolist()]
            similar.add(prompt_ids, labels)
        return similar

    def state_dict(self, prompt_ids: Iterable[str]) -> dict[str, Array]:
        """The labels of these prompts, in their order, as bytes; empty where no prompt has a label."""
        if not self:
            return {}
        return {_STATE: np.array([label.encode() for label in self.labels(prompt_ids)], dtype=np.bytes_)}

    def __bool__(self) -> bool:
        return bool(self._label_of)

    def add(self, prompt_ids: Iterable[str], labels: Iterable[str]) -> None:
        """Label prompts; one that had a label gets the new one."""
        self._label_of.update(zip(prompt_ids, map(str, labels), strict=True))

    def labels(self, prompt_ids: Iterable[str]) -> list[str]:
        """The label of each prompt, "" where there is none."""
        return [self._label_of.get(identity, _NO_LABEL) for identity in prompt_ids]

    def means(self, prompt_ids: Sequence[str], seen: Iterable[str], rates: Array, common_mean: float) -> Array:
        """Mean success rate of the seen prompts that are similar to each prompt, and of one with the common mean.

        Args:
            prompt_ids: M ids.
            seen: S ids of prompts that were observed.
            rates: (S,) their success rates.
            common_mean: in (0, 1), to which a mean of few prompts is drawn.

        Returns:
            (M,) float64 in (0, 1); NaN for a prompt without a label or without a similar one that was seen.
        """
        code_of: dict[str, int] = {_NO_LABEL: 0}
        codes = np.array([code_of.setdefault(label, len(code_of)) for label in self.labels(seen)], dtype=np.int64)
        asked = np.array([code_of.get(label, 0) for label in self.labels(prompt_ids)], dtype=np.int64)
        counts = np.bincount(codes, minlength=len(code_of))
        sums = np.bincount(codes, weights=rates, minlength=len(code_of))
        means = np.where(counts > 0, (sums + common_mean) / (counts + 1), np.nan)
        means[0] = np.nan
        return means[asked]
