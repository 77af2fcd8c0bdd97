"""The command, the kept results, and the table."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from training_process import ROOT

from knapsack_rl.presets import PRESETS
from recipe.knapsack.worlds import compare_worlds, world_runs
from recipe.knapsack.worlds.methods import METHODS, TUNING_WORLDS
from recipe.knapsack.worlds.plain_training import Validation
from recipe.knapsack.worlds.tasks import TASKS
from recipe.knapsack.worlds.world_runs import Result, WorldRun
from recipe.knapsack.worlds.world_table import interval_of_mean, world_table


def result(*accuracies: float, never_solved: int = 10) -> Result:
    return Result(
        tuple(
            Validation(number, 100 * number, 700 * number, 2.0 * number, accuracy, 0.25)
            for number, accuracy in enumerate(accuracies)
        ),
        never_solved,
    )


def test_what_is_final_was_not_tuned_on():
    assert len(TASKS["tiny"].final_worlds) == 12 and all(len(task.final_worlds) >= 6 for task in TASKS.values())
    assert not any(set(task.final_worlds) & set(TUNING_WORLDS) for task in TASKS.values())
    assert all(set(task.methods) <= set(METHODS) for task in TASKS.values())


def test_the_presets_are_what_the_project_ships():
    for name in ("paper", "recommended"):
        settings = METHODS[name].settings(world=3, learning_rate=1e-3, rollouts_per_prompt=4)
        assert settings.exploration.success_rate.estimator == PRESETS[name]["exploration.success_rate.estimator"]
        assert settings.prompt_weight == PRESETS[name]["algorithm.prompt_weight"]
        assert (settings.seed, settings.learning_rate, settings.rollouts_per_prompt) == (3, 1e-3, 4)


def test_the_table_pairs_by_world():
    results = {
        "GRPO": {1: result(0.4, 0.5, 0.6), 2: result(0.2, 0.3, 0.4)},
        "ours": {1: result(0.4, 0.6, 0.7), 2: result(0.2, 0.3, 0.35), 3: result(0.9, 0.9, 0.9)},
    }
    header, _, grpo, ours = world_table(results, "GRPO").splitlines()
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[1] == "3" and cells[3] == "+0.025 (-0.050 to +0.100)" and cells[4] == "1 of 2"
    assert cells[7:] == ["100%", "+0.025", "50%", "50%", "50%", "1 of 2"]
    assert grpo.count("|") == header.count("|") == ours.count("|")


def test_where_rollouts_are_longer_the_table_says_what_the_same_tokens_gain():
    longer = Result(tuple(replace(each, tokens=2 * each.tokens) for each in result(0.4, 0.55, 0.8).validations), 10)
    *_, ours = world_table({"GRPO": {1: result(0.4, 0.5, 0.6)}, "ours": {1: longer}}, "GRPO").splitlines()
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[3].startswith("+0.200") and cells[7:9] == ["200%", "-0.050"]


def test_a_method_that_never_gets_there_has_no_cost():
    results = {"GRPO": {1: result(0.4, 0.5)}, "ours": {1: result(0.4, 0.45)}}
    assert "| - | - | - | 0 of 1 |" in world_table(results, "GRPO")


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = interval_of_mean(rng.normal(0.05, 0.08, size=12))
        covered += low <= 0.05 <= high
    assert 0.86 <= covered / 200 <= 0.98  # percentiles of 12 values are a little narrow


def test_a_finished_training_is_kept_and_an_interrupted_one_is_not(warm_start, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(world_runs, "PROMPTS_PER_STEP", 1)
    calls = []
    monkeypatch.setattr(compare_worlds, "run_all", lambda runs, parallel: calls.extend(runs) or runs[0].run())
    shutil.copytree(warm_start, tmp_path / "world_5" / "warm_start")
    command = ["--output", str(tmp_path), "--worlds", "5", "--methods", "paper", "--steps", "2"]
    compare_worlds.main(command)
    assert [run.method for run in calls] == ["grpo", "paper"]
    assert "1 of 2 trainings are not finished" in capsys.readouterr().out
    kept = calls[0].result()
    assert kept.validations[0].rollouts == 0 and kept.validations[-1].rollouts >= 16 and kept.never_solved < 1024
    compare_worlds.main([*command, "--show"])
    assert len(calls) == 2 and "| GRPO | 1 |" in capsys.readouterr().out
    assert not list(tmp_path.glob("world_5/*.unfinished"))


@pytest.mark.slow
def test_no_training_outlives_a_killed_command(tmp_path):
    command = [sys.executable, "-m", "recipe.knapsack.compare_worlds", "--output", tmp_path, "--worlds", "5"]
    process = psutil.Popen([*map(str, command), "--parallel", "2"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while len(children := process.children(recursive=True)) < 3:
            assert time.monotonic() < deadline and process.is_running()
            time.sleep(0.1)
        time.sleep(20)  # until the workers have imported what they train with
    finally:
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_runs_that_differ_are_kept_apart(tmp_path):
    run = WorldRun(tmp_path, "tiny", "grpo", 1, 4e-4, 240, 8)
    others = [
        WorldRun(tmp_path, "tiny", "grpo", 1, 2e-4, 240, 8),
        WorldRun(tmp_path, "tiny", "grpo", 1, 4e-4, 240, 4),
    ]
    assert len({each.file for each in [run, *others]}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tune", "--worlds", "20"], "expected worlds of 0 to 11"),
        (["--steps", "0"], "--steps is 0: expected at least 1"),
        (["--rollouts", "1"], "--rollouts is 1: expected 2 to 128"),
        (["--methods", "best"], "invalid choice"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said, capsys):
    with pytest.raises(SystemExit):
        compare_worlds.main(options)
    assert said in capsys.readouterr().err


def test_a_task_whose_data_cannot_be_made_is_refused_and_can_be_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(compare_worlds, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        compare_worlds.main(["--task", "reasoning_gym", "--output", str(tmp_path)])
    assert "pip install -r requirements/reasoning_gym.txt" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no finished training"):
        compare_worlds.main(["--task", "reasoning_gym", "--output", str(tmp_path), "--show"])


def test_nothing_finished_is_said(tmp_path):
    with pytest.raises(SystemExit, match="no finished training"):
        compare_worlds.main(["--output", str(tmp_path), "--show"])
