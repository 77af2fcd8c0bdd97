"""What the trainer offers around the allocation, driven without Ray: rewards, estimators, dumps, saving, hooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stand_in_workers import TOTAL_BUDGET, WRONG_ANSWER, M, by_family, half_of_the_copies, rows_of

from knapsack_rl import knapsack_allocate, prompt_id
from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.task_status import TaskStatus
from verl import DataProto
from verl.utils.checkpoint_state import whole_checkpoints

N_LOW, N_UP = 2, 16
REWARD_MODEL = ("reward_model.enable=true", "reward_model.micro_batch_size_per_gpu=8")


def history_of(run_folder: Path) -> pd.DataFrame:
    return read_history(run_folder / "history").to_pandas()


# ---------------------------------------------------------------- rewards


@pytest.mark.parametrize(
    ("right", "wrong", "overrides"),
    [
        ("1.0", "-1.0", ()),
        ("0.7", "0.3", ("exploration.success_threshold=0.5",)),
        ("{'score': -2.0, 'acc': True}", "{'score': 3.0, 'acc': False}", ()),
    ],
    ids=["signed", "above a threshold", "acc before the score"],
)
def test_successes_are_counted_by_acc_or_else_by_the_score_above_the_threshold(
    run_steps, tmp_path, right, wrong, overrides
):
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def judge(data_source, solution_str, ground_truth, extra_info=None):\n"
        f"    return {right} if solution_str == '.' + ground_truth else {wrong}\n"
    )
    workers, run_folder = run_steps(
        4, f"custom_reward_function.path={reward}", "custom_reward_function.name=judge", *overrides
    )
    history = history_of(run_folder)
    assert history["successes"].between(1, history["budget"] - 1).any()
    for metrics, batch in zip(read_metrics(run_folder), workers.updates, strict=True):
        rows = rows_of(batch)
        rows["right"] = rows["response"] == "." + rows["ground_truth"]
        assert rows["score"].nunique() == 2
        explored = history[history["step"] == metrics["step"]].set_index("prompt_id").sort_index()
        assert explored["successes"].to_dict() == rows.groupby("prompt_id")["right"].sum().to_dict()
        has_gradient = rows.groupby("prompt_id")["right"].transform("nunique") == 2
        assert metrics["training/effective_gradient_ratio"] == pytest.approx(has_gradient.mean())
    second = history[history["step"] > 2].set_index("prompt_id")
    first = history[history["step"] <= 2].set_index("prompt_id").loc[second.index]
    assert (second["estimate"] == first["successes"] / first["budget"]).all()


def test_the_scores_of_a_reward_model_are_what_is_trained_on(run_steps):
    workers, run_folder = run_steps(2, *REWARD_MODEL, succeeds=half_of_the_copies)
    history = history_of(run_folder)
    for number, batch in enumerate(workers.updates, start=1):
        assert torch.equal(batch.batch["token_level_scores"], batch.batch["rm_scores"])
        rows = rows_of(batch)
        liked = rows["response"] == f".{WRONG_ANSWER}"
        assert (rows["score"] == np.where(liked, 0.75, -0.25)).all()
        assert (rows["advantage"][liked] > 0).all() and (rows["advantage"][~liked] < 0).all()
        explored = history[history["step"] == number].set_index("prompt_id").sort_index()
        assert explored["successes"].to_dict() == liked.groupby(rows["prompt_id"]).sum().to_dict()


# ---------------------------------------------------------------- estimators and values


def decisions(
    history: pd.DataFrame, updates: list[DataProto], value: str, **estimator: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what the trainer should have estimated and allocated at each step, by what it was sent until then."""
    status = TaskStatus(**estimator)
    for (step, explored), batch in zip(history.groupby("step"), updates, strict=True):
        (epoch,) = explored["epoch"].unique()
        estimates = status.success_rates(explored["prompt_id"], epoch=epoch)
        allocation = knapsack_allocate(
            estimates,
            TOTAL_BUDGET,
            N_LOW,
            N_UP,
            value=value,
            beliefs=status.beliefs(explored["prompt_id"], epoch=epoch) if value == "expected" else None,
        )
        yield estimates, allocation.budgets
        rows = rows_of(batch)
        status.observe(rows["prompt_id"].tolist(), rows["score"].to_numpy() > 0, epoch=epoch, step=step)


