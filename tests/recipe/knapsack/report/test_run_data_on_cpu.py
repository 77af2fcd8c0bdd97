"""Run folders as training leaves them: whole, still growing, resumed, crashed, damaged."""

import doctest
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic_run import ROLLOUTS_PER_PROMPT, SyntheticRun, build_run

from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.report import run_data
from recipe.knapsack.report.run_data import RunError, common_sources, config_differences, load_run, load_runs, summarize

SMALL = SyntheticRun(num_prompts=64, prompts_per_step=16, steps=20, planned_steps=20, validate_every=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load_run(build_run(tmp_path_factory.mktemp("run"), SMALL))


def with_metrics(folder, *records):
    """A run with these (step, metrics)."""
    for step, metrics in records:
        MetricsFile(folder).log(metrics, step)
    return load_run(folder)


def test_doctests():
    assert doctest.testmod(run_data).failed == 0


def test_a_whole_run_has_no_problems(run):
    assert run.problems == ()
    assert run.last_step == run.planned_steps == 20
    assert len(run.history) == 20 * 16
    assert run.setting("exploration.allocator") == "knapsack"
    assert run.setting("exploration.nothing") is None
    assert run.steps_per_epoch == 4


def test_summary_agrees_with_the_files(run):
    summary = summarize(run)
    ratios = run.metrics["training/effective_gradient_ratio"].dropna()
    assert summary.effective_ratio == pytest.approx(ratios.iloc[15:].mean())
    assert summary.largest_budget == run.history["budget"].max() > ROLLOUTS_PER_PROMPT
    assert summary.num_prompts == 64
    assert summary.rollouts == run.history["budget"].sum() == 20 * 16 * ROLLOUTS_PER_PROMPT
    assert summary.accuracy == run.metrics["val-core/tiny/acc/mean@4"].iloc[-1]
    assert summary.accuracy_step == 20
    assert summary.seconds == pytest.approx(run.metrics["timing_s/step"].sum())


def test_phases_add_up_to_the_step_and_count_nothing_twice(run):
    steps = run.metrics["timing_s/step"].dropna()
    np.testing.assert_allclose(run.phase_seconds.sum(axis=1), steps)
    np.testing.assert_allclose(run.phase_seconds["generation"], run.metrics["timing_s/gen"].loc[steps.index])
    np.testing.assert_allclose(run.phase_seconds["other"], 0.4)


def test_costs_start_at_zero_and_never_fall(run):
    for cost in (run.cumulative_rollouts, run.cumulative_seconds):
        assert cost.loc[0] == 0
        assert (cost.diff().dropna() > 0).all()
    assert run.cumulative_rollouts.loc[3] == 3 * 16 * ROLLOUTS_PER_PROMPT


def test_rollouts_come_from_the_history_where_the_metrics_lack_them(tmp_path):
    history = ExplorationHistory(tmp_path / "history")
    for step in (1, 2):
        history.append(step, 0, ["a", "b"], np.full(2, np.nan), np.array([3, 5]), np.zeros(2, int), np.zeros(2, int))
    history.flush()
    run = with_metrics(tmp_path, (0, {"x": 1.0}), (1, {"x": 1.0}), (2, {"x": 1.0}))
    assert run.cumulative_rollouts.to_dict() == {0: 0, 1: 8, 2: 16}


def test_the_validation_that_a_resumed_run_repeats_shares_a_row_with_the_step(tmp_path):
    run = with_metrics(
        tmp_path,
        (4, {"training/effective_gradient_ratio": 0.5, "val-core/a/acc/mean@1": 0.1}),
        (4, {"val-core/a/acc/mean@1": 0.2}),
        (5, {"training/effective_gradient_ratio": 0.7}),
    )
    assert run.metric("training/effective_gradient_ratio").to_dict() == {4: 0.5, 5: 0.7}
    assert run.held_out_accuracy["a (avg@1)"].to_dict() == {4: 0.2}


def test_held_out_accuracy_of_each_source(tmp_path):
    run = with_metrics(
        tmp_path,
        (
            1,
            {
                "val-core/math-ai/aime24/acc/mean@16": 0.3,
                "val-aux/math-ai/aime24/acc/mean@4": 0.9,
                "val-aux/math-ai/aime24/reward/mean@32": -0.5,
                "val-core/math-ai/aime24/acc/best@16/mean": 0.95,
                "val-core/gsm8k/reward/mean@1": 0.6,
            },
        ),
    )
    assert run.held_out_accuracy.loc[1].to_dict() == {"gsm8k (reward avg@1)": 0.6, "math-ai/aime24 (avg@16)": 0.3}


def test_the_summary_takes_the_last_validation_of_all_sets(tmp_path):
    run = with_metrics(
        tmp_path,
        (1, {"val-core/a/acc/mean@1": 0.2, "val-core/b/acc/mean@1": 0.4}),
        (2, {"val-core/a/acc/mean@1": 0.9}),
    )
    assert (summarize(run).accuracy, summarize(run).accuracy_step) == (pytest.approx(0.3), 1)
    assert summarize(run, ["a (avg@1)"]).accuracy == 0.9


def test_what_is_not_a_number_is_not_logged(tmp_path):
    run = with_metrics(tmp_path, (1, {"x": float("nan"), "y": 1.0}), (2, {"x": 2.0, "y": float("inf")}))
    assert run.metric("x").to_dict() == {2: 2.0}
    assert run.metric("y").to_dict() == {1: 1.0}


class TestFoldersThatLackSomething:
    def test_no_history(self, tmp_path):
        run = load_run(build_run(tmp_path, SyntheticRun(steps=3, history=False)))
        assert run.history.empty
        assert any("history" in problem for problem in run.problems)
        summary = summarize(run)
        assert summary.never_solved is None
        assert summary.largest_budget == run.metrics["allocation/max_budget"].max()

    def test_no_metrics(self, tmp_path):
        build_run(tmp_path, SMALL)
        (tmp_path / "metrics.jsonl").unlink()
        run = load_run(tmp_path)
        assert any("metrics.jsonl" in problem for problem in run.problems)
        assert run.last_step == 20
        summary = summarize(run)
        assert summary.rollouts == run.history["budget"].sum()
        assert summary.accuracy is summary.effective_ratio is summary.seconds is None

    def test_a_line_cut_off_by_a_crash(self, tmp_path):
        build_run(tmp_path, SMALL)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 21, "training/eff')
        run = load_run(tmp_path)
        assert run.problems == ()
        assert run.metrics.index.max() == 20

    def test_a_damaged_line_in_the_middle(self, tmp_path):
        path = build_run(tmp_path, SMALL) / "metrics.jsonl"
        whole = load_run(tmp_path).metrics
        path.write_text(path.read_text().replace('{"step": 7', '{"st', 1))
        run = load_run(tmp_path)
        (problem,) = run.problems
        assert "Damaged lines of metrics.jsonl are left out, the first for: line 8" in problem
        pd.testing.assert_frame_equal(run.metrics, whole.drop(index=7))

    def test_bytes_that_are_no_text_in_the_middle(self, tmp_path):
        path = build_run(tmp_path, SMALL) / "metrics.jsonl"
        first, *others = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(first + b"\xff\xfe\x00\n" + b"".join(others))
        run = load_run(tmp_path)
        assert len(run.problems) == 1 and run.metrics.index.tolist() == list(range(21))

    def test_what_is_not_finite_is_missing(self, tmp_path):
        path = build_run(tmp_path, SMALL) / "metrics.jsonl"
        path.write_text(path.read_text() + '{"step": 21, "timing_s/step": Infinity, "actor/grad_norm": NaN}\n')
        assert load_run(tmp_path).metrics.loc[21].isna().all()

    @pytest.mark.parametrize("line", ['{"loss": 1}', "null", "[1, 2]", '{"step": "x"}'])
    def test_a_line_without_a_step(self, tmp_path, line):
        path = build_run(tmp_path, SMALL) / "metrics.jsonl"
        path.write_text(f"{line}\n{path.read_text()}")
        (problem,) = load_run(tmp_path).problems
        assert "the first for: line 1 is" in problem and "expected an object with a number 'step'" in problem

    def test_a_damaged_part_of_the_history(self, tmp_path):
        build_run(tmp_path, SyntheticRun(num_prompts=64, prompts_per_step=16, steps=120, planned_steps=120))
        first = sorted((tmp_path / "history").iterdir())[0]
        first.write_bytes(first.read_bytes()[:-20])
        run = load_run(tmp_path)
        assert any(first.name in problem for problem in run.problems)
        assert set(run.history["step"]) == set(range(51, 121))

    @pytest.mark.parametrize("content", ["a: [", "just text", "\xff"])
    def test_a_damaged_configuration(self, tmp_path, content):
        build_run(tmp_path, SMALL)
        (tmp_path / "config.yaml").write_text(content, encoding="latin-1")
        run = load_run(tmp_path)
        assert any("config.yaml" in problem for problem in run.problems)
        assert run.planned_steps is None

    def test_no_configuration(self, tmp_path):
        build_run(tmp_path, SMALL)
        (tmp_path / "config.yaml").unlink()
        assert any("config.yaml" in problem for problem in load_run(tmp_path).problems)

    def test_a_folder_that_is_no_run(self, tmp_path):
        with pytest.raises(RunError, match="metrics.jsonl"):
            load_run(tmp_path)
        with pytest.raises(RunError, match="missing"):
            load_run(tmp_path / "missing")


class TestSeveralRuns:
    def folders(self, root, *names):
        for name in names:
            with_metrics(root / name, (1, {"x": 1.0}))
        return [root / name for name in names]

    def test_names_are_as_long_as_needed(self, tmp_path):
        folders = self.folders(tmp_path, "a/run", "b/run", "c/other")
        assert [run.name for run in load_runs(folders)] == ["a/run", "b/run", "c/other"]
        assert [run.name for run in load_runs(folders[1:])] == ["run", "other"]
        assert [run.position for run in load_runs(folders)] == [0, 1, 2]

    def test_given_names(self, tmp_path):
        folders = self.folders(tmp_path, "a", "b")
        assert [run.name for run in load_runs(folders, ["GRPO", "ours"])] == ["GRPO", "ours"]
        with pytest.raises(RunError, match="1 names for 2 runs"):
            load_runs(folders, ["GRPO"])
        with pytest.raises(RunError, match="'GRPO'"):
            load_runs(folders, ["GRPO", "GRPO"])

    def test_the_same_run_twice(self, tmp_path):
        (folder,) = self.folders(tmp_path, "a")
        with pytest.raises(RunError, match="more than one run"):
            load_runs([folder, folder])

    def test_differences_of_configurations(self, tmp_path):
        folders = self.folders(tmp_path, "a", "b", "c")
        common = {"trainer": {"default_local_dir": "x", "nnodes": 1}, "data": {"files": ["t"]}}
        for folder, budget in zip(folders[:2], (8, 16), strict=True):
            settings = {**common, "exploration": {"total_budget": budget}}
            settings["trainer"] = {**common["trainer"], "default_local_dir": str(folder)}
            (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        assert config_differences(load_runs(folders)) == {"exploration.total_budget": [8, 16, None]}
        assert config_differences(load_runs(folders[:1])) == {}

    def test_common_sources(self, tmp_path):
        one = with_metrics(tmp_path / "a", (1, {"val-core/x/acc/mean@4": 0.1, "val-core/y/acc/mean@4": 0.1}))
        other = with_metrics(tmp_path / "b", (1, {"val-core/y/acc/mean@4": 0.1}))
        unvalidated = with_metrics(tmp_path / "c", (1, {"x": 1.0}))
        assert common_sources([one, other, unvalidated]) == ["y (avg@4)"]
        assert common_sources([unvalidated]) == []


def test_folders_may_be_relative(tmp_path, monkeypatch):
    with_metrics(tmp_path, (1, {"x": 1.0}))
    monkeypatch.chdir(tmp_path)
    assert load_run(Path(".")).name == tmp_path.name
