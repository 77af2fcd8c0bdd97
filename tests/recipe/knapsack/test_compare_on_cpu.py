"""The comparison's table and pictures, from runs that were ended in all ways a comparison ends them."""

from __future__ import annotations

import shutil

import pytest
from synthetic_run import SyntheticRun, build_run

from recipe.knapsack import compare
from recipe.knapsack.compare import BASELINE, FINISHED, VARIANTS, main

SETTINGS = {"grpo": "homogeneous", "knapsack": "knapsack", "dynamic": "homogeneous", "dynamic_knapsack": "knapsack"}


@pytest.fixture
def finished(tmp_path):
    """Four finished runs of seed 0; those with dynamic sampling were ended before they wrote a history."""
    for folder, allocator in SETTINGS.items():
        options = SyntheticRun(allocator, num_prompts=64, steps=40, history=not folder.startswith("dynamic"))
        run = build_run(tmp_path / "seed_0" / folder, options)
        (run / FINISHED).touch()
    return tmp_path


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of each row of a Markdown table by the first of them."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {cells[0]: cells[1:] for cells in rows}


def test_a_run_that_was_ended_before_it_wrote_a_history_has_a_row(finished, capsys):
    main(["--output", str(finished), "--seeds", "1", "--steps", "40", "--show"])
    rows = rows_of(capsys.readouterr().out)
    column = rows["method"].index("never solved")
    assert rows["dynamic sampling, equal rollouts"][column] == "-"
    assert rows[BASELINE][column].isdigit()


def test_seeds_without_a_history_are_left_out_of_the_mean(finished, capsys):
    shutil.copytree(finished / "seed_0" / "knapsack", finished / "seed_1" / "knapsack")
    shutil.rmtree(finished / "seed_1" / "knapsack" / "history")
    main(["--output", str(finished), "--seeds", "2", "--steps", "40", "--show"])
    rows = rows_of(capsys.readouterr().out)
    seeds, never_solved = rows["method"].index("seeds"), rows["method"].index("never solved")
    assert rows["Knapsack-GRPO"][seeds] == "2" and rows["Knapsack-GRPO"][never_solved].isdigit()


def test_runs_that_are_ended_at_their_rollouts_save_as_often_as_they_validate():
    dynamic = [variant for variant in VARIANTS if "exploration.dynamic_sampling.enable=true" in variant.overrides]
    assert len(dynamic) == 2
    for variant in dynamic:
        settings = dict(override.split("=", 1) for override in variant.overrides)
        assert settings["trainer.save_freq"] == settings["trainer.test_freq"]


def test_only_chooses_what_runs_and_not_what_is_shown(finished, monkeypatch, capsys):
    ran, drawn = [], []
    monkeypatch.setattr(compare, "run_jobs", lambda jobs, parallel: ran.extend(job.variant.folder for job in jobs))
    draw = compare.draw
    monkeypatch.setattr(
        compare, "draw", lambda outcomes, variants, picture: drawn.extend(variants) or draw(outcomes, variants, picture)
    )
    main(["--output", str(finished), "--seeds", "1", "--steps", "40", "--only", "knapsack"])
    assert ran == ["knapsack"]
    rows = rows_of(capsys.readouterr().out)
    assert rows["Knapsack-GRPO"][rows["method"].index("difference to GRPO (wins)")].endswith(" of 1)")
    assert BASELINE in rows and BASELINE in [variant.name for variant in drawn]
    assert (finished / "comparison.png").exists()
