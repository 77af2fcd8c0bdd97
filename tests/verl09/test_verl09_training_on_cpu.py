"""Trainings through verl 0.9's own entry point, which is not patched, with a real vLLM server."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from recorded_run import (
    RecordedRun,
    budgets_of,
    check_history_against_rows,
    check_rows,
    estimates_of,
    kept_rollouts_of,
    read_run,
)
from small_run import PROMPTS, PROMPTS_OF_A_STEP, ROLLOUTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from knapsack_rl import ExplorationConfig, Explorer, TaskStatus, prompt_id
from knapsack_rl.charts import BUDGET_HISTOGRAM, BUDGETS_BY_SUCCESS_RATE
from knapsack_rl.run_folder import TRAINER_STATE_FILE, read_json

ROLLOUTS_OF_A_STEP = PROMPTS_OF_A_STEP * ROLLOUTS
STEPS_OF_AN_EPOCH = PROMPTS // PROMPTS_OF_A_STEP
LAST_STEP = 3 * STEPS_OF_AN_EPOCH
CHARTS_EVERY = 5
SIMILAR_BY = "exploration.success_rate.similar_by"


@pytest.fixture(scope="module")
def killed_and_resumed(start, train, tmp_path_factory) -> tuple[Path, Path, int]:
    """A run of three epochs that was killed in its second one and resumed; its folder as it was when it was killed; the
    step that it resumed from."""
    folder = tmp_path_factory.mktemp("knapsack") / "run"
    save = (
        "trainer.save_freq=1",
        f"trainer.test_freq={LAST_STEP // 2}",
        f"{SIMILAR_BY}=[data_source,extra_info.family]",
        "trainer.logger=[console,wandb,tensorboard]",
        f"exploration.log_histogram_every={CHARTS_EVERY}",
        "exploration.dump_rollouts=all",
    )
    logs = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "TENSORBOARD_DIR": str(folder / "tensorboard")}
    training = start(folder, *save, **logs)
    metrics = folder / "metrics.jsonl"
    training.wait_until(
        lambda: metrics.exists() and len(metrics.read_text().splitlines()) > STEPS_OF_AN_EPOCH + 2, "second epoch"
    )
    training.kill()
    as_killed = folder.with_name("as_killed")
    shutil.copytree(folder, as_killed)
    resumed_from = int((folder / "latest_checkpointed_iteration.txt").read_text())
    train(folder, *save, **logs)
    return folder, as_killed, resumed_from


def test_every_step_spends_its_budget_and_every_row_belongs_together(killed_and_resumed, tiny_task):
    run = read_run(killed_and_resumed[0])
    assert sorted(run.metrics) == list(range(1, LAST_STEP + 1))
    assert (run.history.groupby("step")["budget"].sum() == ROLLOUTS_OF_A_STEP).all()
    assert (run.rows.groupby("step").size() == ROLLOUTS_OF_A_STEP).all() and run.padding == {}
    check_rows(run, tiny_task)
    check_history_against_rows(run)
    for (_, _), group in run.rows.groupby(["step", "uid"]):
        assert sorted(group["session"]) == list(range(len(group)))


def test_every_epoch_has_every_prompt_once(killed_and_resumed):
    run = read_run(killed_and_resumed[0])
    for epoch, prompts in run.history.groupby("epoch")["prompt_id"]:
        assert len(prompts) == len(set(prompts)) == PROMPTS, epoch
    assert run.history.groupby("step")["epoch"].first().tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_budgets_follow_from_what_the_epoch_before_earned(killed_and_resumed):
    """The knapsack's budgets are those of an explorer that saw the same outcomes: the overlay for 0.5 has the same."""
    run = read_run(killed_and_resumed[0])
    earned = run.history.assign(rate=run.history["successes"] / run.history["budget"])
    for step in range(STEPS_OF_AN_EPOCH + 1, LAST_STEP + 1):
        of_step = earned[earned["step"] == step]
        before = earned[earned["epoch"] == of_step["epoch"].iloc[0] - 1].set_index("prompt_id")["rate"]
        assert of_step["estimate"].tolist() == before[of_step["prompt_id"]].tolist()
    later = run.history[run.history["step"] > STEPS_OF_AN_EPOCH]
    assert later.groupby("step")["budget"].nunique().max() > 1, "every prompt got the same"
    assert later["budget"].between(2, 16).all()


