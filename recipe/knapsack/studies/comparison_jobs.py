"""The runs of the comparison, several at a time, each until its rollouts are spent."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from recipe.knapsack.studies.comparison_variants import Variant
from recipe.knapsack.tiny.tiny_runs import TinyRun
from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start

FINISHED = "finished.json"
_POLL_SECONDS = 1.0
_MEMORY_OF_A_RUN = 3 * 2**30  # bytes, of all its Ray processes
_CPUS_OF_A_RUN = 2


@dataclass
class Job:
    """One run of the comparison."""

    variant: Variant
    seed: int
    run: TinyRun
    steps: int

    @property
    def rollouts(self) -> int:
        """Where the run ends: where GRPO with as many rollouts a step is after ``steps`` steps."""
        return self.steps * self.variant.rollouts_per_step

    @property
    def is_finished(self) -> bool:
        """Whether the run has reached its end, now or in an earlier session."""
        return (self.run.run_folder / FINISHED).exists()

    def rollouts_so_far(self) -> int:
        """The rollouts that the run has taken, now or in an earlier session, up to where it ends."""
        return self.rollouts if self.is_finished else min(self.run.progress().rollouts, self.rollouts)

    def poll(self) -> int:
        """Note how far the run has got, end it at its rollouts, and return the rollouts."""
        progress = self.run.progress()
        if progress.rollouts >= self.rollouts:
            if progress.step >= self.steps:
                self.run.process.wait()
                if self.run.failure():
                    return self.rollouts  # its last checkpoint or history may be missing: not finished
            self.run.stop()
            (self.run.run_folder / FINISHED).write_text(json.dumps({"rollouts": progress.rollouts}))
        return min(progress.rollouts, self.rollouts)


def make_jobs(output: Path, variants: Sequence[Variant], seeds: int, ablation_seeds: int, steps: int) -> list[Job]:
    """Return all runs: the main rows seed by seed, then the others, so that an interrupted comparison is of use."""
    in_turn = [
        (variant, seed)
        for is_main, group_seeds in ((True, seeds), (False, ablation_seeds))
        for seed in range(group_seeds)
        for variant in variants
        if (variant.group == "main") == is_main
    ]
    jobs = []
    for variant, seed in in_turn:
        overrides = (
            *variant.overrides,
            f"exploration.seed={seed}",
            f"trainer.total_training_steps={steps}",
            "trainer.max_actor_ckpt_to_keep=1",
        )
        folder = output / f"seed_{seed}"
        jobs.append(Job(variant, seed, TinyRun(folder / "warm_start", folder / variant.folder, overrides), steps))
    return jobs


def run_jobs(jobs: list[Job], parallel: int) -> None:
    """Run what is not finished, ``parallel`` at a time, with progress and time left.

    Raises:
        SystemExit: a run failed; the end of its log is shown.
    """
    waiting = [job for job in jobs if not job.is_finished]
    running: list[Job] = []
    rollouts = {job.run.run_folder: job.rollouts_so_far() for job in jobs}
    all_rollouts = sum(job.rollouts for job in jobs)
    bar = tqdm(total=all_rollouts, initial=sum(rollouts.values()), unit="rollout", unit_scale=True, smoothing=0.05)
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                job = waiting.pop(0)
                make_warm_start(job.run.warm_start, WarmStartSettings(seed=job.seed), show_progress=False)
                running.append(job)  # before it starts: what is listed here is stopped, come what may
                job.run.start()
            time.sleep(_POLL_SECONDS)
            # Before their progress is read: a run that reaches its end and exits after that has not ended early.
            had_ended = [not job.run.is_running for job in running]
            rollouts.update({job.run.run_folder: job.poll() for job in running})
            for job, ended in zip(running, had_ended, strict=True):
                if ended and not job.is_finished:
                    sys.exit(job.run.failure() or f"error: {job.run.run_folder} ended early")
            bar.n = sum(rollouts.values())
            running = [job for job in running if not job.is_finished]
            names = ", ".join(f"{job.variant.folder}/{job.seed}" for job in running)
            bar.set_description_str(f"{len(waiting)} waiting, running {names}")
    finally:
        bar.close()
        for job in running:
            job.run.stop()


def runs_that_fit() -> int:
    """Return how many runs the machine has CPUs and free memory for, at least one."""
    by_memory = psutil.virtual_memory().available // _MEMORY_OF_A_RUN
    return max(1, min((os.cpu_count() or 1) // _CPUS_OF_A_RUN, by_memory))
