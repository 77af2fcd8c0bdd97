"""What a run of check_gpu.sh left behind is judged by what is in it, and every way to be wrong fails a check."""

from __future__ import annotations

from pathlib import Path

import pytest

from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.report import gpu_check
from recipe.knapsack.report.gpu_check import budget_verdicts, main, step_verdicts


def steps(number: int, **changes) -> list[dict]:
    """The metrics of ``number`` steps as they should be, but for ``changes`` of the last step."""
    records = [
        {
            "training/global_step": step,
            "training/rollout_probs_diff_mean": 0.004,
            "actor/grad_norm": 0.3,
            "training/cumulative_rollouts": 1024 * step,
        }
        for step in range(1, number + 1)
    ]
    records[-1].update({key.replace("__", "/"): value for key, value in changes.items()})
    return records


def failed(verdicts) -> list[str]:
    return [verdict.name for verdict in verdicts if not verdict.holds]


def test_a_run_as_it_should_be_passes():
    assert failed(step_verdicts(steps(8), 8)) == []
    assert failed(budget_verdicts([1, 1, 2, 2], [512, 512, 1022, 2])) == []


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"training__rollout_probs_diff_mean": 0.06}, "engine against actor, mean difference"),
        ({"training__rollout_probs_diff_mean": None}, "engine against actor, mean difference"),
        ({"actor__grad_norm": 0.0}, "gradient norms"),
        ({"actor__grad_norm": None}, "gradient norms"),
        ({"training__cumulative_rollouts": 1024}, "rollouts so far"),
    ],
)
def test_one_wrong_number_fails_its_check(changes, check):
    assert failed(step_verdicts(steps(4, **changes), 4)) == [check]


@pytest.mark.parametrize("records", [steps(8)[:4], steps(4) + steps(4), [*steps(8)[:3], *steps(8)[4:]], []])
def test_missing_and_repeated_steps_fail(records):
    assert "steps" in failed(step_verdicts(records, 8))


@pytest.mark.parametrize(
    ("budgets", "check"),
    [([512, 512, 1000, 2], "budgets of a step sum to"), ([1000, 24, 512, 512], "budgets of the last step")],
)
def test_wrong_budgets_fail(budgets, check):
    assert failed(budget_verdicts([1, 1, 2, 2], budgets)) == [check]


def test_a_run_that_ended_before_its_first_step_is_reported(tmp_path: Path, capsys):
    (tmp_path / "one_gpu").mkdir()
    (tmp_path / "one_gpu" / "exit_status").write_text("1\n")
    assert main(["report", str(tmp_path)]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "FAILED the run ends: exit status 1" in report and "FAILED steps: none" in report
    assert report in capsys.readouterr().out


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no run" in capsys.readouterr().err


def test_the_report_names_packages_phases_and_memory(tmp_path: Path):
    folder = tmp_path / "async"
    folder.mkdir()
    (folder / "exit_status").write_text("0\n")
    metrics = MetricsFile(folder)
    for step, record in enumerate(steps(4), start=1):
        metrics.log({**record, "timing_s/gen": 9.0 / step, "perf/max_memory_allocated_gb": 2.5}, step)
    verdicts = gpu_check.write_report(tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "- torch 2." in report and "| gen | 9.00 | 3.00 |" in report and "| 2.50 | 2.50 |" in report
    assert failed(verdicts) == ["budgets"]  # of which this run has no history
