"""Which checkpoints of a run are whole, and which of them are kept.

A checkpoint folder ``global_step_N`` counts as whole once it holds the marker that is written after everything else, or
once verl's tracker file names it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from knapsack_rl.run_folder import CHECKPOINT_PREFIX, COMPLETE_MARKER, TRACKER_FILE, write_atomically

logger = logging.getLogger(__name__)

MODEL_PARTS = ("actor", "critic")
"""Sub-folders of a checkpoint that hold weights."""

DATA_LOADER_FILE = "data.pt"
"""File of a checkpoint that holds verl's state of the data loader."""


class CheckpointError(RuntimeError):
    """A checkpoint that was asked for by name cannot be used; the message names the file and the fault."""


def is_checkpoint_name(name: str) -> bool:
    """Whether a folder of this name is a checkpoint.

    >>> is_checkpoint_name("global_step_40"), is_checkpoint_name("global_step_"), is_checkpoint_name("40")
    (True, False, False)
    """
    return name.startswith(CHECKPOINT_PREFIX) and name.removeprefix(CHECKPOINT_PREFIX).isdecimal()


def step_of(folder: Path) -> int:
    """Return N of a folder named ``global_step_N``."""
    return int(folder.name.removeprefix(CHECKPOINT_PREFIX))


def mark_complete(folder: Path) -> None:
    """Declare the checkpoint in ``folder`` whole."""
    write_atomically(folder / COMPLETE_MARKER, "")


def mark_incomplete(folder: Path) -> None:
    """Declare that the checkpoint in ``folder`` is not whole, before anything in it is written or removed."""
    (folder / COMPLETE_MARKER).unlink(missing_ok=True)
    if _tracked_step(folder.parent) == step_of(folder):
        (folder.parent / TRACKER_FILE).unlink()


def _tracked_step(run_folder: Path) -> int | None:
    tracker = run_folder / TRACKER_FILE
    try:
        return int(tracker.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _checkpoint_folders(run_folder: Path) -> list[Path]:
    return [folder for folder in run_folder.glob(f"{CHECKPOINT_PREFIX}*") if is_checkpoint_name(folder.name)]


def whole_checkpoints(run_folder: Path) -> list[Path]:
    """Return the folders of the whole checkpoints below ``run_folder``, the latest first."""
    tracked = _tracked_step(run_folder)
    whole = [
        folder
        for folder in _checkpoint_folders(run_folder)
        if (folder / "actor").is_dir() and ((folder / COMPLETE_MARKER).exists() or step_of(folder) == tracked)
    ]
    return sorted(whole, key=step_of, reverse=True)


def latest_usable_checkpoint(run_folder: Path, problem: Callable[[Path, int], str | None]) -> Path | None:
    """Return the latest whole checkpoint in which ``problem`` finds none; each rejected one is logged with its fault.

    Args:
        run_folder: where the ``global_step_N`` folders are.
        problem: called with a checkpoint's folder and the step of the checkpoint before it (0 if there is none);
            returns what is wrong with it, or None.

    Returns:
        None if there is no whole checkpoint.

    Raises:
        CheckpointError: there are checkpoints, and none of them is usable. Starting over would overwrite them.
    """
    candidates = whole_checkpoints(run_folder)
    if not candidates:
        return None
    previous_steps = [step_of(folder) for folder in candidates[1:]] + [0]
    for folder, previous_step in zip(candidates, previous_steps, strict=True):
        fault = problem(folder, previous_step)
        if fault is None:
            return folder
        logger.warning("Checkpoint %s is not usable: %s. Falling back to the one before it.", folder, fault)
    raise CheckpointError(
        f"None of the {len(candidates)} checkpoints in {run_folder} is usable; set trainer.resume_mode=disable to "
        "train from the start, or another trainer.default_local_dir."
    )


def remove_superseded(run_folder: Path, step: int, checkpoints_to_keep: Mapping[str, int | None]) -> None:
    """Remove the weights of old checkpoints; call it when the checkpoint of ``step`` is whole.

    Args:
        run_folder: where the ``global_step_N`` folders are.
        step: checkpoints of later steps, left by a run that was resumed before them, are neither counted nor removed.
        checkpoints_to_keep: for each of ``MODEL_PARTS``, how many checkpoints keep it; None, 0 and -1 = all.

    Raises:
        ValueError: a number to keep is none of these and not a positive integer. Nothing is removed then.
    """
    for part, keep in checkpoints_to_keep.items():
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < -1):
            raise ValueError(f"max_{part}_ckpt_to_keep={keep!r} is not accepted: expected null, -1, 0 or more")
    whole = [folder for folder in whole_checkpoints(run_folder) if step_of(folder) <= step]
    for part, keep in checkpoints_to_keep.items():
        if keep is None or keep < 1:
            continue
        for folder in _superseded(run_folder, whole, part, keep):
            if part == "actor":
                mark_incomplete(folder)
            shutil.rmtree(folder / part)


def _superseded(run_folder: Path, whole: list[Path], part: str, keep: int) -> list[Path]:
    """Folders whose ``part`` is older than that of the ``keep`` newest checkpoints that are, or once were, whole."""
    if not whole:
        return []
    with_part = [folder for folder in _checkpoint_folders(run_folder) if (folder / part).is_dir()]
    # A checkpoint whose actor was removed was whole; one that has its actor and no marker was never finished.
    counted = [folder for folder in with_part if folder in whole or not (folder / "actor").is_dir()]
    kept = sorted((step_of(folder) for folder in counted if step_of(folder) <= step_of(whole[0])), reverse=True)[:keep]
    if len(kept) < keep:
        return []
    return [folder for folder in with_part if step_of(folder) < kept[-1]]
