"""The full trainer with rollouts by vLLM: Hydra, Ray, allocation, vLLM, weight sync, update, checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from copying_task import COPIED, NUM_PROMPTS

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics

pytestmark = pytest.mark.end_to_end

M, TOTAL_BUDGET = 16, 64
# Without the entropy bonus a step on which every prompt is solved or unsolved would leave the weights alone.
SIX_STEPS = (
    "trainer.total_training_steps=6",
    "trainer.save_freq=3",
    "actor_rollout_ref.actor.entropy_coeff=0.01",
)
FROZEN = "actor_rollout_ref.actor.optim.lr=0"


def history_of(run_folder: Path) -> pd.DataFrame:
    return read_history(run_folder / "history").to_pandas().reset_index(drop=True)


def dumped_rollouts(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_json(file, lines=True, dtype=False) for file in sorted(folder.glob("*.jsonl"))])


def assert_identities_agree(rollouts: pd.DataFrame, history: pd.DataFrame, prompts: pd.DataFrame) -> None:
    """Each dumped rollout has the id of the prompt that it answers, and as many do as the history says."""
    contents = {prompt[0]["content"] for prompt in prompts["prompt"]}
    assert set(rollouts["input"]) == contents
    assert (rollouts.groupby("prompt_id")["input"].nunique() == 1).all()
    assert rollouts["prompt_id"].nunique() == len(contents)
    by_prompt = rollouts.assign(is_success=rollouts["score"] > 0).groupby(["step", "prompt_id"])
    dumped = by_prompt["is_success"].agg(budget="size", successes="sum")
    recorded = history.set_index(["step", "prompt_id"])[["budget", "successes"]]
    pd.testing.assert_frame_equal(dumped, recorded.sort_index(), check_dtype=False)


@pytest.fixture(scope="module")
def six_steps(train, tmp_path_factory) -> Path:
    """A run of three epochs of two steps whose weights move at each, with a checkpoint after three steps."""
    return train(tmp_path_factory.mktemp("six_steps"), *SIX_STEPS)


def test_every_rollout_belongs_to_its_prompt_with_uneven_budgets(train, copying_task, tmp_path):
    run = train(tmp_path / "run", FROZEN, "trainer.total_training_steps=6", f"trainer.rollout_data_dir={tmp_path}/dump")
    prompts = pd.read_parquet(copying_task / "train.parquet")
    kinds = {prompt[0]["content"]: kind for prompt, kind in zip(prompts["prompt"], prompts["data_source"], strict=True)}
    rollouts = dumped_rollouts(tmp_path / "dump")
    assert len(rollouts) == 6 * TOTAL_BUDGET
    is_copied = rollouts["input"].map(kinds) == COPIED
    copies = rollouts["output"].str[1:] == rollouts["input"].str[1:4]
    assert copies.mean() > 0.9
    pd.testing.assert_series_equal(rollouts["score"] == 1.0, copies & is_copied, check_names=False)
    history = history_of(run)
    assert_identities_agree(rollouts, history, prompts)
    later = history[history["step"] > NUM_PROMPTS // M]
    assert later["budget"].nunique() > 1 and (later.groupby("step")["budget"].sum() == TOTAL_BUDGET).all()
    solved = later[later["estimate"] > 0]
    assert solved["budget"].mean() < later["budget"].mean()
    assert solved["successes"].sum() / solved["budget"].sum() > 0.9
    assert (later[later["estimate"] == 0]["successes"] == 0).all()


def test_rollout_log_probs_reach_the_batch_and_agree_with_the_actor(six_steps):
    metrics = read_metrics(six_steps)
    assert len(metrics) == 6
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in metrics)
    # The agreement means something because the weights move at every step.
    assert all(step["actor/grad_norm"] > 0 for step in metrics)


def test_a_resumed_run_repeats_the_steps_that_it_had_lost(six_steps, train, tmp_path):
    copy = tmp_path / "resumed"
    shutil.copytree(six_steps, copy)
    shutil.rmtree(copy / "global_step_6")
    (copy / "latest_checkpointed_iteration.txt").write_text("3")
    train(copy, *SIX_STEPS)
    pd.testing.assert_frame_equal(history_of(copy), history_of(six_steps))
    measured = ("timing", "perf/")
    for resumed, whole in zip(read_metrics(copy), read_metrics(six_steps), strict=True):
        assert {key: value for key, value in resumed.items() if not key.startswith(measured)} == {
            key: value for key, value in whole.items() if not key.startswith(measured)
        }
