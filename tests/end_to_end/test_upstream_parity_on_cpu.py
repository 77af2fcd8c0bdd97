"""``exploration.allocator=homogeneous`` is upstream's GRPO: both trainers run the same first steps."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pandas as pd
import pytest
import torch
from training_process import TIME_LIMIT_SECONDS

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

# Runs both trainers in one Ray actor and records what each sends to the update and gets back from it.
COMPARISON = """
import pickle, sys
import hydra, ray
from omegaconf import OmegaConf
from verl.trainer.main_ppo import _build_trainer, _start_ray
from verl.trainer.ppo.ray_trainer import RayPPOTrainer
from verl.upstream.trainer.ppo.ray_trainer import RayPPOTrainer as UpstreamTrainer
from verl.utils.worker_groups import release_workers


def record_updates(trainer):
    updates, update_actor = [], trainer.actor_rollout_wg.update_actor

    def update_and_record(batch):
        output = update_actor(batch)
        tensors = {name: batch.batch[name].clone() for name in ("responses", "advantages", "old_log_probs")}
        updates.append({**tensors, "loss": output.meta_info["metrics"]["actor/pg_loss"]})
        return output

    trainer.actor_rollout_wg.update_actor = update_and_record
    return updates


@ray.remote(num_cpus=1)
class Runner:
    def run(self, config):
        OmegaConf.resolve(config)
        recorded = {}
        for trainer_class in (UpstreamTrainer, RayPPOTrainer):
            run_config = config.copy()
            run_config.trainer.default_local_dir = config.trainer.default_local_dir + "/" + trainer_class.__module__
            trainer = _build_trainer(run_config, trainer_class)
            trainer.init_workers()
            recorded[trainer_class.__module__] = record_updates(trainer)
            trainer.fit()
            release_workers(trainer)
            for pool in trainer.resource_pool_manager.resource_pool_dict.values():
                for group in pool.pgs:
                    ray.util.remove_placement_group(group)
        return recorded


with hydra.initialize_config_module("verl.trainer.config", version_base=None):
    config = hydra.compose("knapsack_trainer", overrides=sys.argv[2:])
_start_ray(config)
pickle.dump(ray.get(Runner.remote().run.remote(config)), open(sys.argv[1], "wb"))
"""


def test_homogeneous_allocation_takes_upstreams_steps(warm_start, tiny_overrides, repository, tmp_path):
    training_set = tmp_path / "few.parquet"
    pd.read_parquet(warm_start / "train.parquet").head(128).to_parquet(training_set)
    overrides = [
        *tiny_overrides(tmp_path / "run"),
        f"data.train_files={training_set}",
        "exploration.allocator=homogeneous",
        "data.train_batch_size=64",
        "actor_rollout_ref.rollout.n=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=64",
        "trainer.total_training_steps=3",
    ]
    result = tmp_path / "recorded.pkl"
    process = subprocess.run(
        [sys.executable, "-c", COMPARISON, result, *overrides],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_SECONDS,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    with result.open("rb") as file:
        upstream, ours = pickle.load(file).values()
    assert len(upstream) == len(ours) == 3
    for upstream_step, our_step in zip(upstream, ours, strict=True):
        assert torch.equal(upstream_step["responses"], our_step["responses"])
        torch.testing.assert_close(our_step["advantages"], upstream_step["advantages"], atol=1e-6, rtol=0)
        torch.testing.assert_close(our_step["old_log_probs"], upstream_step["old_log_probs"], atol=1e-5, rtol=0)
        assert our_step["loss"] == pytest.approx(upstream_step["loss"], abs=1e-5)
    assert any((step["advantages"] != 0).any() for step in ours)