@pytest.mark.parametrize(
    ("estimator", "value"),
    [
        ({"estimator": "window", "window": 4}, "grpo"),
        ({"estimator": "window", "min_rollouts": 5}, "grpo"),
        ({"estimator": "beta", "discount": 0.25, "prior_strength": 3.0}, "expected"),
        ({}, "my_values:likes_the_solved"),
    ],
    ids=["window", "min_rollouts", "beta and expected", "value function"],
)
def test_the_configured_estimator_and_value_decide_on_the_budgets(run_steps, tmp_path, monkeypatch, estimator, value):
    (tmp_path / "my_values.py").write_text("def likes_the_solved(n, p):\n    return p**2 * n**0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    workers, run_folder = run_steps(
        6,
        f"exploration.value='{value}'",
        *(f"exploration.success_rate.{key}={setting}" for key, setting in estimator.items()),
    )
    history = history_of(run_folder)
    assert history["epoch"].tolist() == [0] * 2 * M + [1] * 2 * M + [2] * 2 * M
    assert (history.groupby("step")["budget"].sum() == TOTAL_BUDGET).all()
    made = [(step["estimate"].to_numpy(), step["budget"].to_numpy()) for _, step in history.groupby("step")]
    for (estimates, budgets), (right_estimates, right_budgets) in zip(
        made, decisions(history, workers.updates, value, **estimator), strict=True
    ):
        np.testing.assert_array_equal(estimates, right_estimates)
        assert budgets.tolist() == right_budgets.tolist()
    by_default = decisions(history, workers.updates, "grpo")
    assert any(budgets.tolist() != default.tolist() for (_, budgets), (_, default) in zip(made, by_default))


@pytest.mark.parametrize("from_file", [False, True])
def test_a_prior_decides_on_the_budgets_of_the_first_step(run_steps, tmp_path, warm_start, from_file):
    rows = pd.read_parquet(warm_start / "train.parquet").head(2 * M)
    rows["pass_rate"] = np.arange(2 * M) / (2 * M)
    ids = [prompt_id(source, messages) for source, messages in zip(rows["data_source"], rows["prompt"])]
    rate_of = dict(zip(ids, rows["pass_rate"]))
    data, file = tmp_path / "rated.parquet", tmp_path / "prior.csv"
    rows.to_parquet(data)
    pd.DataFrame({"prompt_id": ids, "success_rate": rows["pass_rate"]}).to_csv(file, index=False)
    prior = file if from_file else "pass_rate"
    _, run_folder = run_steps(2, f"data.train_files={data}", f"exploration.success_rate.prior={prior}")
    history = history_of(run_folder)
    assert history["estimate"].tolist() == [pytest.approx(rate_of[identity]) for identity in history["prompt_id"]]
    for _, step in history.groupby("step"):
        expected = knapsack_allocate(step["estimate"].to_numpy(), TOTAL_BUDGET, N_LOW, N_UP).budgets
        assert step["budget"].tolist() == expected.tolist()


