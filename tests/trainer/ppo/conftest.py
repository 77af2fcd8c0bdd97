"""Fixtures that train with stand-in workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
from omegaconf import OmegaConf
from stand_in_workers import M, StandInAgentLoop, StandInWorkers, by_family

from verl.trainer.main_ppo import _build_trainer
from verl.trainer.ppo.ray_trainer import RayPPOTrainer


@pytest.fixture(scope="module")
def answers(warm_start: Path) -> dict[str, str]:
    table = pd.concat([pd.read_parquet(warm_start / file) for file in ("train.parquet", "test.parquet")])
    return {
        messages[0]["content"]: reward_model["ground_truth"]
        for messages, reward_model in zip(table["prompt"], table["reward_model"], strict=True)
    }


@pytest.fixture
def run_steps(tiny_overrides, warm_start, answers, tmp_path):
    """Train for some steps with stand-in workers; returns them and the run's folder."""

    def run(
        steps: int,
        *overrides: str,
        succeeds: Callable[[str, int], bool] = by_family,
        folder: str = "run",
        **workers: Any,
    ) -> tuple[StandInWorkers, Path]:
        few = tmp_path / "few.parquet"
        pd.read_parquet(warm_start / "train.parquet").head(2 * M).to_parquet(few)
        run_folder = tmp_path / folder
        settings = [
            *tiny_overrides(run_folder),
            "trainer.n_gpus_per_node=2",
            f"trainer.total_training_steps={steps}",
            f"data.train_files={few}",
            *overrides,
        ]
        with hydra.initialize_config_module("verl.trainer.config", version_base=None):
            config = hydra.compose("knapsack_trainer", overrides=settings)
        OmegaConf.resolve(config)
        trainer: RayPPOTrainer = _build_trainer(config)
        trainer.actor_rollout_wg = StandInWorkers(answers, succeeds, **workers)
        trainer.async_rollout_mode = config.actor_rollout_ref.rollout.mode == "async"
        trainer.async_rollout_manager = StandInAgentLoop(
            trainer.actor_rollout_wg, config.actor_rollout_ref.rollout.agent.num_workers
        )
        trainer.rm_wg = trainer.actor_rollout_wg
        trainer.fit()
        return trainer.actor_rollout_wg, run_folder

    return run
