"""The trainings of a comparison over worlds: several at a time, each kept when it is finished."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recipe.knapsack.worlds.methods import METHODS
from recipe.knapsack.worlds.plain_training import PROMPTS_PER_STEP, PlainTraining, Validation
from recipe.knapsack.worlds.tasks import TASKS
from verl.utils.processes import end_with_parent

__all__ = ["Result", "WorldRun", "run_all"]

VALIDATIONS = 24
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Result:
    """What a training came to: its validations, and how many training prompts were never solved."""

    validations: tuple[Validation, ...]
    never_solved: int

    @property
    def accuracy(self) -> float:
        """Held-out accuracy at the end."""
        return self.validations[-1].accuracy

    @property
    def effective_ratio(self) -> float:
        """Mean share of rollouts with a gradient in the last quarter of the training."""
        last = self.validations[-max(1, len(self.validations) // 4) :]
        return sum(validation.effective_ratio for validation in last) / len(last)

    def first_with(self, accuracy: float) -> Validation | None:
        """The first validation that reaches an accuracy."""
        return next((validation for validation in self.validations if validation.accuracy >= accuracy), None)


@dataclass(frozen=True)
class WorldRun:
    """A training of one method in one world.

    Attributes:
        output: folder of the comparison.
        task: key of `TASKS`.
        method: key of `METHODS`.
        world: seed of task, warm start, order and sampling.
        learning_rate: of this training.
        steps: of GRPO; every method gets the rollouts that these take.
        rollouts_per_prompt: N.
    """

    output: Path
    task: str
    method: str
    world: int
    learning_rate: float
    steps: int
    rollouts_per_prompt: int

    @property
    def total_rollouts(self) -> int:
        """Where it ends."""
        return self.steps * PROMPTS_PER_STEP * self.rollouts_per_prompt

    @property
    def warm_start(self) -> Path:
        """Folder of the world's warm start."""
        return self.output / f"world_{self.world}" / "warm_start"

    @property
    def file(self) -> Path:
        """Where its result is kept."""
        name = f"{self.method}-lr{self.learning_rate:g}-n{self.rollouts_per_prompt}-steps{self.steps}.json"
        return self.output / f"world_{self.world}" / name

    def result(self) -> Result | None:
        """The result, if the training is finished."""
        if not self.file.exists():
            return None
        kept: dict[str, Any] = json.loads(self.file.read_text())
        return Result(tuple(Validation(**each) for each in kept["validations"]), kept["never_solved"])

    def run(self, on_step: Callable[[int], None] = lambda rollouts: None) -> None:
        """Train on one thread and keep the result, which is there whole or not at all."""
        torch.set_num_threads(1)
        settings = METHODS[self.method].settings(self.world, self.learning_rate, self.rollouts_per_prompt)
        training = PlainTraining(self.warm_start, TASKS[self.task], settings)
        validations = training.run(self.total_rollouts, max(1, self.total_rollouts // VALIDATIONS), on_step)
        kept = {"validations": [asdict(each) for each in validations], "never_solved": training.never_solved}
        unfinished = self.file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(kept, indent=1) + "\n")
        os.replace(unfinished, self.file)


def run_all(runs: Sequence[WorldRun], parallel: int) -> None:
    """Train what is not finished, ``parallel`` at a time; the bar shows rollouts and the time left.

    Raises:
        Exception: what a training raised; those that are under way end first.
    """
    waiting = [run for run in runs if run.result() is None]
    bar = tqdm(total=sum(run.total_rollouts for run in runs), unit="rollout", unit_scale=True, smoothing=0.02)
    bar.update(sum(run.total_rollouts for run in runs) - sum(run.total_rollouts for run in waiting))
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    manager.start(initializer=end_with_parent)
    with manager, ProcessPoolExecutor(parallel, mp_context=context, initializer=end_with_parent) as pool, bar:
        spent = manager.dict()
        by_warm_start = {run.warm_start: (run.task, run.world) for run in waiting}
        bar.set_description_str("warm starts")
        for number, future in enumerate(
            [pool.submit(_make_warm_start, folder, *each) for folder, each in by_warm_start.items()]
        ):
            future.result()
            bar.set_description_str(f"{len(by_warm_start) - number - 1} warm starts left")
        bar.set_description_str(f"{len(waiting)} trainings")
        futures = {pool.submit(_train, run, str(number), spent) for number, run in enumerate(waiting)}
        finished_before = bar.n
        while futures:
            done, futures = wait(futures, timeout=_POLL_SECONDS)
            _raise_first(done, futures)
            bar.n = finished_before + sum(spent.values())
            bar.set_description_str(f"{len(futures)} trainings left")


def _raise_first(done: set[Future[None]], others: set[Future[None]]) -> None:
    for future in done:
        error = future.exception()
        if error is not None:
            for other in others:
                other.cancel()
            raise error


def _make_warm_start(folder: Path, task: str, world: int) -> None:
    torch.set_num_threads(1)
    TASKS[task].prepare(folder, world)


def _train(run: WorldRun, name: str, spent: Any) -> None:
    def tell(rollouts: int) -> None:
        spent[name] = rollouts

    run.run(tell)
