"""Real runs of the trainer on the tiny task: Hydra, Ray, workers, rollout, update, checkpoints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from knapsack_rl.history import read_history
from knapsack_rl.metrics import METRICS, TRAINER_METRICS
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.task_status import TaskStatus
from verl.utils.checkpoint_state import step_of, whole_checkpoints

pytestmark = pytest.mark.end_to_end

M, TOTAL_BUDGET, STEPS_PER_EPOCH = 16, 64, 4


def history_of(run_folder: Path) -> pd.DataFrame:
    return read_history(run_folder / "history").to_pandas().reset_index(drop=True)


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


def step_reached(run_folder: Path) -> int:
    if not (run_folder / "metrics.jsonl").exists():
        return 0
    metrics = read_metrics(run_folder)
    return metrics[-1]["step"] if metrics else 0


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_remax_allocates_by_what_greedy_responses_earn(train, few_prompts, tmp_path):
    """Its rewards come from a Ray task beside the log-prob pass: they must be those of the rows they return to."""
    rollouts = tmp_path / "rollouts"
    run = train(
        tmp_path / "run",
        "algorithm.adv_estimator=remax",
        "reward_model.launch_reward_fn_async=true",
        f"trainer.rollout_data_dir={rollouts}",
        "trainer.total_training_steps=6",
        few_prompts,
    )
    history = history_of(run.run_folder)
    truths = pd.read_parquet(few_prompts.partition("=")[2], columns=["prompt", "reward_model"])
    answers = {messages[0]["content"]: truth["ground_truth"] for messages, truth in truths.itertuples(index=False)}
    for step, explored in history.set_index("prompt_id").sort_index().groupby("step"):
        dumped = pd.DataFrame(map(json.loads, (rollouts / f"{step}.jsonl").read_text().splitlines()))
        assert (dumped["score"] == (dumped["output"].str[1:] == dumped["input"].map(answers))).all()
        assert dumped.groupby("prompt_id")["score"].sum().to_dict() == explored["successes"].to_dict()
    assert history.groupby("step")["budget"].sum().tolist() == [TOTAL_BUDGET] * 6
    assert history[history["step"] > STEPS_PER_EPOCH]["budget"].nunique() > 1


@pytest.mark.slow
def test_dynamic_sampling_fills_the_batch_and_counts_every_rollout(train, tmp_path):
    run = train(
        tmp_path / "run",
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
        assert step["critic/rewards/mean"] == step["critic/score/mean"]


@pytest.mark.slow
def test_a_failing_reward_function_ends_the_run_naming_the_prompt_and_repaired_it_goes_on(
    train, start_training, few_prompts, tmp_path
):
    reward, run_folder = tmp_path / "reward.py", tmp_path / "run"
    reward.write_text(
        "import os\nfrom math import nan\n\n\n"
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        f"    if os.path.exists({str(tmp_path / 'raise')!r}) and extra_info['index'] % 7 == 3:\n"
        "        raise ValueError('no verdict')\n"
        f"    if os.path.exists({str(tmp_path / 'nan')!r}) and extra_info['index'] % 7 == 3:\n"
        "        return nan\n"
        "    return float(solution_str[1:] == ground_truth)\n"
    )
    settings = (f"custom_reward_function.path={reward}", "trainer.save_freq=2", few_prompts)
    failed_after = 0
    for failure, said in (("raise", "raised ValueError: no verdict"), ("nan", "returned nan")):
        run = start_training(run_folder, "trainer.total_training_steps=200", *settings)
        awaited = failed_after + 3
        run.wait_until(lambda: step_reached(run_folder) >= awaited, f"step {awaited}")  # noqa: B023
        (tmp_path / failure).touch()
        assert run.finish() != 0
        failed_after = step_reached(run_folder)
        assert re.search(f"RewardError: .* {said} for the prompt with .*extra_info={{.*prompt_id=", run.log)
        newest = max(run_folder.glob("global_step_*"), key=step_of)
        assert whole_checkpoints(run_folder)[0] == newest and step_of(newest) == failed_after - failed_after % 2
        assert len(TaskStatus.load(newest / "task_status.npz")) > 0
        (tmp_path / failure).unlink()

    train(run_folder, f"trainer.total_training_steps={failed_after + 2}", *settings)
    steps = list(range(1, failed_after + 3))
    assert history_of(run_folder)["step"].tolist() == [step for step in steps for _ in range(M)]
    assert [metrics["step"] for metrics in read_metrics(run_folder)] == steps
