"""The overhead benchmark measures a step of the size it says, beside the run it is given."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf

from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.benchmarks import benchmark_overhead
from recipe.knapsack.benchmarks.benchmark_overhead import Size, Step, main, measure_beside_run, measure_parts, table

SMALL = Size(prompts=8, total_budget=64, known_prompts=20, prompt_tokens=4, response_tokens=16, n_up=32)


def test_the_measured_step_is_one_of_the_trainer(tmp_path):
    step = Step(SMALL, tmp_path)
    assert len(step.explorer.task_status) == 20
    assert step.plan.budgets.sum() == 64 and len(np.unique(step.plan.budgets)) > 1
    expanded = step.expand()
    assert expanded.batch["input_ids"].shape == (64, 4)
    assert expanded.non_tensor_batch["uid"].tolist() == [step.prompt_ids[index] for index in step.plan.order]
    assert step.compute_metrics()["allocation/mean_budget"] == 8.0
    step.append_and_flush_history()
    assert len(list(tmp_path.iterdir())) == 1


def test_the_table_adds_up():
    text = table({"one part": 1.5, "another": 2.5}, step_milliseconds=400.0)
    sums = [line.split() for line in text.splitlines() if line.strip().startswith("sum")]
    assert sums == [["sum", "4.00", "ms", "1.00%"]]
    assert "%" not in table({"one part": 1.5}, step_milliseconds=None)


def test_every_part_takes_time(tmp_path):
    assert all(milliseconds > 0 for milliseconds in measure_parts(Step(SMALL, tmp_path), repeats=3).values())


@pytest.fixture
def run_folder(tmp_path):
    config = {
        "data": {"train_batch_size": 8, "max_prompt_length": 8, "max_response_length": 8},
        "actor_rollout_ref": {"rollout": {"n": 4}},
        "exploration": {"total_budget": None, "n_low": 2, "n_up": 16},
    }
    OmegaConf.save(OmegaConf.create(config), tmp_path / "config.yaml")
    history = ExplorationHistory(tmp_path / "history")
    ids = [f"prompt {number}" for number in range(10)]
    history.append(1, 0, ids, np.full(10, np.nan), np.full(10, 4), np.ones(10), np.ones(10))
    history.flush()
    return tmp_path


def test_a_run_is_measured_at_its_own_size(run_folder):
    metrics = MetricsFile(run_folder)
    metrics.log({"val-core/acc": 0.5}, step=0)
    for step in (1, 2, 3):
        metrics.log({"timing_s/step": float(step), "timing_s/allocate": 0.001, "timing_s/observe": 0.002}, step=step)
    text = measure_beside_run(run_folder, repeats=2)
    assert "M = 8, N_total = 32, 10 known prompts" in text
    assert "2000.00 ms" in text and "timing_s/observe of the run (median)" in text


def test_a_run_with_a_schedule_is_measured_at_its_largest_budget(run_folder):
    config = OmegaConf.load(run_folder / "config.yaml")
    config.exploration.total_budget = [[1, 32], [10, 64], [20, 16]]
    assert Size.of_run(config, known_prompts=10).total_budget == 64


def test_a_run_without_a_history_yet_is_one_line(run_folder, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_overhead, "Size", lambda: SMALL)
    MetricsFile(run_folder).log({"timing_s/step": 1.0}, step=1)
    shutil.rmtree(run_folder / "history")
    assert main(["--run", str(run_folder), "--repeats", "1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {run_folder}: ") and "no history" in said and said.count("\n") == 1


def test_a_run_without_steps_is_refused(run_folder):
    MetricsFile(run_folder).log({"val-core/acc": 0.5}, step=0)
    with pytest.raises(ValueError, match="no finished training step"):
        measure_beside_run(run_folder, repeats=1)
