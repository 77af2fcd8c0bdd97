"""Fixtures of the start-up checks: configurations with some settings, data files, checkpoints without weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import RandomSampler

from verl.trainer.config.checks import ConfigError, Facts

Refusal = Callable[..., str]


@pytest.fixture(scope="session")
def composed() -> DictConfig:
    """The trainer's configuration without overrides."""
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer")


@pytest.fixture
def config_with(composed):
    """Return a copy of the configuration with settings, dotted keys and values."""

    def make(settings: dict[str, Any] | None = None) -> DictConfig:
        config = composed.copy()
        for key, value in (settings or {}).items():
            OmegaConf.update(config, key, value, force_add=True)
        return config

    return make


@pytest.fixture
def refusal(config_with) -> Refusal:
    """Return what a check says of settings; empty if it accepts them. Every refusal is one line."""

    def said(check: Callable[..., None], settings: dict[str, Any] | None = None, facts: Facts | None = None) -> str:
        try:
            check(config_with(settings), facts or Facts())
        except ConfigError as error:
            assert "\n" not in str(error)
            return str(error)
        return ""

    return said


@pytest.fixture
def write(tmp_path):
    """Write rows to a parquet file and return its path."""

    def write_rows(rows: list[dict[str, Any]], name: str = "train.parquet") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(file)
        return file

    return write_rows


@pytest.fixture
def checkpoint(tmp_path):
    """Make a checkpoint that has the names of FSDP's files and a real data loader's state, and no weights."""

    def make(
        step: int = 2,
        parts: tuple[str, ...] = ("model", "optim", "extra_state"),
        workers: int = 1,
        loader_workers: int = 0,
        shuffle: bool = True,
        batches: int = 2,
    ) -> Path:
        folder = tmp_path / "run" / f"global_step_{step}"
        (folder / "actor" / "huggingface").mkdir(parents=True)
        for part in parts:
            for rank in range(workers):
                (folder / "actor" / f"{part}_world_size_{workers}_rank_{rank}.pt").touch()
        prompts = list(range(20))
        sampler = RandomSampler(prompts, generator=torch.Generator().manual_seed(1)) if shuffle else None
        loader = StatefulDataLoader(prompts, batch_size=4, num_workers=loader_workers, sampler=sampler)
        rounds = iter(loader)
        for _ in range(batches):
            next(rounds)
        torch.save(loader.state_dict(), folder / "data.pt")
        (folder / "complete").touch()
        return folder

    return make
