"""What the viewer reads of a run's folder besides its parts: settings, progress, and whether it still grows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from knapsack_rl.run_folder import CONFIG_FILE, HISTORY_FOLDER, METRICS_FILE, ROLLOUTS_FOLDER
from recipe.knapsack.report.run_names import shortest_names

__all__ = ["RunFiles", "ViewError", "distinct_names", "version_of"]

STILL_WRITTEN_SECONDS = 1800.0
"""A run whose files did not change for so long does not grow any more."""
_TAIL_BYTES = 2**20


class ViewError(ValueError):
    """What was asked for cannot be done; the message says what to change."""


@dataclass
class RunFiles:
    """The files of one run.

    Attributes:
        name: how pages call the run.
        folder: where it lies.
        data_files: parquet files with its prompts, in place of those that its configuration names.
        problems: sentences about what could not be read, by what they are about.
    """

    name: str
    folder: Path
    data_files: Sequence[Path] = ()
    problems: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ViewError(f"{self.folder} is not a folder: expected the folder of a run (trainer.default_local_dir)")
        if not any((self.folder / name).exists() for name in (METRICS_FILE, HISTORY_FOLDER, ROLLOUTS_FOLDER)):
            raise ViewError(
                f"{self.folder} is not the folder of a run: it holds neither {METRICS_FILE} nor {HISTORY_FOLDER}/; "
                "expected the value of trainer.default_local_dir"
            )
        self._config: Mapping[str, Any] = {}
        self._config_read: tuple[int, int] | None = None
        self._metrics: dict[str, Any] = {}
        self._metrics_read: tuple[int, int] | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The run's configuration, read again when it has changed: a run that resumes writes it anew."""
        path = self.folder / CONFIG_FILE
        try:
            version = version_of(path)
        except OSError:
            self.problems["config"] = f"There is no {CONFIG_FILE}: settings and data files are unknown."
            return self._config
        if version != self._config_read:
            self.problems.pop("config", None)
            self._config, self._config_read = self._read_config(path), version
        return self._config

    def _read_config(self, path: Path) -> Mapping[str, Any]:
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, OSError) as error:  # ValueError: no text, or a date that does not exist
            self.problems["config"] = f"{CONFIG_FILE} cannot be read ({' '.join(str(error).split())})."
            return {}
        if not isinstance(config, Mapping):
            self.problems["config"] = f"{CONFIG_FILE} holds no settings."
            return {}
        return config

    def setting(self, key: str) -> Any:
        """The value of the dotted ``key`` in the configuration; None if it is not there."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping):
                return None
            value = value.get(part)
        return value

    @property
    def exploration(self) -> Mapping[str, Any]:
        """The exploration section of the configuration; empty if unknown."""
        section = self.setting("exploration")
        return section if isinstance(section, Mapping) else {}

    @property
    def prompt_files(self) -> list[Path]:
        """The parquet files that hold the run's prompts, whether they are there or not."""
        if self.data_files:
            return list(self.data_files)
        named = self.setting("data.train_files") or []
        named = [named] if isinstance(named, str) else named
        names = named if isinstance(named, list) else []
        return [Path(os.path.expanduser(name)) for name in names if isinstance(name, str)]

    def last_metrics(self) -> dict[str, Any]:
        """What was logged last under each name, from the end of the metrics file; ``step`` is the last step."""
        path = self.folder / METRICS_FILE
        try:
            version = version_of(path)
            if version != self._metrics_read:
                self._metrics, self._metrics_read = self._read_last_metrics(path), version
        except OSError:
            self.problems["metrics"] = f"There is no {METRICS_FILE}: nothing that is measured per step is shown."
            return {}
        return self._metrics

    def _read_last_metrics(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(size - _TAIL_BYTES, 0))
            lines = file.read().split(b"\n")[:-1]  # what follows the last newline is still being written
        self.problems.pop("metrics", None)
        if size > _TAIL_BYTES:
            lines = lines[1:]
        metrics: dict[str, Any] = {}
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                self.problems["metrics"] = f"A line of {METRICS_FILE} is damaged and left out."
                continue
            if isinstance(record, Mapping):
                metrics.update({name: value for name, value in record.items() if value is not None})
        return metrics

    @property
    def last_written(self) -> float:
        """When one of the files last changed, in seconds since the epoch; 0 if there is none."""
        paths = [self.folder / name for name in (METRICS_FILE, HISTORY_FOLDER, ROLLOUTS_FOLDER)]
        return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)

    @property
    def is_growing(self) -> bool:
        """Whether something was written lately and the planned steps are not over."""
        planned, step = self.setting("trainer.total_training_steps"), self.last_metrics().get("step", 0)
        is_over = isinstance(planned, int) and isinstance(step, int) and step >= planned
        return not is_over and time.time() - self.last_written < STILL_WRITTEN_SECONDS


def version_of(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in nanoseconds, which tell whether a file has changed.

    Raises:
        OSError: it is not there.
    """
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The `shortest_names` of different runs.

    Raises:
        ViewError: a folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ViewError(f"a run is given twice: {', '.join(map(str, folders))}")
    return shortest_names(folders)
