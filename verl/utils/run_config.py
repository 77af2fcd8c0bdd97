"""The configuration of a run, kept in its folder: what is in force, and what was before a resume."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from knapsack_rl.provenance import MADE_BY, made_by
from knapsack_rl.run_folder import CONFIG_FILE, write_atomically
from verl.utils.checkpoint_state import step_of, whole_checkpoints


def save_run_config(config: DictConfig, folder: Path) -> None:
    """Write ``config`` and who made the run to ``folder/config.yaml``; an earlier one that differs stays beside it.

    The earlier one is named after the step until which it was in force: ``config.until_step_40.yaml``. A run that only
    validates leaves the file as it is: it tells how the run there was trained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / CONFIG_FILE
    if file.exists() and config.trainer.get("val_only", False):
        return
    text = OmegaConf.to_yaml({**OmegaConf.to_container(config), MADE_BY: made_by()})
    if file.exists() and file.read_text(encoding="utf-8") != text:
        file.rename(_unused_name(folder))
    write_atomically(file, text)


def _unused_name(folder: Path) -> Path:
    checkpoints = whole_checkpoints(folder)
    stem = f"config.until_step_{step_of(checkpoints[0]) if checkpoints else 0}"
    name, number = folder / f"{stem}.yaml", 1
    while name.exists():
        number += 1
        name = folder / f"{stem}.{number}.yaml"
    return name
