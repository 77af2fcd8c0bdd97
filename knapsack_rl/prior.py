"""Success rates that are known before training: pass rates that data sets ship, or what another model was measured at.

They stand in a column of the training data, or in a file with a row for each prompt whose rate is known:

    prompt_id,success_rate                      the ids of `knapsack_rl.prompt_id`
    data_source,prompt,success_rate             or the content that they are made of

The prompt is a list of messages, its JSON text, or plain text, which is taken for one message of the user. Files are
``.parquet`` or ``.csv``; `recipe.knapsack.evaluate` writes one. Needs pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.identity import prompt_id
from knapsack_rl.messages import one_line
from knapsack_rl.options import Option

__all__ = [
    "PRIOR",
    "PriorError",
    "by_prompt",
    "checked_rates",
    "is_prior_file",
    "prior_of_column",
    "prior_of_file",
    "read_prior",
    "refuse_unknown",
]

RATE = "success_rate"
_TEXT_COLUMNS = ("prompt_id", "data_source", "prompt")

PRIOR = Option(
    "null, the name of a column of the data, or the path of a .parquet or .csv file",
    lambda value: value is None or (isinstance(value, str) and bool(value)),
)
"""What ``exploration.success_rate.prior`` accepts."""


class PriorError(ValueError):
    """Prior success rates that cannot be used; the message names the first row that is wrong."""


def is_prior_file(prior: str) -> bool:
    """Whether a prior is a file, not a column."""
    return Path(prior).suffix in (".parquet", ".csv")


def read_prior(path: Path) -> dict[str, float]:
    """The success rate of each prompt of a file, by prompt id.

    Raises:
        FileNotFoundError: there is no such file.
        PriorError: it cannot be read, lacks a column, names a prompt twice, or holds something that is no success rate.
    """
    table = _read_table(path)
    if table.column_names.count(RATE) != 1:
        lacks = "no column" if RATE not in table.column_names else "several columns"
        raise PriorError(f"{path} has {lacks} {RATE!r} but {', '.join(table.column_names)}")
    for name in ("prompt_id", "data_source", "prompt"):
        if table.column_names.count(name) > 1:
            raise PriorError(f"{path} has several columns {name!r}: keep one of them")
    if len(table) == 0:
        raise PriorError(f"{path} holds no row: give the rates, or set exploration.success_rate.prior=null")
    rates = checked_rates(table[RATE].to_pylist(), f"{path}, column {RATE!r},")
    if "prompt_id" in table.column_names:
        ids = table["prompt_id"].to_pylist()
        if not all(isinstance(identity, str) for identity in ids):
            raise PriorError(f"{path}, column 'prompt_id', holds something that is no text")
    elif {"data_source", "prompt"} <= set(table.column_names):
        sources, prompts = table["data_source"].to_pylist(), table["prompt"].to_pylist()
        try:
            ids = [prompt_id(str(source), _messages(prompt)) for source, prompt in zip(sources, prompts, strict=True)]
        except TypeError as error:
            raise PriorError(f"{path}, column 'prompt', holds something that is no prompt: {error}") from error
    else:
        raise PriorError(f"{path} says whose the rates are in no column: expected prompt_id, or data_source and prompt")
    by_id = dict(zip(ids, rates.tolist(), strict=True))
    if len(by_id) < len(ids):
        first_row: dict[str, int] = {}
        for row, identity in enumerate(ids):
            if first_row.setdefault(identity, row) != row:
                raise PriorError(
                    f"{path} has prompt {identity} in row {first_row[identity]} and in row {row} "
                    f"({len(ids) - len(by_id)} rows repeat a prompt): keep one row for each"
                )
    return by_id


def prior_of_file(prior: str | None) -> dict[str, float] | None:
    """The rates by prompt id, where ``exploration.success_rate.prior`` names a file; else None.

    Raises:
        FileNotFoundError, PriorError: as `read_prior`.
    """
    if prior is None or not is_prior_file(prior):
        return None
    return read_prior(Path(prior).expanduser())


def prior_of_column(prior: str | None, batch: Mapping[str, Iterable[Any]]) -> Array | None:
    """(M,) rates of a batch's prompts, where ``exploration.success_rate.prior`` names a column of it; else None.

    Raises:
        PriorError: the batch has no such column, or it holds something that is no success rate.

    >>> prior_of_column("pass_rate", {"pass_rate": [0.25, 1.0]}).tolist()
    [0.25, 1.0]
    """
    if prior is None or is_prior_file(prior):
        return None
    key = f"exploration.success_rate.prior={prior}"
    if prior not in batch.keys():
        raise PriorError(f"{key}: the data set's rows have no such column but {', '.join(batch.keys())}")
    return checked_rates(batch[prior], f"{key}: the batch")


def checked_rates(values: Iterable[Any], where: str) -> Array:
    """(K,) float64 in [0, 1].

    Raises:
        PriorError: a value is missing, no number, or outside [0, 1]; begins with ``where``.
    """
    rates = []
    for row, value in enumerate(values):
        if not _is_rate(value):
            raise PriorError(
                f"{where} holds {value!r} in row {row}: expected a success rate between 0 and 1. Leave rows whose rate "
                "is unknown out of a prior file"
            )
        rates.append(float(value))
    return np.array(rates, dtype=np.float64)


def _is_rate(value: Any) -> bool:
    return isinstance(value, Real | Decimal) and not isinstance(value, bool | np.bool_) and 0.0 <= float(value) <= 1.0


def by_prompt(ids: Iterable[str], rates: Array, where: str) -> dict[str, float]:
    """Rates by prompt id, of rows that may repeat a prompt.

    Raises:
        PriorError: rows of the same prompt have different rates; begins with ``where``.
    """
    known: dict[str, float] = {}
    for row, (identity, rate) in enumerate(zip(ids, rates.tolist(), strict=True)):
        if known.setdefault(identity, rate) != rate:
            raise PriorError(
                f"{where} holds {rate} in row {row} for a prompt that an earlier row gives {known[identity]}"
            )
    return known


def refuse_unknown(prior: dict[str, float], known_ids: set[str], where: str) -> None:
    """Refuse a prior with prompts that the training data do not have.

    Raises:
        PriorError: begins with ``where``.
    """
    unknown = [identity for identity in prior if identity not in known_ids]
    if unknown:
        raise PriorError(
            f"{where} has {len(unknown)} of {len(prior)} prompts that are not in the training data, the first of them "
            f"{unknown[0]}: a prompt is known by its data source and messages. Remove these rows, or give the data "
            "that they belong to"
        )


def _read_table(path: Path) -> Any:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix == ".parquet":
            return pyarrow.parquet.read_table(path)
        types = {name: pyarrow.string() for name in _TEXT_COLUMNS} | {RATE: pyarrow.float64()}
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        one_block = pyarrow.csv.ReadOptions(block_size=max(1 << 20, path.stat().st_size + 1))  # a row may be long
        return pyarrow.csv.read_csv(
            path,
            read_options=one_block,
            parse_options=parse,
            convert_options=pyarrow.csv.ConvertOptions(column_types=types),
        )
    except (pyarrow.ArrowException, OSError) as error:
        raise PriorError(f"{path} cannot be read: {one_line(error)}") from error


def _messages(prompt: Any) -> Any:
    if not isinstance(prompt, str):
        return prompt
    try:
        parsed = json.loads(prompt)
    except (ValueError, RecursionError):
        parsed = None
    is_messages = isinstance(parsed, list) and bool(parsed) and all(isinstance(message, dict) for message in parsed)
    return parsed if is_messages else [{"role": "user", "content": prompt}]
