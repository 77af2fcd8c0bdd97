"""How a task status is kept: one ``.npz`` file that is whole or as it was before, with a checksum, nothing pickled."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.run_folder import write_atomically
from knapsack_rl.similar_prompts import SimilarPrompts
from knapsack_rl.status_records import upgraded_records

__all__ = ["TaskStatusError", "checked_contents", "read_status", "write_status"]

_FORMAT = "knapsack-rl task status"
_FORMAT_VERSION = 2
_READ_VERSIONS = ("1", "2")


class TaskStatusError(ValueError):
    """A saved task status is damaged, incomplete, or not a task status at all."""


def write_status(path: Path, state: Mapping[str, Any]) -> None:
    """Write the ``state_dict`` of a task status to ``path``; the same state always gives the same bytes."""
    content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **state}
    arrays = {name: np.asarray(value) for name, value in content.items()}
    arrays["checksum"] = np.asarray(_checksum(arrays))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getvalue())


def read_status(path: Path) -> dict[str, Array]:
    """The verified content of a saved status.

    Raises:
        FileNotFoundError: there is no such file.
        TaskStatusError: the file is truncated, damaged, of a newer format, or not a task status; names the path.
    """
    content = io.BytesIO(path.read_bytes())
    unreadable = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
    try:
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise TaskStatusError(f"its part {damaged} fails its own check")
        content.seek(0)
        with np.load(content, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except unreadable as error:
        raise TaskStatusError(f"{path} cannot be read as a task status, it is truncated or damaged: {error}") from error
    if str(arrays.get("format")) != _FORMAT:
        raise TaskStatusError(f"{path} is not a task status: it holds {sorted(arrays) or 'nothing'}")
    version = str(arrays.get("format_version"))
    if version not in _READ_VERSIONS:
        raise TaskStatusError(
            f"{path} has format version {version}, this program reads versions {' and '.join(_READ_VERSIONS)}"
        )
    stored = str(arrays.pop("checksum", "none"))
    computed = _checksum(arrays)
    if stored != computed:
        raise TaskStatusError(f"{path} is damaged: its checksum is {stored}, its content gives {computed}")
    return arrays


def checked_contents(state: Mapping[str, Any]) -> tuple[dict[str, int], Array, SimilarPrompts]:
    """The state's row per prompt id, its records in the layout of today, and its labels, which were checked.

    Raises:
        TaskStatusError: an entry is missing or inconsistent.
    """
    if not isinstance(state, Mapping):
        raise TaskStatusError(f"the task status is a {type(state).__name__}: expected what state_dict gave")
    missing = [name for name in ("estimator", "epoch", "step", "prompt_ids", "records") if name not in state]
    if missing:
        raise TaskStatusError(f"the task status lacks {', '.join(missing)}")
    for name in ("epoch", "step"):
        _refuse_other_than_count(state[name], name)
    identities, saved = np.asarray(state["prompt_ids"]), np.asarray(state["records"])
    records = upgraded_records(saved, int(state["step"]))
    if records is None:
        raise TaskStatusError(f"the task status has records of an unknown layout: {saved.dtype}")
    if identities.shape != records.shape:
        raise TaskStatusError(f"the task status has {identities.size} prompt ids for {len(records)} records")
    if len(identities) and identities.dtype.kind != "S":
        raise TaskStatusError(f"the task status has prompt ids of type {identities.dtype}: expected bytes")
    row_of = {identity.decode(): row for row, identity in enumerate(identities.tolist(), start=1)}
    if len(row_of) != len(records):
        raise TaskStatusError(f"the task status holds {len(records) - len(row_of)} prompt ids more than once")
    try:
        return row_of, records, SimilarPrompts.from_state(state)
    except ValueError as error:
        raise TaskStatusError(f"the task status cannot be used: {error}") from error


def _refuse_other_than_count(value: Any, name: str) -> None:
    number = np.asarray(value)
    if number.shape != () or number.dtype.kind not in "iu" or number < -1:
        raise TaskStatusError(f"the task status has {name}={value!r}: expected an integer, -1 before the first")


def _checksum(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.descr}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
