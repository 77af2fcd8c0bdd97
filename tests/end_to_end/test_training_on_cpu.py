"""Real runs of the trainer on the tiny task: Hydra, Ray, workers, rollout, update, checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from verl.trainer.ppo.exploration_history import read_history
from verl.trainer.ppo.exploration_metrics import METRICS, TRAINER_METRICS
from verl.trainer.ppo.task_status import TaskStatus
from verl.utils.metrics_file import read_metrics

pytestmark = pytest.mark.end_to_end

M, TOTAL_BUDGET, STEPS_PER_EPOCH = 16, 64, 4


@pytest.fixture
def few_prompts(warm_start, tmp_path) -> str:
    """The override for a training set of which an epoch takes four steps."""
    file = tmp_path / "few.parquet"
    pd.read_parquet(warm_start / "train.parquet").head(M * STEPS_PER_EPOCH).to_parquet(file)
    return f"data.train_files={file}"


def history_of(run_folder: Path) -> pd.DataFrame:
    return read_history(run_folder / "history").to_pandas().reset_index(drop=True)


def without_measurements(metrics: list[dict]) -> list[dict]:
    measured = ("timing", "perf/")
    return [{key: value for key, value in step.items() if not key.startswith(measured)} for step in metrics]


def assert_estimates_are_the_rates_of_the_previous_visit(history: pd.DataFrame) -> None:
    for _, visits in history.groupby("prompt_id"):
        visits = visits.sort_values("step")
        rates = (visits["successes"] / visits["budget"]).to_numpy()
        np.testing.assert_array_equal(visits["estimate"].to_numpy()[1:], rates[:-1])


def test_budgets_keep_their_invariants_and_follow_the_previous_epoch(train, few_prompts, tmp_path):
    run = train(tmp_path / "run", "trainer.total_training_steps=10", few_prompts)
    history = history_of(run.run_folder)
    by_step = history.groupby("step")["budget"]
    assert by_step.sum().tolist() == [TOTAL_BUDGET] * 10
    assert by_step.count().tolist() == [M] * 10
    assert history["budget"].between(2, 16).all()
    first_epoch = history[history["step"] <= STEPS_PER_EPOCH]
    assert first_epoch["estimate"].isna().all() and (first_epoch["budget"] == TOTAL_BUDGET // M).all()
    later = history[history["step"] > STEPS_PER_EPOCH]
    assert later["estimate"].notna().all() and later["budget"].nunique() > 2
    assert_estimates_are_the_rates_of_the_previous_visit(history)
    metrics = read_metrics(run.run_folder)
    assert [step["training/cumulative_rollouts"] for step in metrics] == [TOTAL_BUDGET * n for n in range(1, 11)]
    assert [step["training/epoch"] for step in metrics] == [0] * 4 + [1] * 4 + [2] * 2
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in metrics)
    explained = {*METRICS, *TRAINER_METRICS, "training/global_step", "training/epoch"}
    ours = ("training/", "prompt/", "allocation/", "beliefs/", "dispatch/")
    assert [key for key in metrics[-1] if key.startswith(ours) and key not in explained] == []


def test_a_killed_run_resumes_as_if_nothing_had_happened(train, start_training, few_prompts, tmp_path):
    settings = (
        "trainer.total_training_steps=9",
        "trainer.save_freq=3",
        "trainer.max_actor_ckpt_to_keep=2",
        few_prompts,
    )
    whole = train(tmp_path / "whole", *settings)

    killed = start_training(tmp_path / "killed", *settings)
    # In the second epoch, between two checkpoints: the order of prompts, their status and the weights must all return.
    killed.wait_until(lambda: step_reached(killed.run_folder) >= 8, "step 8")
    killed.kill()
    assert step_reached(killed.run_folder) < 9
    resumed = train(tmp_path / "killed", *settings)

    pd.testing.assert_frame_equal(history_of(whole.run_folder), history_of(resumed.run_folder))
    status = [(run.run_folder / "global_step_9" / "task_status.npz").read_bytes() for run in (whole, resumed)]
    assert status[0] == status[1]
    assert without_measurements(read_metrics(whole.run_folder)) == without_measurements(
        read_metrics(resumed.run_folder)
    )


def step_reached(run_folder: Path) -> int:
    if not (run_folder / "metrics.jsonl").exists():
        return 0
    metrics = read_metrics(run_folder)
    return metrics[-1]["step"] if metrics else 0


def test_a_damaged_status_falls_back_to_the_checkpoint_before(train, few_prompts, tmp_path):
    settings = ("trainer.save_freq=2", few_prompts)
    train(tmp_path / "run", "trainer.total_training_steps=4", *settings)
    damaged = tmp_path / "run" / "global_step_4" / "task_status.npz"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    resumed = train(tmp_path / "run", "trainer.total_training_steps=6", *settings)
    assert str(damaged) in resumed.log and "Falling back" in resumed.log
    assert sorted(set(history_of(resumed.run_folder)["step"])) == [1, 2, 3, 4, 5, 6]
    assert len(history_of(resumed.run_folder)) == 6 * M
    assert len(TaskStatus.load(damaged)) == 4 * M


def test_two_workers_share_the_rollouts_of_a_scheduled_budget(train, few_prompts, tmp_path):
    run = train(
        tmp_path / "run",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=6",
        "exploration.dispatch=packed",
        f"exploration.total_budget=[[1,{TOTAL_BUDGET}],[4,{2 * TOTAL_BUDGET}]]",
        few_prompts,
    )
    history = history_of(run.run_folder)
    assert history.groupby("step")["budget"].sum().tolist() == [TOTAL_BUDGET] * 3 + [2 * TOTAL_BUDGET] * 3
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in read_metrics(run.run_folder))


def test_critic_reference_and_kl_run_on_a_cpu(train, few_prompts, warm_start, tmp_path):
    run = train(
        tmp_path / "run",
        "algorithm.adv_estimator=gae",
        "exploration.value=reinforce",
        "algorithm.use_kl_in_reward=true",
        f"critic.model.path={warm_start / 'model'}",
        "critic.ppo_micro_batch_size_per_gpu=64",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=64",
        "trainer.total_training_steps=2",
        few_prompts,
    )
    last = read_metrics(run.run_folder)[-1]
    assert np.isfinite(last["critic/vf_loss"]) and last["actor/reward_kl_penalty"] != 0.0


def test_remax_allocates_by_what_greedy_responses_earn(train, few_prompts, tmp_path):
    run = train(tmp_path / "run", "algorithm.adv_estimator=remax", "trainer.total_training_steps=6", few_prompts)
    history = history_of(run.run_folder)
    assert history.groupby("step")["budget"].sum().tolist() == [TOTAL_BUDGET] * 6
    assert history[history["step"] > STEPS_PER_EPOCH]["budget"].nunique() > 1


@pytest.mark.parametrize("allocator", ["homogeneous", "knapsack"])
def test_dynamic_sampling_fills_the_batch_and_counts_every_rollout(train, tmp_path, allocator):
    run = train(
        tmp_path / "run",
        f"exploration.allocator={allocator}",
        "exploration.dynamic_sampling.enable=true",
        "exploration.dynamic_sampling.max_generations=3",
        "trainer.total_training_steps=3",
    )
    metrics = read_metrics(run.run_folder)
    generations = np.array([step["training/num_generations"] for step in metrics])
    assert generations.max() > 1 and generations.max() <= 3
    assert [step["training/cumulative_rollouts"] for step in metrics] == (TOTAL_BUDGET * generations.cumsum()).tolist()
    history = history_of(run.run_folder)
    assert history.groupby("step")["budget"].sum().tolist() == (TOTAL_BUDGET * generations).tolist()
    for step in metrics:
        explored = history[history["step"] == step["step"]]
        assert step["critic/score/mean"] == pytest.approx(explored["successes"].sum() / explored["budget"].sum())


@pytest.mark.parametrize(("answer", "said"), [("raise ValueError('no verdict')", "no verdict"), ("return nan", "nan")])
def test_a_failing_reward_function_ends_the_run_naming_the_prompt(start_training, few_prompts, tmp_path, answer, said):
    reward = tmp_path / "reward.py"
    reward.write_text(
        "import os\nfrom math import nan\n\n\n"
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        f"    if os.path.exists({str(tmp_path / 'fail')!r}) and extra_info['index'] % 7 == 3:\n"
        f"        {answer}\n"
        "    return float(solution_str[1:] == ground_truth)\n"
    )
    run = start_training(
        tmp_path / "run",
        f"custom_reward_function.path={reward}",
        "trainer.total_training_steps=200",
        "trainer.save_freq=2",
        few_prompts,
    )
    run.wait_until(lambda: step_reached(run.run_folder) >= 3, "step 3")
    (tmp_path / "fail").touch()
    assert run.finish() != 0
    assert "RewardError" in run.log and said in run.log and "extra_info={" in run.log and "prompt_id=" in run.log
    saved = max(int(folder.name.split("_")[-1]) for folder in run.run_folder.glob("global_step_*"))
    assert len(TaskStatus.load(run.run_folder / f"global_step_{saved}" / "task_status.npz")) > 0
