"""The dashboard's specification, without network. That its panels show something: tests/end_to_end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from knapsack_rl.metrics import METRICS
from recipe.knapsack.report.dashboard import LIBRARY, SECTIONS, main

OTHER_METRICS = ("critic/", "actor/", "response_length/", "timing_s/", "perf/", "training/cumulative_rollouts")


def panels(specification):
    sections = specification["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_prints_a_specification_with_five_sections(capsys):
    main(["--print", "--entity", "team", "--project", "project"])
    built = panels(json.loads(capsys.readouterr().out))
    assert list(built) == ["learning", "exploration", "allocation", "beliefs", "speed"]
    for name, contents in SECTIONS.items():
        assert [panel["config"]["chartTitle"] for panel in built[name]] == [content.title for content in contents]
    (heat_map,) = [panel for panel in built["allocation"] if panel["viewType"] == "Media Browser"]
    assert heat_map["config"]["mediaKeys"] == ["allocation/budgets_by_success_rate"]


def test_no_metric_of_exploration_is_misspelt(capsys):
    main(["--print"])
    shown = {
        metric
        for contents in panels(json.loads(capsys.readouterr().out)).values()
        for panel in contents
        for metric in panel["config"].get("metrics", [])
    }
    charts_and_policy = {"allocation/budgets", "training/rollout_probs_diff_max"}
    assert {metric for metric in shown if not metric.startswith(OTHER_METRICS)} - charts_and_policy <= set(METRICS)


def test_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit, match=f"pip install {LIBRARY}"):
        main(["--print"])


def test_without_a_login_says_so_in_one_line(tmp_path, repository):
    environment = {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(repository), "PYTHONWARNINGS": "ignore"}
    process = subprocess.run(
        [sys.executable, "-m", "recipe.knapsack.dashboard"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=repository,
        timeout=120,
    )
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1].startswith("error: wandb did not create the workspace:")
    assert "Traceback" not in process.stderr
