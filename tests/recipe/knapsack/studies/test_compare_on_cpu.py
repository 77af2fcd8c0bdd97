"""The comparison: running its jobs, and its table and pictures from runs ended in all ways a comparison ends them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_run import SyntheticRun, build_run
from tqdm import tqdm

from recipe.knapsack.studies import compare
from recipe.knapsack.studies.compare import (
    BASELINE,
    FINISHED,
    KNAPSACK,
    VARIANTS,
    Outcome,
    comparison_table,
    draw,
    main,
    make_jobs,
    run_jobs,
    runs_that_fit,
)
from recipe.knapsack.tiny.tiny_runs import ACCURACY, EFFECTIVE_RATIO, ROLLOUTS, ROLLOUTS_PER_STEP, Progress, TinyRun

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


# --- Running ----------------------------------------------------------------------------------------------------------

STEPS = 4


class FakeRun:
    """Stands in for `TinyRun`: gets one step further whenever it is asked, and continues what its folder holds."""

    def __init__(self, world: FakeWorld, warm_start: Path, run_folder: Path, overrides: tuple[str, ...]) -> None:
        self.world, self.warm_start, self.run_folder, self.overrides = world, warm_start, run_folder, overrides
        self.name = f"{run_folder.name}/{run_folder.parent.name[-1]}"
        self.is_running = False
        self.error = None
        self.process = SimpleNamespace(wait=self._end)

    def start(self) -> None:
        assert self.warm_start in self.world.warm_starts
        self.run_folder.mkdir(parents=True, exist_ok=True)
        self.is_running = True
        self.world.started.append(self.name)

    def stop(self) -> None:
        if self.is_running:
            self.is_running = False
            self.world.stopped.append(self.name)

    def progress(self) -> Progress:
        if self.is_running:
            self.world.on_poll(self)
        path = self.run_folder / "rollouts"
        rollouts = int(path.read_text()) if path.exists() else 0
        if self.is_running:
            rollouts += self.world.rollouts_per_step
            path.write_text(str(rollouts))
        return Progress(step=rollouts // self.world.rollouts_per_step, rollouts=rollouts)

    def failure(self) -> str | None:
        return self.error

    def _end(self) -> None:
        self.is_running = False
        self.world.on_wait(self)


class FakeWorld:
    """What the fake runs share, and what happened to them."""

    def __init__(self) -> None:
        self.rollouts_per_step = ROLLOUTS_PER_STEP
        self.runs: list[FakeRun] = []
        self.forget()

    def forget(self) -> None:
        self.started, self.stopped, self.warm_starts = [], [], {}
        self.on_poll = self.on_wait = lambda run: None

    def make_run(self, *arguments) -> FakeRun:
        self.runs.append(FakeRun(self, *arguments))
        return self.runs[-1]

    def make_warm_start(self, folder: Path, settings, show_progress: bool) -> None:
        self.warm_starts[folder] = settings.seed


@pytest.fixture
def world(monkeypatch):
    world = FakeWorld()
    monkeypatch.setattr(compare, "TinyRun", world.make_run)
    monkeypatch.setattr(compare, "make_warm_start", world.make_warm_start)
    monkeypatch.setattr(compare, "_POLL_SECONDS", 0)
    return world


def jobs_in(folder, *names, seeds=2, steps=STEPS):
    return make_jobs(folder, [variant for variant in VARIANTS if variant.folder in names], seeds, 1, steps)


def test_all_runs_of_a_seed_start_from_the_same_place(tmp_path, world):
    jobs = make_jobs(tmp_path, VARIANTS, seeds=3, ablation_seeds=2, steps=STEPS)
    run_jobs(jobs, parallel=4)
    main_rows = sum(variant.group == "main" for variant in VARIANTS)
    assert [job.seed for job in jobs[: 3 * main_rows]] == sorted([0, 1, 2] * main_rows)
    assert len(jobs) == 3 * main_rows + 2 * (len(VARIANTS) - main_rows) == len({job.run.run_folder for job in jobs})
    assert world.warm_starts == {tmp_path / f"seed_{seed}" / "warm_start": seed for seed in range(3)}
    for job in jobs:
        assert world.warm_starts[job.run.warm_start] == job.seed
        assert f"exploration.seed={job.seed}" in job.run.overrides
        assert set(job.variant.overrides) < set(job.run.overrides)


def test_an_interrupted_comparison_stops_its_runs_and_continues_with_the_unfinished(tmp_path, world):
    names = ["grpo", "knapsack", "beta"]
    polls = []

    def interrupt(run):
        polls.append(run.name)
        if len(polls) == 2 * STEPS + 3:  # two runs are finished, two run, two wait
            raise KeyboardInterrupt

    world.on_poll = interrupt
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs_in(tmp_path, *names), parallel=2)
    assert world.started == ["grpo/0", "knapsack/0", "beta/0", "grpo/1"]
    assert world.stopped == ["beta/0", "grpo/1"]
    assert not any(run.is_running for run in world.runs)
    finished = {path.parent.name for path in tmp_path.glob(f"*/*/{FINISHED}")}
    assert finished == {"grpo", "knapsack"}

    world.forget()
    jobs = jobs_in(tmp_path, *names)
    run_jobs(jobs, parallel=2)
    assert world.started == ["beta/0", "grpo/1", "knapsack/1", "beta/1"]
    assert world.stopped == []  # all came to their end
    assert all(job.is_finished for job in jobs)
    for job in jobs:
        assert json.loads((job.run.run_folder / FINISHED).read_text()) == {"rollouts": STEPS * ROLLOUTS_PER_STEP}

    world.forget()
    run_jobs(jobs_in(tmp_path, *names), parallel=2)
    assert world.started == []


def test_progress_starts_from_what_interrupted_runs_have_done(tmp_path, world, monkeypatch):
    jobs = jobs_in(tmp_path, "grpo", seeds=1)
    jobs[0].run.run_folder.mkdir(parents=True)
    (jobs[0].run.run_folder / "rollouts").write_text(str(ROLLOUTS_PER_STEP))
    shown = []

    def bar(**settings):
        shown.append((settings["initial"], settings["total"]))
        return tqdm(**settings, disable=True)

    monkeypatch.setattr(compare, "tqdm", bar)
    run_jobs(jobs, parallel=1)
    run_jobs(jobs, parallel=1)
    assert shown == [(ROLLOUTS_PER_STEP, STEPS * ROLLOUTS_PER_STEP), (STEPS * ROLLOUTS_PER_STEP,) * 2]


def test_no_more_runs_at_a_time_than_allowed(tmp_path, world):
    running = []
    world.on_poll = lambda run: running.append(sum(run.is_running for run in world.runs))
    run_jobs(jobs_in(tmp_path, "grpo", "knapsack", "beta", "expected", "dynamic"), parallel=3)
    assert max(running) == 3


def test_a_run_that_spends_more_in_a_step_is_ended_at_its_rollouts(tmp_path, world):
    world.rollouts_per_step = 2 * ROLLOUTS_PER_STEP
    jobs = jobs_in(tmp_path, "dynamic", seeds=1)
    run_jobs(jobs, parallel=1)
    assert world.stopped == ["dynamic/0"]
    assert (jobs[0].run.run_folder / "rollouts").read_text() == str(STEPS * ROLLOUTS_PER_STEP)


def test_a_failed_run_ends_the_comparison_with_its_reason_and_stops_the_others(tmp_path, world):
    def fail(run):
        if run.name == "knapsack/0":
            run.is_running, run.error = False, "error: out of memory"

    world.on_poll = fail
    with pytest.raises(SystemExit, match="out of memory"):
        run_jobs(jobs_in(tmp_path, "grpo", "knapsack"), parallel=2)
    assert world.stopped == ["grpo/0"]
    assert not list(tmp_path.glob(f"*/*/{FINISHED}"))


def test_a_run_that_fails_at_its_last_step_is_not_finished(tmp_path, world):
    def fail(run):
        run.error = "error: no space left for the last checkpoint"

    world.on_wait = fail
    with pytest.raises(SystemExit, match="no space left"):
        run_jobs(jobs_in(tmp_path, "grpo", seeds=1), parallel=1)
    assert not list(tmp_path.glob(f"*/*/{FINISHED}"))


def test_a_run_that_reaches_its_end_while_another_is_waited_for_is_finished(tmp_path, world):
    """Between the reading of its progress and the look at its process, that is."""
    jobs = jobs_in(tmp_path, "grpo", "knapsack", seeds=1)
    first, second = (job.run for job in jobs)
    second.run_folder.mkdir(parents=True)
    (second.run_folder / "rollouts").write_text(str(ROLLOUTS_PER_STEP))  # a step ahead of the first

    def end_of_the_first(run):
        if run is second:
            (first.run_folder / "rollouts").write_text(str(STEPS * ROLLOUTS_PER_STEP))
            first.is_running = False

    world.on_wait = end_of_the_first
    run_jobs(jobs, parallel=2)
    assert all(job.is_finished for job in jobs)


def test_sigterm_stops_the_runs(tmp_path, world):
    def not_caught(*_):
        raise AssertionError("SIGTERM was not caught")

    world.on_poll = lambda run: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.signal(signal.SIGTERM, not_caught)
    try:
        with pytest.raises(SystemExit) as exit_:
            main(["--output", str(tmp_path), "--seeds", "1", "--only", "grpo", "knapsack", "--parallel", "2"])
        assert signal.getsignal(signal.SIGTERM) is not_caught
    finally:
        signal.signal(signal.SIGTERM, before)
    assert exit_.value.code == 143
    assert world.started == world.stopped == ["grpo/0", "knapsack/0"]


@pytest.mark.parametrize(
    ("cpus", "gibibytes", "runs"), [(16, 64, 8), (16, 7, 2), (16, 1, 1), (2, 64, 1), (1, 64, 1), (None, 64, 1)]
)
def test_as_many_runs_as_cpus_and_memory_allow(monkeypatch, cpus, gibibytes, runs):
    monkeypatch.setattr(compare.os, "cpu_count", lambda: cpus)
    monkeypatch.setattr(compare.psutil, "virtual_memory", lambda: SimpleNamespace(available=gibibytes * 2**30))
    assert runs_that_fit() == runs


def test_no_run_at_a_time_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path), "--parallel", "0"])
    assert "--parallel is 0" in capsys.readouterr().err


VALIDATION = f'{{"step": 0, "{ACCURACY}": 0.25}}\n'
STEP = f'{{"step": 1, "{EFFECTIVE_RATIO}": 0.5, "{ROLLOUTS}": 64}}\n'


@pytest.mark.parametrize(
    ("content", "progress"),
    [
        (None, Progress()),
        ("", Progress()),
        (VALIDATION[:15], Progress()),
        (VALIDATION, Progress(accuracy=0.25)),
        (VALIDATION + STEP[:-1], Progress(accuracy=0.25)),
        (VALIDATION + STEP + '{"st', Progress(step=1, rollouts=64, accuracy=0.25, effective_ratio=0.5)),
    ],
    ids=["no file", "empty", "half a line", "validation", "line without its end", "half a line after a step"],
)
def test_progress_of_a_run_that_is_just_writing(tmp_path, content, progress):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    assert TinyRun(tmp_path / "warm_start", tmp_path, ()).progress() == progress


# --- Table and picture ------------------------------------------------------------------------------------------------


def outcome(accuracy, reached_at=(), effective_ratio=0.5, never_solved=10, largest_budget=8, minutes=2.0, end=1000):
    """An outcome whose curve starts at 0.4; ``reached_at`` is (rollouts, accuracy) on the way."""
    curve = np.array([(0, 0.4), *reached_at, (end, accuracy)], dtype=float)
    return Outcome(accuracy, effective_ratio, never_solved, largest_budget, minutes, curve)


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
    shown = [name for rows in compare._BY_ROLLOUTS_PER_PROMPT.values() for name in rows.values()]
    assert set(shown) == {BASELINE, KNAPSACK, *(variant.name for variant in VARIANTS if variant.group == "rollouts")}
    for variant in VARIANTS:
        if variant.group == "rollouts":
            assert f"actor_rollout_ref.rollout.n={variant.rollouts_per_step // 128}" in variant.overrides


@pytest.fixture
def panels_of(monkeypatch, tmp_path):
    """Draw outcomes and return the panels by their titles."""
    figures = []
    monkeypatch.setattr(compare.pyplot, "close", figures.append)

    def panels(outcomes):
        draw(outcomes, VARIANTS, tmp_path / "comparison.png")
        assert (tmp_path / "comparison.png").stat().st_size > 10_000
        return {axes.get_title(loc="left").split(" ")[0]: axes for axes in figures[-1].axes}

    yield panels
    monkeypatch.undo()
    for figure in figures:
        compare.pyplot.close(figure)


def means(axes):
    """The labelled lines of a panel by their labels."""
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_the_picture_has_methods_ablations_and_numbers_of_rollouts(panels_of):
    outcomes = {variant.name: {0: outcome(0.7), 1: outcome(0.8)} for variant in VARIANTS}
    outcomes[BASELINE] = {0: outcome(0.6), 1: outcome(0.7), 2: outcome(0.2)}
    outcomes["GRPO, N = 4"] = {0: outcome(0.5, end=500)}
    outcomes["GRPO, N = 16"] = {0: outcome(0.65, end=2000)}
    panels = panels_of(outcomes)
    assert list(panels) == ["Methods", "Ablations", "N"]
    for axes in panels.values():
        assert axes.get_xlabel() and axes.get_legend() is not None
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
        ([BASELINE], ["Methods"]),
        (["knapsack without fallback"], ["Ablations"]),
        ([KNAPSACK, "GRPO, N = 16"], ["Methods", "N"]),
        ([BASELINE, "knapsack, n_up = 16"], ["Methods", "Ablations"]),
    ],
)
def test_the_picture_shows_what_is_finished_with_one_seed(panels_of, finished_rows, titles):
    assert list(panels_of({name: {0: outcome(0.7)} for name in finished_rows})) == titles