def test_the_first_epoch_is_planned_by_similar_prompts(killed_and_resumed, tiny_task):
    history = read_run(killed_and_resumed[0]).history
    rows = pd.read_parquet(tiny_task / "train.parquet")
    ids = map(prompt_id, rows["data_source"], rows["prompt"])
    family = history["prompt_id"].map(dict(zip(ids, (entry["family"] for entry in rows["extra_info"]), strict=True)))
    for step in range(1, STEPS_OF_AN_EPOCH + 1):
        seen = set(family[history["step"] < step])
        of_step = history["step"] == step
        assert (history["estimate"][of_step].isna() == ~family[of_step].isin(seen)).all()


def test_rollout_servers_have_the_weights_that_are_trained(killed_and_resumed):
    run = read_run(killed_and_resumed[0])
    assert max(metrics["training/rollout_probs_diff_max"] for metrics in run.metrics.values()) < 1e-3


def test_metrics_have_the_names_of_the_fork_for_verl_05(killed_and_resumed):
    from knapsack_rl.metrics import METRICS

    run = read_run(killed_and_resumed[0])
    logged = set(run.metrics[LAST_STEP])
    assert {
        "training/effective_gradient_ratio",
        "training/effective_prompt_ratio",
        "training/cumulative_rollouts",
        "allocation/max_budget",
        "allocation/min_budget",
        "prompt/all_positive_ratio",
        "timing_s/allocate",
        "actor/adv_clip_ratio",
    } <= logged
    assert {name for name in logged if name.startswith(("allocation/", "prompt/"))} <= set(METRICS)
    assert any(name.startswith("val-") for name in run.metrics[LAST_STEP])
    assert run.metrics[LAST_STEP]["training/cumulative_rollouts"] == LAST_STEP * ROLLOUTS_OF_A_STEP


def test_the_resumed_run_goes_on_in_wandb_and_charts_go_to_the_loggers(killed_and_resumed):
    folder = killed_and_resumed[0]
    started = [run.name.rsplit("-", 1)[1] for run in folder.glob("wandb/offline-run-*")]
    assert len(started) == 2 and set(started) == {(folder / "wandb_run.txt").read_text()}
    everything = {"images": 0, "histograms": 0}
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance=everything).Reload()
    due = {*range(CHARTS_EVERY, LAST_STEP + 1, CHARTS_EVERY), LAST_STEP}
    # TensorBoard loses what it had not flushed when the run was killed.
    after_the_kill = {step for step in due if step > killed_and_resumed[2]}
    for shown in (events.Images(BUDGETS_BY_SUCCESS_RATE), events.Histograms(BUDGET_HISTOGRAM)):
        assert after_the_kill <= {event.step for event in shown} <= due


def test_the_report_opens_the_run(killed_and_resumed):
    from recipe.knapsack.report.run_data import load_run

    run = load_run(killed_and_resumed[0])
    assert run.problems == () and run.last_step == LAST_STEP
    assert len(run.history) == 3 * PROMPTS and run.setting("exploration.allocator") == "knapsack"


def test_all_rollouts_are_kept_with_what_history_and_verls_dump_say_of_them(killed_and_resumed, tmp_path):
    folder = killed_and_resumed[0]
    run, kept = read_run(folder), kept_rollouts_of(folder)
    assert kept.groupby("step").size().to_dict() == run.rows.groupby("step").size().to_dict()
    columns = ["step", "prompt_id", "response", "score"]
    shown = run.rows.rename(columns={"output": "response"})[columns].sort_values(columns, ignore_index=True)
    pd.testing.assert_frame_equal(kept[columns].sort_values(columns, ignore_index=True), shown, check_dtype=False)
    assert (kept["acc"] == kept["score"]).all() and kept["pred"].notna().any()
    groups = kept.groupby(["step", "prompt_id"])
    counted = groups[["epoch", "estimate", "budget"]].first().reset_index()
    counted["successes"] = groups["is_success"].sum().to_numpy()
    counted["response_tokens"] = groups["response_tokens"].sum().to_numpy()
    recorded = run.history.sort_values(["step", "prompt_id"], ignore_index=True)[list(counted)]
    pd.testing.assert_frame_equal(counted, recorded, check_dtype=False)
    # GRPO's advantages of a group have mean 0, and are 0 where all rollouts earned the same.
    assert groups["advantage"].mean().abs().max() < 1e-4
    assert (kept.groupby(["step", "prompt_id"])["advantage"].std() > 0).equals(groups["score"].nunique() > 1)


