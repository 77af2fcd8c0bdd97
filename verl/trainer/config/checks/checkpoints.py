"""What can be read of a checkpoint without loading its weights: nothing in it is executed."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from verl.trainer.config.checks.reading import run_folder
from verl.utils.checkpoint_state import DATA_LOADER_FILE, is_checkpoint_name, step_of, whole_checkpoints

_FILE_OF_PART = {"model": "model", "optimizer": "optim", "extra": "extra_state"}
_SHARD = re.compile(r"(model|optim|extra_state)_world_size_(\d+)_rank_\d+\.pt")


@dataclass(frozen=True)
class LoaderState:
    """Where the data loader stood.

    Attributes:
        num_workers: its processes.
        shuffles: whether its sampler drew the prompts in random order.
        prompts_read: prompts handed out in the epoch.
    """

    num_workers: int
    shuffles: bool
    prompts_read: int


def checkpoint_to_resume(config: DictConfig) -> Path | None:
    """Return the folder of the checkpoint that the run would resume from, if it is here.

    A latest checkpoint that turns out to be damaged is skipped by the trainer; that is not looked for here.
    """
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_mode == "resume_path":
        folder = Path(str(trainer.resume_from_path)).absolute()
        return folder if is_checkpoint_name(folder.name) and (folder / "actor").is_dir() else None
    folder = run_folder(config)
    whole = whole_checkpoints(folder) if folder.is_dir() else []
    return whole[0] if whole else None


def saved_parts(folder: Path) -> set[str]:
    """Return which of model, optimizer and extra a checkpoint's ``actor`` or ``critic`` folder holds (FSDP)."""
    saved = {match.group(1) for match in map(_SHARD.fullmatch, _names(folder)) if match}
    return {part for part, file in _FILE_OF_PART.items() if file in saved}


def saved_by_workers(folder: Path) -> int | None:
    """Return how many workers wrote a checkpoint's ``actor`` or ``critic`` folder; None if that cannot be told."""
    workers = {int(match.group(2)) for match in map(_SHARD.fullmatch, _names(folder)) if match}
    return workers.pop() if len(workers) == 1 else None


def _names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()] if folder.is_dir() else []


def read_json_if_there(file: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file; empty if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def loader_state(checkpoint: Path) -> LoaderState | None:
    """Return the state of the data loader; None if it is not there, or holds objects of a user's own data set."""
    try:
        state = torch.load(checkpoint / DATA_LOADER_FILE, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return None
    try:
        snapshot = state["_snapshot"]["_main_snapshot"] if "_snapshot" in state else state
        sampler = snapshot["_sampler_iter_state"]
        return LoaderState(
            num_workers=snapshot.get("_num_workers", 0),
            shuffles="sampler_iter_state" in sampler,
            prompts_read=sampler["samples_yielded"],
        )
    except (KeyError, TypeError):
        return None  # of a sampler of the user's own


__all__ = [
    "LoaderState",
    "checkpoint_to_resume",
    "loader_state",
    "read_json_if_there",
    "saved_by_workers",
    "saved_parts",
    "is_checkpoint_name",
    "step_of",
]
