"""One wandb run for a training, however often it is resumed: its id is kept in the run's folder."""

from __future__ import annotations

import os
from pathlib import Path

from knapsack_rl.run_folder import WANDB_RUN_FILE, wandb_run_to_continue, write_atomically

__all__ = ["name_wandb_run"]


def name_wandb_run(folder: Path, continues: bool) -> None:
    """Name the wandb run that verl is about to start, through wandb's own environment variables.

    Does nothing where the environment names one.

    Args:
        folder: ``trainer.default_local_dir``.
        continues: whether the training goes on from a checkpoint; one that starts anew gets a new run.
    """
    if "WANDB_RUN_ID" in os.environ:
        return
    file = folder / WANDB_RUN_FILE
    known = wandb_run_to_continue(file) if continues else {}
    if known:
        os.environ.update(known)
        return
    import wandb

    os.environ["WANDB_RUN_ID"] = wandb.util.generate_id()
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, os.environ["WANDB_RUN_ID"])
