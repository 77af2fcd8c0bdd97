"""The full trainer with rollouts by vLLM: Hydra, Ray, allocation, vLLM, weight sync, update, checkpoints, a resume."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
from copying_task import COPIED, NUM_PROMPTS
from run_checks import TOTAL_BUDGET, M, assert_identities_agree, dumped_rollouts, go_back_to, history_of, steps_of

from knapsack_rl.metrics_file import read_metrics

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("vllm_training")]

STEPS, SAVED, KILLED_AFTER = 6, 3, 5
MEASURED = ("timing", "perf/")


@pytest.fixture(scope="module")
def lives(start_run, tmp_path_factory) -> tuple[Path, Path]:
    """What a run left when it was killed in its last steps, and when it had been resumed from its third and ended.

    Three epochs of two steps, whose weights move at each.
    """
    run = tmp_path_factory.mktemp("lives") / "run"
    settings = (
        f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={SAVED}",
        f"trainer.rollout_data_dir={run}/rollouts",
        # Without the entropy bonus a step on which every prompt is solved or unsolved would leave the weights alone.
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        "actor_rollout_ref.actor.optim.lr=1e-4",
    )
    killed = start_run(run, *settings)
    killed.wait_until(lambda: steps_of(run) >= KILLED_AFTER, f"step {KILLED_AFTER}")
    killed.process.send_signal(signal.SIGKILL)
    killed.assert_it_ends_and_nothing_is_left()
    shutil.copytree(run, run.with_name("killed"))
    go_back_to(run, SAVED)
    resumed = start_run(run, *settings)
    assert resumed.finish() == 0, resumed.log[-5000:]
    resumed.assert_it_ends_and_nothing_is_left()
    return run.with_name("killed"), run


def test_every_rollout_belongs_to_its_prompt_with_uneven_budgets(lives, copying_task):
    _, run = lives
    prompts = pd.read_parquet(copying_task / "train.parquet")
    kinds = {prompt[0]["content"]: kind for prompt, kind in zip(prompts["prompt"], prompts["data_source"], strict=True)}
    rollouts = dumped_rollouts(run / "rollouts", STEPS)
    assert len(rollouts) == STEPS * TOTAL_BUDGET
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


def test_rollout_log_probs_reach_the_batch_and_agree_with_the_actor(lives):
    metrics = read_metrics(lives[1])
    assert [step["step"] for step in metrics] == list(range(1, STEPS + 1))
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in metrics)
    # The agreement means something because the weights move at every step.
    assert all(step["actor/grad_norm"] > 0 for step in metrics)


def test_a_resumed_run_repeats_the_steps_that_it_had_lost(lives):
    killed, resumed = lives
    before, after = read_metrics(killed), read_metrics(resumed)
    assert len(before) >= KILLED_AFTER > SAVED
    for lost, repeated in zip(before, after, strict=False):
        assert {key: value for key, value in repeated.items() if not key.startswith(MEASURED)} == {
            key: value for key, value in lost.items() if not key.startswith(MEASURED)
        }
    rollouts = [dumped_rollouts(run / "rollouts", KILLED_AFTER)["output"].tolist() for run in lives]
    assert rollouts[0] == rollouts[1]
