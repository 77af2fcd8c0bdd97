"""The folder of a run: what its files are called, and how a file is written so that it is there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = [
    "CHECKPOINT_PREFIX",
    "COMPLETE_MARKER",
    "CONFIG_FILE",
    "HISTORY_FOLDER",
    "METRICS_FILE",
    "ROLLOUTS_FOLDER",
    "STATUS_FILE",
    "TRACKER_FILE",
    "TRAINER_STATE_FILE",
    "WANDB_RUN_FILE",
    "read_json",
    "sync_folder",
    "wandb_run_to_continue",
    "write_atomically",
]

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
HISTORY_FOLDER = "history"
ROLLOUTS_FOLDER = "rollouts"
WANDB_RUN_FILE = "wandb_run.txt"
"""Id of the wandb run that a resumed run continues."""
CHECKPOINT_PREFIX = "global_step_"
TRACKER_FILE = "latest_checkpointed_iteration.txt"
"""verl's own note of its latest checkpoint."""
STATUS_FILE = "task_status.npz"
"""In a checkpoint: the task status."""
TRAINER_STATE_FILE = "trainer_state.json"
"""In a checkpoint: epoch and counters."""
COMPLETE_MARKER = "complete"
"""In a checkpoint: written after everything else."""


def write_atomically(path: Path, content: str | bytes, *, temporary_name: str | None = None) -> None:
    """Write ``content`` to ``path`` so that a crash or a power cut leaves the old content or the new one, whole.

    Args:
        path: the file.
        content: text is encoded as UTF-8.
        temporary_name: of the file beside it that is written first; for files whose names never recur, so that the
            next one takes the place of what a crash left.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "note", "whole")
    ...     (Path(folder) / "note").read_text()
    'whole'
    """
    temporary = path.with_name(
        temporary_name or f".{path.name}.tmp"
    )  # readers of parquet folders skip names that begin with a dot
    with temporary.open("wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force renamed and removed entries to disk; without this a power cut may undo them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in the JSON file ``path``.

    Raises:
        ValueError: the file is not a JSON object; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, got {type(content).__name__}")
    return content


def wandb_run_to_continue(run_file: Path) -> dict[str, str]:
    """wandb's environment variables that have it continue the run whose id is kept in a file.

    Empty where there is no such file, and where the environment names a run itself.
    """
    if "WANDB_RUN_ID" in os.environ or not run_file.exists():
        return {}
    return {"WANDB_RUN_ID": run_file.read_text(encoding="utf-8").strip(), "WANDB_RESUME": "allow"}
