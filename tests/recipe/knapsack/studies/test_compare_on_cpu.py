"""The comparison: its command, and its table and picture from runs ended in all ways a comparison ends them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from synthetic_run import SyntheticRun, build_run

from recipe.knapsack.studies import compare, comparison_picture
from recipe.knapsack.studies.compare import main
from recipe.knapsack.studies.comparison_jobs import FINISHED
from recipe.knapsack.studies.comparison_picture import draw
from recipe.knapsack.studies.comparison_table import Outcome, comparison_table
from recipe.knapsack.studies.comparison_variants import BASELINE, BY_ROLLOUTS_PER_PROMPT, KNAPSACK, VARIANTS

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


# --- Table and picture ------------------------------------------------------------------------------------------------


def outcome(accuracy, reached_at=(), effective_ratio=0.5, never_solved=10, largest_budget=8, minutes=2.0, end=1000):
    """An outcome whose curve starts at 0.4; ``reached_at`` is (rollouts, accuracy) on the way.

    A rollout has 10 tokens and takes two seconds.
    """
    curve = np.array([(0, 0.4), *reached_at, (end, accuracy)], dtype=float)
    curve = np.column_stack([curve, 10 * curve[:, 0], 2 * curve[:, 0]])
    return Outcome(accuracy, effective_ratio, never_solved, largest_budget, minutes, curve, tokens_per_step=80.0)


def test_the_cells_of_the_table():
    outcomes = {
        BASELINE: {0: outcome(0.70), 1: outcome(0.72), 2: outcome(0.74)},
        KNAPSACK: {
            0: outcome(0.75, [(400, 0.70)], effective_ratio=0.4, never_solved=10, largest_budget=90, minutes=1),
            1: outcome(0.71, [(500, 0.70)], effective_ratio=0.5, never_solved=20, largest_budget=93, minutes=2),
            2: outcome(0.79, [(600, 0.76)], effective_ratio=0.6, never_solved=None, largest_budget=64, minutes=3),
        },
        "one seed": {1: outcome(0.60)},
        "another world": {7: outcome(0.9)},
    }
    rows = rows_of(comparison_table(outcomes))
    assert rows[BASELINE][1] == "0.720 +- 0.020"
    assert rows[BASELINE][2] == ""
    assert rows[BASELINE][6] == "100% of GRPO's (3 of 3 reached it)"
    assert rows[KNAPSACK] == [
        "3",
        "0.750 +- 0.040",
        "+0.030 (2 of 3)",
        "0.500 +- 0.100",
        "15 +- 7",
        "93",
        "50% of GRPO's (2 of 3 reached it)",
        "2.0 +- 1.0",
        "80 +- 0",
    ]
    assert rows["one seed"][:3] == ["1", "0.600", "-0.120 (0 of 1)"]
    assert rows["one seed"][6] == "not reached (0 of 1)"
    assert rows["another world"][2] == rows["another world"][6] == ""


def test_with_other_numbers_of_rollouts_the_knapsack_is_compared_with_grpo_of_as_many():
    outcomes = {
        BASELINE: {0: outcome(0.70)},
        "GRPO, N = 4": {0: outcome(0.60, end=500)},
        "Knapsack-GRPO, N = 4": {0: outcome(0.65, [(250, 0.60)], end=500)},
    }
    rows = rows_of(comparison_table(outcomes))
    assert rows["GRPO, N = 4"][2] == "-0.100 (0 of 1)"
    assert rows["Knapsack-GRPO, N = 4"][2] == "+0.050 (1 of 1)"
    assert rows["Knapsack-GRPO, N = 4"][6] == "50% of GRPO's (1 of 1 reached it)"


def test_the_rows_of_figure_9_are_those_of_the_table():
    shown = [name for rows in BY_ROLLOUTS_PER_PROMPT.values() for name in rows.values()]
    assert set(shown) == {BASELINE, KNAPSACK, *(variant.name for variant in VARIANTS if variant.group == "rollouts")}
    for variant in VARIANTS:
        if variant.group == "rollouts":
            assert f"actor_rollout_ref.rollout.n={variant.rollouts_per_step // 128}" in variant.overrides


@pytest.fixture
def panels_of(monkeypatch, tmp_path):
    """Draw outcomes and return the panels by their titles."""
    figures = []
    monkeypatch.setattr(comparison_picture.pyplot, "close", figures.append)

    def panels(outcomes):
        draw(outcomes, VARIANTS, tmp_path / "comparison.png")
        assert (tmp_path / "comparison.png").stat().st_size > 10_000
        return {axes.get_title(loc="left").split(" ")[0]: axes for axes in figures[-1].axes}

    yield panels
    monkeypatch.undo()
    for figure in figures:
        comparison_picture.pyplot.close(figure)


def means(axes):
    """The labelled lines of a panel by their labels."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_the_picture_has_methods_ablations_and_numbers_of_rollouts(panels_of):
    outcomes = {variant.name: {0: outcome(0.7), 1: outcome(0.8)} for variant in VARIANTS}
    outcomes[BASELINE] = {0: outcome(0.6), 1: outcome(0.7), 2: outcome(0.2)}
    outcomes["GRPO, N = 4"] = {0: outcome(0.5, end=500)}
    outcomes["GRPO, N = 16"] = {0: outcome(0.65, end=2000)}
    panels = panels_of(outcomes)
    assert list(panels) == ["Methods", "Tokens:", "Time:", "Ablations", "N"]
    for name, axes in panels.items():
        assert axes.get_xlabel() and (axes.get_legend() is not None) == (name not in ("Tokens:", "Time:"))
    for cost, per_rollout in (("Tokens:", 10 / 1e6), ("Time:", 2 / 60)):
        lines = means(panels[cost])
        assert list(lines) == list(means(panels["Methods"]))
        for name, line in means(panels["Methods"]).items():
            np.testing.assert_allclose(lines[name].get_xdata(), line.get_xdata() * 1000 * per_rollout)
            np.testing.assert_allclose(lines[name].get_ydata(), line.get_ydata())
    methods = means(panels["Methods"])
    assert list(methods)[:2] == [f"{BASELINE} (3 seeds)", f"{KNAPSACK} (2 seeds)"] and len(methods) == 6
    np.testing.assert_allclose(methods[f"{BASELINE} (3 seeds)"].get_ydata()[[0, -1]], [0.4, 0.5])
    by_rollouts = means(panels["N"])
    assert list(by_rollouts) == ["GRPO", "Knapsack-GRPO"]
    for line in by_rollouts.values():
        assert line.get_xdata().tolist() == [4, 8, 16]
    # GRPO with N = 8 has a third seed, which is not shown beside rows that lack it.
    assert by_rollouts["GRPO"].get_ydata() == pytest.approx([0.5, 0.65, 0.65])
    assert by_rollouts["Knapsack-GRPO"].get_ydata() == pytest.approx([0.75, 0.75, 0.75])
    for lines in (methods, by_rollouts):  # without colour
        assert len({line.get_marker() for line in lines.values()}) == len(lines)
    ablations = panels["Ablations"]
    labels = [label.get_text() for label in ablations.get_yticklabels()]
    assert labels == [BASELINE, KNAPSACK, *(variant.name for variant in VARIANTS if variant.group == "ablation")]
    points = [line for line in ablations.get_lines() if line.get_marker() in "os^D"]
    assert sorted(float(line.get_xdata()[0]) for line in points[:2]) == [0.6, 0.7]  # seed 2 has no ablation
    assert len(points) == 2 * len(labels)


@pytest.mark.parametrize(
    ("finished_rows", "titles"),
    [
        ([BASELINE], ["Methods", "Tokens:", "Time:"]),
        (["knapsack without fallback"], ["Ablations"]),
        ([KNAPSACK, "GRPO, N = 16"], ["Methods", "Tokens:", "Time:", "N"]),
        ([BASELINE, "knapsack, n_up = 16"], ["Methods", "Tokens:", "Time:", "Ablations"]),
    ],
)
def test_the_picture_shows_what_is_finished_with_one_seed(panels_of, finished_rows, titles):
    assert list(panels_of({name: {0: outcome(0.7)} for name in finished_rows})) == titles