def test_the_viewer_opens_the_run(killed_and_resumed, tmp_path):
    from recipe.knapsack.view.prompt_record import find_prompt, kept_rollouts, visits_of
    from recipe.knapsack.view.prompt_texts import PromptTexts
    from recipe.knapsack.view.run_files import RunFiles
    from recipe.knapsack.view.run_index import RunIndex

    files = RunFiles("run", killed_and_resumed[0])
    index = RunIndex(tmp_path / "index.sqlite", [files])
    index.update_history()
    index.update_rollouts()
    PromptTexts(index).update()
    assert files.problems == {}
    visited = read_run(killed_and_resumed[0]).history.iloc[-1]
    with index.connect() as database:
        prompt = find_prompt(database, visited["prompt_id"])
        visit = visits_of(database, prompt, 0, files)[-1]
        shown = kept_rollouts(database, prompt, 0, files, visit.step, first=0, most=99)
    assert prompt.messages and prompt.ground_truth
    assert (visit.step, visit.budget, visit.rule) == (visited["step"], visited["budget"], visited["rule"])
    assert len(shown.rollouts) == visited["budget"] and not shown.problem


def test_prompts_are_known_by_what_verl_05_knows_them_by(killed_and_resumed, tiny_task):
    """The ids are those of content, made from the data alone; so a task status of either verl serves the other."""
    status = TaskStatus.load(killed_and_resumed[0] / f"global_step_{LAST_STEP}" / "task_status.npz")
    data = pd.read_parquet(tiny_task / "train.parquet")
    assert set(status.prompt_ids) == set(map(prompt_id, data["data_source"], data["prompt"]))


def test_the_killed_run_goes_on_from_its_last_checkpoint(killed_and_resumed, tiny_task):
    folder, as_killed, resumed_from = killed_and_resumed
    before, after = read_run(as_killed), read_run(folder)
    assert resumed_from >= STEPS_OF_AN_EPOCH + 2
    for step in range(1, resumed_from + 1):
        assert budgets_of(before, step) == budgets_of(after, step)
    status = TaskStatus.load(folder / f"global_step_{resumed_from}" / "task_status.npz")
    assert_first_plan_follows(after, resumed_from + 1, status)


