"""What the preprocessing scripts share: reading a data set from a file or the hub, verl's row schema, count checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

BOXED_INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}


class PreprocessingError(Exception):
    """Something that the user can put right; its message is one line."""


class HubError(PreprocessingError):
    """A data set that the hub does not give: no network, or no consent to its terms."""


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub and the numbers of rows it is known to have."""

    repository: str
    split: str
    counts: tuple[int, ...]
    config: str | None = None


def load_source(name: str, source: HubSource, path: Path | None) -> datasets.Dataset:
    """Read ``source`` from ``path``, a data file or a downloaded copy of the repository, or else from the hub.

    Raises:
        HubError: the hub cannot be reached or refuses access.
        PreprocessingError: the file cannot be read.
    """
    if path is None:
        return _load_from_hub(name, source)
    if not path.exists():
        raise PreprocessingError(f"{name}: {path} does not exist")
    try:
        if path.is_dir():
            return datasets.load_dataset(str(path), source.config, split=source.split)
        if path.suffix not in READERS:
            raise PreprocessingError(f"{name}: {path} is none of {', '.join(READERS)}")
        return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train")
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        raise PreprocessingError(f"{name}: cannot read {path}: {_one_line(error)}") from error


def _load_from_hub(name: str, source: HubSource) -> datasets.Dataset:
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return datasets.load_dataset(source.repository, source.config, split=source.split)
    except (OSError, datasets.exceptions.DatasetsError, ValueError) as error:
        raise HubError(
            f"{name}: cannot load {source.repository} from the Hugging Face hub ({_one_line(error)}). Without network, "
            f"download it elsewhere (huggingface-cli download --repo-type dataset {source.repository}) and pass it by "
            "--input; if it asks for consent, accept its terms on its page and log in by huggingface-cli login"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def check_count(name: str, found: int, expected: Sequence[int], allow_other_counts: bool) -> str:
    """Return a line about the count, or refuse a count that is not expected.

    Raises:
        PreprocessingError: ``found`` is not in ``expected`` and other counts are not allowed.
    """
    if found in expected:
        return f"{name}: {found:,} rows, as expected"
    message = f"{name}: {found:,} rows, expected {' or '.join(f'{count:,}' for count in expected)}"
    if not allow_other_counts:
        raise PreprocessingError(f"{message}; if that is intended, pass --allow-other-counts")
    return f"{message} (WARNING, allowed by --allow-other-counts)"


def value_of(row: Mapping[str, Any], name: str, columns: Sequence[str]) -> Any:
    """The value of the first of ``columns`` that ``row`` has.

    Raises:
        PreprocessingError: it has none of them, or nothing in it.
    """
    for column in columns:
        if column in row:
            if row[column] is None or row[column] == "" or row[column] == []:
                raise PreprocessingError(f"{name}: a row has nothing in the column {column!r}: {_one_line_row(row)}")
            return row[column]
    raise PreprocessingError(f"{name}: no column {' or '.join(map(repr, columns))} among {sorted(row)}")


def _one_line_row(row: Mapping[str, Any]) -> str:
    return " ".join(str(dict(row)).split())[:200]


def make_row(
    data_source: str, content: str, ground_truth: str, ability: str, index: int, split: str, source_id: str
) -> dict[str, Any]:
    """A row in verl's schema: one user message, a rule-based reward, and where the row comes from."""
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": content}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {"index": index, "split": split, "source_id": source_id},
    }


def write_parquet(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write ``rows`` to ``path``, making its folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(rows)).to_parquet(str(path))
