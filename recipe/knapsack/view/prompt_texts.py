"""Messages, ground truths and data sources of prompts, read from the parquet files that a run was trained on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from knapsack_rl.identity import prompt_id
from recipe.knapsack.view.prompt_record import words_of
from recipe.knapsack.view.run_files import RunFiles, version_of
from recipe.knapsack.view.run_index import Progress, RunIndex

__all__ = ["PromptTexts"]

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 4096
_MEDIA_KEYS = ("images", "videos")


class PromptTexts:
    """Adds the texts of prompts to an index, and remembers where their rows lie.

    Attributes:
        files: the files that were read; ``data_rows.file`` of the index counts through them.
        versions: size in bytes and time of change in nanoseconds of each of them when it was read.
        whole: resolved paths of those that were read to their end.
    """

    def __init__(self, index: RunIndex) -> None:
        self._index = index
        self.files: list[Path] = []
        self.versions: list[tuple[int, int]] = []
        self.whole: set[Path] = set()
        self._tried: set[Path] = set()

    def update(self, progress: Progress | None = None) -> None:
        """Read the files that were not read yet; what is missing or unreadable becomes a problem of its runs."""
        for run in self._index.runs:
            if not run.prompt_files:
                run.problems["data"] = "Texts of prompts are not shown: the configuration names no data.train_files."
                continue
            run.problems.pop("data", None)
            for path in run.prompt_files:
                if path.resolve() in self._tried:
                    continue
                try:
                    self._add(path, run, progress)
                    self.whole.add(path.resolve())
                except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
                    run.problems[f"data {path}"] = (
                        f"Prompts of {path} are shown without their texts, for the file cannot be read "
                        f"({type(error).__name__}: {error}); --data FILE names another place."
                    )
                self._tried.add(path.resolve())

    def _add(self, path: Path, run: RunFiles, progress: Progress | None) -> None:
        version = version_of(path)
        parquet = pq.ParquetFile(path)
        number = len(self.files)
        self.files.append(path)
        self.versions.append(version)
        row = 0
        known: dict[Any, int] = {}
        for batch in self._batches(parquet, run):
            with self._index.writing(), self._index.connect() as database:
                row = self._add_batch(database, batch, number, row, known)
            if progress is not None:
                progress(f"prompts of {path.name}", row, parquet.metadata.num_rows)

    def _batches(self, parquet: pq.ParquetFile, run: RunFiles) -> Iterator[list[dict[str, Any]]]:
        key = run.setting("data.prompt_key") or "prompt"
        wanted = [key, "data_source", "reward_model", *_media_keys(run)]
        present = [name for name in wanted if name in parquet.schema_arrow.names]
        if key not in present:
            raise KeyError(f"there is no column {key}")
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=present):
            yield [
                {
                    "prompt": row[key],
                    # As the trainer makes ids: a missing column is an empty name, a missing value is called None.
                    "data_source": str(row["data_source"]) if "data_source" in row else "",
                    "ground_truth": _ground_truth(row),
                    "has_media": any(row.get(name) for name in _media_keys(run)),
                }
                for row in batch.to_pylist()
            ]

    def _add_batch(
        self, database: Any, rows: list[dict[str, Any]], file: int, first_row: int, known: dict[Any, int]
    ) -> int:
        keys = [_content_key(row) for row in rows]
        fresh = {key: row for key, row in zip(keys, rows, strict=True) if key not in known and not row["has_media"]}
        ids = {key: prompt_id(row["data_source"], row["prompt"]) for key, row in fresh.items()}
        numbers = self._index.numbers(database, ids.values())
        known.update({key: numbers[one] for key, one in ids.items()})
        database.executemany(
            "UPDATE prompts SET data_source = ?, messages = ?, words = ?, ground_truth = ? WHERE number = ?",
            (
                (row["data_source"], key[1], words_of(key[1]), row["ground_truth"], known[key])
                for key, row in fresh.items()
            ),
        )
        database.executemany(
            "INSERT INTO data_rows VALUES (?, ?, ?)",
            ((file, first_row + place, known[key]) for place, key in enumerate(keys) if key in known),
        )
        return first_row + len(rows)


def _media_keys(run: RunFiles) -> list[str]:
    configured = (run.setting("data.image_key"), run.setting("data.video_key"))
    return [name or default for name, default in zip(configured, _MEDIA_KEYS, strict=True)]


def _content_key(row: Mapping[str, Any]) -> tuple[str, str]:
    """What tells prompts apart, cheaper than their ids: data sets may hold a prompt a hundred times."""
    return row["data_source"], json.dumps(row["prompt"])


def _ground_truth(row: Mapping[str, Any]) -> str | None:
    model = row.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, Mapping) else None
    return truth if truth is None or isinstance(truth, str) else json.dumps(truth, default=str)
