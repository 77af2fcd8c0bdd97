"""The runs of the comparison: how many at a time, how far, and what is left when they are ended in all ways."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from recipe.knapsack.studies import comparison_jobs
from recipe.knapsack.studies.compare import main
from recipe.knapsack.studies.comparison_jobs import FINISHED, make_jobs, run_jobs, runs_that_fit
from recipe.knapsack.studies.comparison_variants import VARIANTS
from recipe.knapsack.tiny.tiny_runs import ACCURACY, EFFECTIVE_RATIO, ROLLOUTS, ROLLOUTS_PER_STEP, Progress, TinyRun

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
    monkeypatch.setattr(comparison_jobs, "TinyRun", world.make_run)
    monkeypatch.setattr(comparison_jobs, "make_warm_start", world.make_warm_start)
    monkeypatch.setattr(comparison_jobs, "_POLL_SECONDS", 0)
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

    monkeypatch.setattr(comparison_jobs, "tqdm", bar)
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
    monkeypatch.setattr(comparison_jobs.os, "cpu_count", lambda: cpus)
    monkeypatch.setattr(comparison_jobs.psutil, "virtual_memory", lambda: SimpleNamespace(available=gibibytes * 2**30))
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