def test_similar_prompts_decide_on_the_budgets_of_the_first_epoch(run_steps, tmp_path, warm_start):
    rows = pd.read_parquet(warm_start / "train.parquet").head(2 * M)
    data = tmp_path / "train.parquet"
    rows.assign(level=[index % 2 for index in range(2 * M)]).to_parquet(data)
    _, run_folder = run_steps(2, f"data.train_files={data}", "exploration.success_rate.similar_by=[data_source,level]")
    (_, first), (_, second) = history_of(run_folder).groupby("step")
    assert first["estimate"].isna().all() and set(first["budget"]) == {TOTAL_BUDGET // M}
    level_of = dict(zip(map(prompt_id, rows["data_source"], rows["prompt"]), [0, 1] * M))
    rates = (first["successes"] / first["budget"]).groupby(first["prompt_id"].map(level_of)).agg(["sum", "count"])
    mean = np.clip((first["successes"] / first["budget"]).mean(), 1e-3, 1 - 1e-3)
    expected = (rates["sum"] + mean) / (rates["count"] + 1)
    assert second["estimate"].tolist() == pytest.approx(second["prompt_id"].map(level_of).map(expected).tolist())


# ---------------------------------------------------------------- dumps and saving


def read_lines(file: Path) -> pd.DataFrame:
    return pd.DataFrame([json.loads(line) for line in file.read_text().splitlines()])


@pytest.mark.parametrize("rewards", [(), REWARD_MODEL], ids=["with a score of its own", "a tensor only"])
def test_every_rollout_of_a_step_is_dumped_with_its_score(run_steps, tmp_path, rewards):
    folder = tmp_path / "rollouts"
    workers, _ = run_steps(4, f"trainer.rollout_data_dir={folder}", *rewards)
    assert sorted(file.name for file in folder.iterdir()) == ["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]
    for number, batch in enumerate(workers.updates, start=1):
        dumped, rows = read_lines(folder / f"{number}.jsonl"), rows_of(batch)
        assert len(dumped) == TOTAL_BUDGET and (dumped["step"] == number).all()
        assert dumped["score"].nunique() == 2
        for column, sent in (("input", "prompt"), ("output", "response"), ("score", "score"), ("prompt_id",) * 2):
            assert dumped[column].tolist() == rows[sent].tolist()


def test_every_validated_response_is_dumped_with_its_score(run_steps, warm_start, answers, tmp_path):
    few, folder = tmp_path / "validated.parquet", tmp_path / "validations"
    pd.read_parquet(warm_start / "test.parquet").head(6).to_parquet(few)
    run_steps(
        2,
        f"trainer.validation_data_dir={folder}",
        f"data.val_files={few}",
        "trainer.val_before_train=true",
        "trainer.test_freq=2",
        succeeds=half_of_the_copies,
    )
    assert sorted(file.name for file in folder.iterdir()) == ["0.jsonl", "2.jsonl"]
    for file in folder.iterdir():
        dumped = read_lines(file)
        assert len(dumped) == 6 * 4
        assert dumped["score"].tolist() == (dumped["output"] == "." + dumped["input"].map(answers)).tolist()
        assert (dumped.groupby("input")["score"].mean() == 0.5).all()


@pytest.mark.parametrize(("save_freq", "saved"), [(100, ["global_step_4", "global_step_2"]), (-1, [])])
def test_a_machine_that_will_be_taken_away_is_saved_in_time(run_steps, monkeypatch, save_freq, saved):
    asked = []

    def at_step_two(*, max_steps_duration: float, redundant_time: float) -> bool:
        asked.append((max_steps_duration > 0, redundant_time))
        return len(asked) == 2

    monkeypatch.setattr("verl.trainer.ppo.training_run.should_save_ckpt_esi", at_step_two)
    overrides = (f"trainer.save_freq={save_freq}", "trainer.esi_redundant_time=7")
    _, run_folder = run_steps(4, *overrides)
    assert asked == [(False, 7), (True, 7), (True, 7), (True, 7)]
    assert [folder.name for folder in whole_checkpoints(run_folder)] == saved
    if saved:
        status = TaskStatus.load(run_folder / "global_step_2" / "task_status.npz")
        assert status.step == 2 and len(status) == 2 * M
        assert (run_folder / "global_step_2" / "data.pt").is_file()


# ---------------------------------------------------------------- hooks


def test_the_steps_to_profile_are_profiled_as_a_whole(run_steps):
    workers, _ = run_steps(3, "trainer.profile_steps=[2]")
    assert workers.profiled == [("start", 1, 1), ("stop", 2, 2)]


CURRICULUM = """
import numpy as np
from verl.experimental.dataset.sampler import AbstractCurriculumSampler


class EasiestFirst(AbstractCurriculumSampler):
    def __init__(self, data_source, data_config):
        self.scores = dict.fromkeys(range(len(data_source)), 0.0)

    def __len__(self):
        return len(self.scores)

    def __iter__(self):
        return iter(sorted(self.scores, key=lambda index: -self.scores[index]))

    def update(self, batch):
        scores = batch.batch["token_level_scores"].sum(-1).numpy()
        indices = np.array([info["index"] for info in batch.non_tensor_batch["extra_info"]])
        self.scores.update({index: scores[indices == index].mean() for index in set(indices.tolist())})
        with open(LOG, "a") as log:
            log.write(f"{len(batch)}\\n")
"""


def test_a_curriculum_sampler_learns_from_every_step(run_steps, tmp_path):
    log, sampler = tmp_path / "updates.txt", tmp_path / "curriculum.py"
    sampler.write_text(f"LOG = {str(log)!r}\n{CURRICULUM}")
    _, run_folder = run_steps(
        4, f"data.sampler.class_path={sampler}", "data.sampler.class_name=EasiestFirst", "data.dataloader_num_workers=0"
    )
    assert log.read_text().split() == [str(TOTAL_BUDGET)] * 4
    second_epoch = history_of(run_folder).query("step > 2")["estimate"]
    assert second_epoch.is_monotonic_decreasing and second_epoch.nunique() > 2


DATASET = """
from verl.utils.dataset.rl_dataset import RLHFDataset


class Watching(RLHFDataset):
    def on_batch_end(self, batch):
        with open(LOG, "a") as log:
            log.write(f"{len(batch)} {'advantages' in batch.batch}\\n")
"""


def test_a_data_set_hears_of_every_step_that_another_follows(run_steps, tmp_path):
    log, dataset = tmp_path / "batches.txt", tmp_path / "dataset.py"
    dataset.write_text(f"LOG = {str(log)!r}\n{DATASET}")
    run_steps(4, f"data.custom_cls.path={dataset}", "data.custom_cls.name=Watching")
    assert log.read_text().splitlines() == [f"{TOTAL_BUDGET} True"] * 3


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        # More agent loop workers than prompts.
        (
            "actor_rollout_ref.rollout.mode=async",
            "actor_rollout_ref.rollout.agent.num_workers=32",
            "data.return_raw_chat=true",
        ),
    ],
    ids=["sync", "async"],
)
def test_the_baseline_of_a_row_is_what_its_prompts_greedy_response_earns(run_steps, overrides):
    workers, _ = run_steps(2, "algorithm.adv_estimator=remax", *overrides)
    for batch in workers.updates:
        earned = [float(by_family(prompt, 0)) for prompt in rows_of(batch)["prompt"]]
        assert batch.batch["reward_baselines"].tolist() == earned and len(set(earned)) == 2
