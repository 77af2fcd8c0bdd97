"""Metrics of a run as a file of JSON lines in the run's folder, for the reports that read runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl.options import is_number
from knapsack_rl.run_folder import METRICS_FILE, write_atomically


def read_metrics(folder: str | Path, *, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """Return the metrics of every logged step of the run in ``folder``, in order; key ``step`` is the training step.

    A last line that a crash left half-written, or that is being written right now, is skipped.

    Args:
        folder: of the run.
        skip_damaged: leave out lines that are no JSON object with a number ``step``, instead of raising.

    Raises:
        FileNotFoundError: the folder holds no metrics.
        ValueError: a line is damaged; names the line.
    """
    return [record for record, _ in _complete_lines(Path(folder) / METRICS_FILE, skip_damaged)]


def _complete_lines(path: Path, skip_damaged: bool = False) -> Iterator[tuple[dict[str, Any], str]]:
    with path.open(encoding="utf-8", errors="replace" if skip_damaged else "strict") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return  # what a run that goes on writes next would be read as a line of its own
            try:
                record = _record(line, number)
            except ValueError:
                if not skip_damaged:
                    raise
                continue
            yield record, line


def _record(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number} is no JSON: {error}") from error
    if not isinstance(record, dict) or not is_number(record.get("step")):
        raise ValueError(f"line {number} is {line.strip()[:60]!r}: expected an object with a number 'step'")
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsFile:
    """Appends one JSON line per logged step to ``metrics.jsonl``; what is not a finite number becomes null."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / METRICS_FILE

    def truncate_after(self, step: float) -> None:
        """Forget the steps after ``step``, which a resumed run repeats, and a last line that is half-written."""
        if not self.path.exists():
            return
        kept = [line for record, line in _complete_lines(self.path) if record["step"] <= step]
        write_atomically(self.path, "".join(kept))

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Append the metrics ``data`` of training step ``step``."""
        record = {"step": step, **{key: _plain(value) for key, value in data.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as lines:
            lines.write(json.dumps(record).encode() + b"\n")
