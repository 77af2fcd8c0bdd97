"""The trainer keeps rollouts to be read: the right ones, with what was known of them, whatever else happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stand_in_workers import TOTAL_BUDGET, half_of_the_copies, rows_of

from knapsack_rl import rollout_dump
from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.step_parts import list_parts


def kept(run_folder: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(part.path) for part in list_parts(run_folder / "rollouts")]
    return pd.concat(parts, ignore_index=True)


def test_nothing_is_kept_unless_asked_for(run_steps):
    _, run_folder = run_steps(2)
    assert not (run_folder / "rollouts").exists()


def test_all_rollouts_are_kept_with_what_the_history_and_the_batch_say_of_them(run_steps):
    workers, run_folder = run_steps(4, "exploration.dump_rollouts=all")
    rollouts = kept(run_folder)
    assert rollouts.groupby("step").size().tolist() == [TOTAL_BUDGET] * 4
    history = read_history(run_folder / "history").to_pandas()
    groups = rollouts.groupby(["step", "prompt_id"])
    counted = groups.agg(
        epoch=("epoch", "first"),
        estimate=("estimate", "first"),
        budget=("budget", "first"),
        successes=("is_success", "sum"),
        response_tokens=("response_tokens", "sum"),
    )
    assert (groups.size() == counted["budget"]).all()
    pd.testing.assert_frame_equal(
        counted.reset_index(),
        history[list(counted.reset_index())].sort_values(["step", "prompt_id"], ignore_index=True),
        check_dtype=False,
    )
    for step, batch in enumerate(workers.updates, start=1):
        rows = rows_of(batch)
        mine = rollouts[rollouts["step"] == step]
        assert sorted(mine["response"]) == sorted(rows["response"])
        assert sorted(zip(mine["response"], mine["score"])) == sorted(zip(rows["response"], rows["score"]))
        first_token = batch.batch["advantages"][:, 0].numpy()
        np.testing.assert_allclose(sorted(mine["advantage"]), sorted(first_token), atol=1e-5)
    assert {"keep_rollouts"} <= {name.split("/")[1] for name in read_metrics(run_folder)[-1] if "timing_s/" in name}


def test_a_number_is_kept_of_each_step_and_every_class_is_seen(run_steps):
    _, run_folder = run_steps(4, "exploration.dump_rollouts=6")
    _, whole_folder = run_steps(4, "exploration.dump_rollouts=all", folder="whole")
    rollouts, whole = kept(run_folder), kept(whole_folder)
    assert rollouts.groupby("step").size().tolist() == [6] * 4
    seen = rollouts.groupby("step")["prompt_class"].agg(set)
    there = whole.groupby("step")["prompt_class"].agg(set)
    assert seen.tolist() == there.tolist()
    assert set().union(*there) <= set(rollout_dump.PROMPT_CLASSES)


def test_rollouts_of_several_generated_batches_keep_their_own_plans(run_steps):
    _, run_folder = run_steps(
        2,
        "exploration.dump_rollouts=all",
        "exploration.dynamic_sampling.enable=true",
        "exploration.dynamic_sampling.max_generations=2",
        "trainer.total_epochs=9",
    )
    rollouts = kept(run_folder)
    history = read_history(run_folder / "history").to_pandas().set_index(["step", "prompt_id"])
    assert read_metrics(run_folder)[1]["training/num_generations"] == 2
    assert rollouts.groupby("step").size().tolist() == [TOTAL_BUDGET] * 2
    for row in rollouts.itertuples():
        assert row.budget == history.loc[(row.step, row.prompt_id), "budget"]


def test_a_resumed_run_repeats_and_keeps_what_an_uninterrupted_one_keeps(run_steps):
    run_steps(3, "trainer.save_freq=2", "exploration.dump_rollouts=5")
    _, resumed = run_steps(6, "trainer.save_freq=2", "exploration.dump_rollouts=5")
    _, whole = run_steps(6, "trainer.save_freq=2", "exploration.dump_rollouts=5", folder="whole")
    pd.testing.assert_frame_equal(kept(resumed), kept(whole))


def test_what_led_to_a_failure_is_kept(run_steps, monkeypatch, tmp_path):
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    def fail(self, step):
        if step.number == 3:
            raise RuntimeError("stopped")

    monkeypatch.setattr(RayPPOTrainer, "_validate_and_save", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        run_steps(4, "exploration.dump_rollouts=5", succeeds=half_of_the_copies)
    assert kept(tmp_path / "run").groupby("step").size().to_dict() == {1: 5, 2: 5, 3: 5}


def test_verls_own_dump_works_beside_it(run_steps, tmp_path):
    _, run_folder = run_steps(2, "exploration.dump_rollouts=4", f"trainer.rollout_data_dir={tmp_path / 'verl'}")
    assert len((tmp_path / "verl" / "1.jsonl").read_text().splitlines()) == TOTAL_BUDGET
    assert len(kept(run_folder)) == 8