def assert_first_plan_follows(run: RecordedRun, step: int, status: TaskStatus) -> None:
    """The budgets of ``step`` are those that an explorer plans that knows ``status``."""
    explorer = Explorer(ExplorationConfig(n_up=16), rollouts_per_prompt=ROLLOUTS)
    explorer.task_status = status
    of_step = run.history[run.history["step"] == step]
    plan = explorer.plan(of_step["prompt_id"].tolist(), epoch=int(of_step["epoch"].iloc[0]), step=step)
    assert dict(zip(plan.prompt_ids, plan.budgets.tolist())) == budgets_of(run, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", [STEPS_OF_AN_EPOCH, STEPS_OF_AN_EPOCH + 1], ids=["between_epochs", "within_an_epoch"])
def test_a_resumed_run_repeats_the_budgets_to_the_bit(killed_and_resumed, train, tmp_path, step):
    _, as_killed, _ = killed_and_resumed
    folder = tmp_path / "run"
    shutil.copytree(as_killed, folder)
    train(
        folder,
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={folder}/global_step_{step}",
        f"trainer.total_training_steps={step + 1}",
    )
    before, after = read_run(as_killed), read_run(folder)
    assert max(after.history["step"]) == step + 1
    assert estimates_of(after, step + 1) == estimates_of(before, step + 1)
    assert budgets_of(after, step + 1) == budgets_of(before, step + 1)


@pytest.mark.slow
def test_evicted_and_failed_groups_are_learned_from_and_padding_is_not(train, tiny_task, tmp_path):
    """DAPO's filter evicts what is always or never solved, which the knapsack must know; some sessions fail."""
    folder = tmp_path / "run"
    train(
        folder,
        "algorithm.filter_groups.enable=true",
        "trainer.v1.sampler.sync_refill_failed_groups=true",
        "trainer.total_training_steps=3",
        "trainer.save_freq=3",
        "exploration.dump_rollouts=6",
        ranks=2,
        ONE_FAILS_OF="10",
    )
    run = read_run(folder)
    check_rows(run, tiny_task)
    check_history_against_rows(run)
    evicted = sum(metrics.get("training/filter_groups/evicted_samples", 0) for metrics in run.metrics.values())
    trained = run.rows.groupby(["step", "uid"]).ngroups
    assert evicted > 0 and len(run.history) >= trained + evicted
    rates = run.history["successes"] / run.history["budget"]
    assert {0.0, 1.0} <= set(rates), "what was evicted is not known"
    status = TaskStatus.load(folder / "global_step_3" / "task_status.npz")
    assert set(status.prompt_ids) == set(run.history["prompt_id"])
    kept = kept_rollouts_of(folder)
    trained_on = set(run.rows[["step", "prompt_id", "output"]].itertuples(index=False, name=None))
    assert set(kept[["step", "prompt_id", "response"]].itertuples(index=False, name=None)) <= trained_on
    assert kept.groupby("step").size().to_dict() == {1: 6, 2: 6, 3: 6}
    assert run.padding and (run.history["budget"] < ROLLOUTS_OF_A_STEP).all()
    assert run.metrics[3]["training/cumulative_rollouts"] == run.history["budget"].sum()
    assert any(set(group) != set(range(max(group) + 1)) for _, group in run.rows.groupby(["step", "uid"])["session"])


@pytest.mark.slow
def test_failed_groups_alone_are_refilled_and_a_prior_and_prompt_weights_act(train, tiny_task, tmp_path):
    data = pd.read_parquet(tiny_task / "train.parquet")
    ids = [prompt_id(source, messages) for source, messages in zip(data["data_source"], data["prompt"])]
    prior = tmp_path / "prior.csv"
    pd.DataFrame({"prompt_id": ids, "success_rate": np.linspace(0, 1, len(ids))}).to_csv(prior, index=False)
    folder = tmp_path / "run"
    train(
        folder,
        "trainer.v1.sampler.sync_refill_failed_groups=true",
        "exploration.preset=recommended",
        f"exploration.success_rate.prior={prior}",
        "exploration.max_expected_tokens=1.0x",  # it has no metric of its own here
        f"trainer.total_training_steps={STEPS_OF_AN_EPOCH + 1}",
        f"trainer.save_freq={STEPS_OF_AN_EPOCH + 1}",
        ONE_FAILS_OF="2",
    )
    run = read_run(folder)
    check_rows(run, tiny_task)
    check_history_against_rows(run)
    assert set(run.rows.groupby("step")["uid"].nunique()) == {PROMPTS_OF_A_STEP}
    state = read_json(folder / f"global_step_{STEPS_OF_AN_EPOCH + 1}" / TRAINER_STATE_FILE)
    assert state["prompts_fetched"] > run.rows.groupby(["step", "uid"]).ngroups, "no group failed as a whole"
    first = run.history[run.history["step"] == 1]
    rates = dict(zip(ids, np.linspace(0, 1, len(ids))))
    assert first["estimate"].tolist() == pytest.approx([rates[each] for each in first["prompt_id"]], abs=0.2)
    assert first["budget"].nunique() > 1, "the first step allocates by the prior"
    # A step none of whose groups is mixed has no gradient to share.
    has_gradient = {step: metrics["training/effective_gradient_ratio"] > 0 for step, metrics in run.metrics.items()}
    has_shares = {step: any(key.startswith("gradient_share/") for key in run.metrics[step]) for step in run.metrics}
    assert has_shares == has_gradient and any(has_gradient.values())


@pytest.mark.slow
def test_homogeneous_is_grpo_and_its_failed_sessions_shrink_their_groups(train, tiny_task, tmp_path):
    folder = tmp_path / "run"
    train(folder, "exploration.allocator=homogeneous", "trainer.total_training_steps=3", ranks=2, ONE_FAILS_OF="12")
    run = read_run(folder)
    check_rows(run, tiny_task)
    check_history_against_rows(run)
    assert run.history["budget"].max() == ROLLOUTS and run.history["budget"].min() < ROLLOUTS
    trained = run.rows.groupby("step").size()
    assert all(trained[step] + run.padding.get(step, 0) == ROLLOUTS_OF_A_STEP for step in trained.index)


@pytest.mark.slow
def test_colocate_async_plans_with_what_it_knows_and_resumes(train, tiny_task, tmp_path):
    folder = tmp_path / "run"
    colocated = ("trainer.v1.trainer_mode=knapsack_colocate_async", "trainer.save_freq=1")
    train(folder, *colocated, f"trainer.total_training_steps={STEPS_OF_AN_EPOCH + 2}")
    train(folder, *colocated, f"trainer.total_training_steps={STEPS_OF_AN_EPOCH + 3}")
    run = read_run(folder)
    assert sorted(run.metrics) == list(range(1, STEPS_OF_AN_EPOCH + 4))
    check_rows(run, tiny_task)
    check_history_against_rows(run)
    assert len(run.history) == PROMPTS_OF_A_STEP * (STEPS_OF_AN_EPOCH + 3)
    assert np.all(np.diff(run.history["epoch"]) >= 0)
