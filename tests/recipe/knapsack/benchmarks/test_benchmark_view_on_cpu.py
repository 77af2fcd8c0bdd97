"""The benchmarks of the viewer and of kept rollouts print every line, and what they say adds up."""

from __future__ import annotations

import re

import pytest

from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.benchmarks import benchmark_kept_rollouts, benchmark_view


def test_benchmark_view_opens_a_run_and_answers_every_page(capsys):
    assert benchmark_view.main("--prompts 60 --steps 4 --prompts-per-step 20 --kept 8".split()) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    rows = {line[:26].strip(): re.findall(r"([\d.]+) s", line[26:]) for line in lines}
    assert list(rows) == ["first page with the table", "everything is read", *benchmark_view.PAGES, "one prompt"]
    first, everything = (list(map(float, rows[name])) for name in list(rows)[:2])
    assert 0 < first[1] <= everything[1] and first[0] <= everything[0]


def test_benchmark_kept_rollouts_prints_a_number_and_all(capsys):
    arguments = "--prompts 8 --rollouts 64 --tokens 20 --kept 4 --step-seconds 10 --repeats 1"
    assert benchmark_kept_rollouts.main(arguments.split()) == 0
    title, _, *lines = capsys.readouterr().out.splitlines()
    assert title == "64 rollouts of 20 tokens, against a step of 10 s"
    assert [line.split()[0] for line in lines] == ["4", "all"]
    for line in lines:
        waited, share = float(line.split()[1]) / 1000, float(line.split()[3].rstrip("%")) / 100
        assert share == pytest.approx(waited / 10, abs=2e-5) and waited > 0


def test_a_run_that_kept_rollouts_is_set_against_its_own_steps(tmp_path, capsys):
    metrics = MetricsFile(tmp_path)
    for step in (1, 2, 3):
        metrics.log({"timing_s/step": 2.0, "timing_s/keep_rollouts": 0.01}, step=step)
    assert benchmark_kept_rollouts.main(["--run", str(tmp_path)]) == 0
    assert "3 steps waited 10.00 ms of 2.000 s (medians), 0.500% of" in capsys.readouterr().out


def test_a_run_that_kept_none_is_refused(tmp_path, capsys):
    MetricsFile(tmp_path).log({"timing_s/step": 2.0, "timing_s/keep_rollouts": 0.0}, step=1)
    assert benchmark_kept_rollouts.main(["--run", str(tmp_path)]) == 2
    assert "exploration.dump_rollouts=all" in capsys.readouterr().err
