"""The trainer's own part of a step, driven without Ray: the workers are stand-ins that answer by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from stand_in_workers import TOTAL_BUDGET, M, StandInWorkers, half_of_the_copies, never, rows_of

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics
from verl import DataProto
from verl.trainer.ppo.advantages import clip_advantages, truncated_importance_weights
from verl.trainer.ppo.core_algos import compute_policy_loss
from verl.trainer.ppo.ray_trainer import compute_response_mask
from verl.utils.checkpoint_state import step_of, whole_checkpoints

ASYNCHRONOUS = (
    "actor_rollout_ref.rollout.mode=async",
    "actor_rollout_ref.rollout.agent.num_workers=4",
    "data.return_raw_chat=true",
)


@pytest.mark.parametrize(
    "overrides",
    [
        ("exploration.dispatch=random", "trainer.balance_batch=true"),
        ("exploration.dispatch=packed", "trainer.balance_batch=false"),
        ("exploration.dispatch=random", *ASYNCHRONOUS),
        ("exploration.dispatch=packed", *ASYNCHRONOUS),
    ],
)
def test_the_columns_of_a_row_belong_to_the_same_prompt(run_steps, answers, overrides):
    workers, run_folder = run_steps(4, "algorithm.adv_clip=null", *overrides)
    assert {len(batch) for batch in workers.generated} == {TOTAL_BUDGET // 4 if "mode=async" in str(overrides) else 64}
    history = read_history(run_folder / "history").to_pandas()
    assert history.groupby("step")["budget"].agg(["min", "max"]).iloc[-1].tolist() != [4, 4]
    for number, batch in enumerate(workers.updates, start=1):
        rows = rows_of(batch)
        assert len(rows) == TOTAL_BUDGET
        assert (rows["prompt"] == rows["input"]).all()
        assert (rows["prompt"].map(answers) == rows["ground_truth"]).all()
        assert (rows["score"] == (rows["response"] == "." + rows["ground_truth"])).all()
        assert (rows.groupby("uid")["prompt"].nunique() == 1).all() and rows["uid"].nunique() == M
        assert (rows.groupby("prompt")["uid"].nunique() == 1).all()
        explored = history[history["step"] == number].set_index("prompt_id")
        by_prompt = rows.groupby("prompt_id")
        pd.testing.assert_series_equal(by_prompt.size(), explored["budget"].sort_index(), check_names=False)
        pd.testing.assert_series_equal(
            by_prompt["score"].sum(), explored["successes"].sort_index(), check_names=False, check_dtype=False
        )
        assert by_prompt["advantage"].sum().abs().max() < 1e-4


def test_the_next_epoch_is_allocated_by_what_the_stand_in_solved(run_steps):
    _, run_folder = run_steps(4)
    history = read_history(run_folder / "history").to_pandas()
    first, second = history[history["step"] <= 2], history[history["step"] > 2]
    assert (first["budget"] == TOTAL_BUDGET // M).all() and first["estimate"].isna().all()
    solved, mixed = second[second["estimate"] == 1], second[second["estimate"].between(0.1, 0.9)]
    assert (solved["budget"] == 2).all() and len(solved) > 0
    assert (mixed["budget"] > 2).all() and len(mixed) > 0


def test_the_total_budget_follows_its_schedule(run_steps):
    workers, run_folder = run_steps(4, "exploration.total_budget=[[1,64],[3,128]]")
    assert [len(batch) for batch in workers.updates] == [64, 64, 128, 128]
    assert read_metrics(run_folder)[-1]["training/cumulative_rollouts"] == 2 * 64 + 2 * 128


def test_dynamic_sampling_trains_on_what_it_has_at_the_cap(run_steps):
    workers, run_folder = run_steps(
        2,
        "exploration.dynamic_sampling.enable=true",
        "exploration.dynamic_sampling.max_generations=3",
        succeeds=never,
    )
    assert [len(batch) for batch in workers.updates] == [TOTAL_BUDGET] * 2
    assert len(workers.generated) == 6
    for number, metrics in enumerate(read_metrics(run_folder), start=1):
        assert metrics["training/reached_max_generations"] == 1.0
        assert metrics["training/cumulative_rollouts"] == 3 * TOTAL_BUDGET * number
        assert metrics["training/effective_gradient_ratio"] == 0.0


def test_dynamic_sampling_keeps_the_rollouts_with_a_gradient(run_steps):
    workers, _ = run_steps(
        1, "exploration.dynamic_sampling.enable=true", "exploration.dynamic_sampling.max_generations=8"
    )
    (batch,) = workers.updates
    assert len(workers.generated) > 1
    rows = rows_of(batch)
    assert (rows.groupby("uid")["score"].nunique() == 2).all()


def test_dynamic_sampling_alone_counts_every_rollout_and_reports_the_scores_of_all(run_steps):
    workers, run_folder = run_steps(
        3, "exploration.allocator=homogeneous", "exploration.dynamic_sampling.enable=true", "trainer.total_epochs=9"
    )
    history = read_history(run_folder / "history").to_pandas().groupby("step")[["budget", "successes"]].sum()
    assert {len(batch) for batch in workers.updates} == {TOTAL_BUDGET}
    for metrics in read_metrics(run_folder):
        explored = history.loc[metrics["step"]]
        assert explored["budget"] == metrics["training/num_generations"] * TOTAL_BUDGET
        assert metrics["critic/score/mean"] == pytest.approx(explored["successes"] / explored["budget"])
        assert metrics["critic/rewards/mean"] == metrics["critic/score/mean"]
    assert read_metrics(run_folder)[-1]["training/cumulative_rollouts"] == history["budget"].sum()
    assert history["budget"].max() > TOTAL_BUDGET


def test_dynamic_sampling_leaves_no_rollout_without_its_group(run_steps):
    workers, _ = run_steps(4, "exploration.dynamic_sampling.enable=true", "trainer.total_epochs=9")
    for batch in workers.updates:
        rows = rows_of(batch)
        assert len(rows) == TOTAL_BUDGET
        assert rows.groupby("uid").size().min() > 1
        assert rows.groupby("uid")["advantage"].sum().abs().max() < 1e-4


def test_dynamic_sampling_trains_on_the_batch_size_however_many_prompts_it_draws(run_steps):
    workers, _ = run_steps(1, "exploration.dynamic_sampling.enable=true", f"+data.gen_batch_size={2 * M}")
    assert [len(batch) for batch in workers.generated] == [2 * TOTAL_BUDGET]
    assert [len(batch) for batch in workers.updates] == [TOTAL_BUDGET]


def test_workers_that_share_an_engine_count_as_one_place(run_steps):
    """Two engines of two workers each: a prompt on both workers of an engine is not split."""
    _, run_folder = run_steps(
        1,
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=2",
        "exploration.dispatch=packed",
        world_size=4,
    )
    (metrics,) = read_metrics(run_folder)
    assert metrics["dispatch/split_prompts"] <= 1
    assert metrics["dispatch/workers_per_prompt"] <= (M + 1) / M


def test_a_run_that_only_validates_leaves_what_was_recorded(run_steps):
    _, run_folder = run_steps(4, "trainer.save_freq=2")
    before = {file: file.read_bytes() for file in run_folder.rglob("*") if file.is_file()}
    for resume in (["trainer.resume_mode=disable"], []):
        workers, _ = run_steps(4, "trainer.val_only=true", "trainer.val_before_train=true", *resume)
        assert workers.updates == [] and len(workers.generated) > 0
    after = {file: file.read_bytes() for file in before}
    for file, content in before.items():
        if file.name == "metrics.jsonl":
            assert after[file].startswith(content)
        else:
            assert after[file] == content, file


def test_after_a_fresh_start_a_resume_does_not_return_to_the_course_given_up(run_steps):
    run_steps(6, "trainer.save_freq=2")
    run_steps(3, "trainer.save_freq=2", "trainer.resume_mode=disable")
    workers, run_folder = run_steps(4, "trainer.save_freq=2")
    assert [path.parent.name for path in workers.loaded] == ["global_step_3"]
    assert [record["step"] for record in read_metrics(run_folder)] == [1, 2, 3, 4]
    assert (run_folder / "global_step_6" / "actor").is_dir()


def test_the_last_step_is_validated_and_saved_when_the_data_end_before_the_steps(run_steps):
    _, run_folder = run_steps(
        9, "trainer.total_epochs=2", "trainer.save_freq=3", "trainer.test_freq=3", "trainer.val_before_train=false"
    )
    assert [step_of(folder) for folder in whole_checkpoints(run_folder)] == [4, 3]
    validated = [record["step"] for record in read_metrics(run_folder) if any(key.startswith("val") for key in record)]
    assert validated == [3, 4]


def test_advantages_are_clipped_and_the_clipped_share_is_logged(run_steps):
    one_of_a_few = {"succeeds": lambda prompt, copy: copy == 0}
    workers, run_folder = run_steps(1, "algorithm.adv_clip=0.6", **one_of_a_few)
    advantages = workers.updates[0].batch["advantages"]
    on_response = workers.updates[0].batch["response_mask"].bool()
    assert advantages.max() == pytest.approx(0.6) and advantages.min() == pytest.approx(-0.5, abs=1e-3)
    clipped = (advantages[on_response] == advantages.max()).float().mean().item()
    assert read_metrics(run_folder)[0]["actor/adv_clip_ratio"] == pytest.approx(clipped)


@pytest.mark.parametrize(("prompt_weight", "power"), [("rows", 0.0), ("sqrt", -0.5), ("equal", -1.0)])
def test_prompts_are_weighted_after_the_clip(run_steps, prompt_weight, power):
    """Advantages of the clip's bound show the factor alone; the update's shares are logged by budget."""
    workers, run_folder = run_steps(4, "algorithm.adv_clip=0.01", f"algorithm.prompt_weight={prompt_weight}")
    batch = workers.updates[-1]
    rows = rows_of(batch)
    rollouts = rows.groupby("uid")["uid"].transform("size").to_numpy()
    assert rollouts.min() < rollouts.max()
    factor = rollouts**power / np.mean(rollouts**power)
    magnitude = rows["advantage"].abs().to_numpy()
    has_gradient = magnitude > 0
    np.testing.assert_allclose(magnitude[has_gradient], 0.01 * factor[has_gradient], rtol=1e-5)

    metrics = read_metrics(run_folder)[-1]
    tokens = batch.batch["response_mask"].sum(dim=-1).numpy()
    pull = magnitude * tokens
    in_range = (rollouts >= 2) & (rollouts <= 3)
    assert metrics["gradient_share/budget_2_3"] == pytest.approx(pull[in_range].sum() / pull.sum(), rel=1e-5)
    shares = pd.Series(pull / pull.sum()).groupby(rows["uid"]).sum()
    assert metrics["gradient_share/largest_prompt"] == pytest.approx(shares.max(), rel=1e-5)
    assert metrics["gradient_share/prompts"] == pytest.approx(1 / (shares**2).sum(), rel=1e-5)


def test_weights_are_by_the_rollouts_that_are_trained_on(run_steps):
    """Dynamic sampling leaves rollouts out; what is left of a prompt decides on its weight."""
    workers, _ = run_steps(
        4,
        "algorithm.adv_clip=0.01",
        "algorithm.prompt_weight=equal",
        "exploration.dynamic_sampling.enable=true",
        "trainer.total_epochs=9",
    )
    for batch in workers.updates:
        rows = rows_of(batch)
        together = rows["advantage"].abs().groupby(rows["uid"]).sum()
        trained = together[together > 0]  # at the cap on generations others fill the batch
        assert len(trained) > 1
        np.testing.assert_allclose(trained, 0.01 * len(rows) / len(together), rtol=1e-5)


@pytest.mark.parametrize("cap", [1.5, 4.0])
def test_the_importance_cap_acts_on_the_loss_where_rollout_and_training_policy_differ(run_steps, cap):
    """Ratio exp(1) = 2.718 between the policies: capped at 1.5, left as it is below 4."""
    policies = {"old_log_prob": -1.0, "rollout_log_prob": -2.0}
    workers, run_folder = run_steps(1, f"exploration.rollout_is_cap={cap}", succeeds=half_of_the_copies, **policies)
    batch = workers.updates[0].batch
    mask = batch["response_mask"].float()
    weight = min(np.exp(1.0), cap)

    updated_log_prob = (batch["old_log_probs"] + 0.05).requires_grad_()
    loss, *_ = compute_policy_loss(
        batch["old_log_probs"], updated_log_prob, batch["advantages"], batch["response_mask"], cliprange=0.2
    )
    loss.backward()
    scores = batch["token_level_scores"].sum(dim=-1)
    group_advantage = torch.where(scores > 0, 1.0, -1.0) * np.sqrt(3) / 2  # two of four: (1 - 0.5) / std
    expected_gradient = -weight * np.exp(0.05) * group_advantage[:, None] * mask / mask.sum()
    assert loss.item() == pytest.approx(expected_gradient.sum().item(), abs=1e-5)
    torch.testing.assert_close(updated_log_prob.grad, expected_gradient, rtol=1e-4, atol=1e-7)
    metrics = read_metrics(run_folder)[0]
    assert metrics["training/rollout_is_weight_mean"] == pytest.approx(weight)
    assert metrics["training/rollout_is_capped_ratio"] == float(cap < np.exp(1.0))


@pytest.mark.parametrize(
    "damaged",
    [
        "history/steps-00000003-*.parquet",
        "global_step_4/task_status.npz",
        "global_step_4/trainer_state.json",
        "global_step_4/data.pt",
    ],
)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(run_steps, caplog, damaged):
    _, run_folder = run_steps(4, "trainer.save_freq=2")
    (file,) = run_folder.glob(damaged)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    workers, _ = run_steps(6, "trainer.save_freq=2")
    assert [path.parent.name for path in workers.loaded] == ["global_step_2"]
    assert any(str(file) in line and "Falling back" in line for line in caplog.messages)

    _, whole = run_steps(6, "trainer.save_freq=2", folder="whole")
    pd.testing.assert_frame_equal(
        *(read_history(folder / "history").to_pandas() for folder in (run_folder, whole)), check_exact=True
    )
    assert [record["step"] for record in read_metrics(run_folder)] == list(range(1, 7))
    spent = [[record["training/cumulative_rollouts"] for record in read_metrics(f)] for f in (run_folder, whole)]
    assert spent[0] == spent[1]
    status = [(folder / "global_step_6" / "task_status.npz").read_bytes() for folder in (run_folder, whole)]
    assert status[0] == status[1]


@pytest.mark.parametrize("rotation", ["trainer.max_actor_ckpt_to_keep=1", "+trainer.remove_previous_ckpt_in_save=true"])
def test_the_last_checkpoint_is_removed_only_when_the_next_is_whole(run_steps, rotation, monkeypatch):
    save, whole_while_saving = StandInWorkers.save_checkpoint, []

    def look_and_save(self, folder: str, *arguments: Any, **named: Any) -> None:
        assert named["max_ckpt_to_keep"] is None
        whole_while_saving.append([path.name for path in whole_checkpoints(Path(folder).parents[1])])
        save(self, folder, *arguments, **named)

    monkeypatch.setattr(StandInWorkers, "save_checkpoint", look_and_save)
    _, run_folder = run_steps(3, "trainer.save_freq=1", rotation)
    assert whole_while_saving == [[], ["global_step_1"], ["global_step_2"]]
    assert [path.parent.name for path in run_folder.glob("global_step_*/actor")] == ["global_step_3"]


def test_clipping_leaves_what_lies_within():
    advantages = torch.tensor([[-9.0, -5.0, 0.3], [5.0, 5.1, 0.0]])
    assert clip_advantages(advantages, 5.0).tolist() == [[-5.0, -5.0, pytest.approx(0.3)], [5.0, 5.0, 0.0]]
    assert clip_advantages(advantages, None) is advantages


def test_importance_weights_are_ratios_up_to_the_cap_and_carry_no_gradient():
    training = torch.tensor([[-1.0, -1.0, -3.0]], requires_grad=True)
    weights = truncated_importance_weights(training, torch.tensor([[-1.0, -9.0, -2.0]]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 2.0, np.exp(-1.0)]], dtype=torch.float32))
    assert not weights.requires_grad


def test_the_response_mask_covers_the_response_only():
    batch = DataProto.from_single_dict(
        {"responses": torch.zeros(1, 3), "attention_mask": torch.tensor([[0, 1, 1, 1, 1, 0]])}
    )
    assert compute_response_mask(batch).tolist() == [[1, 1, 0]]
