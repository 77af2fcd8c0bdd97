"""The comparison with power: methods on small tasks over many worlds, paired, with intervals.

    python -m recipe.knapsack.compare_worlds              # the tiny task, 12 worlds that nothing was tuned on
    python -m recipe.knapsack.compare_worlds --tune       # learning rates and rules, on other worlds
    python -m recipe.knapsack.compare_worlds --task lengths          # hard prompts have long answers
    python -m recipe.knapsack.compare_worlds --task reasoning_gym    # data and verifiers of reasoning-gym

The trainings run in a plain loop with the project's own explorer, advantages and decoder. Started again, the command
keeps what is finished. ``--show`` says what is finished and runs nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from knapsack_rl import ExplorationConfig
from recipe.knapsack.worlds.methods import BASELINE, LEARNING_RATES, METHODS, TUNING_WORLDS
from recipe.knapsack.worlds.tasks import TASKS
from recipe.knapsack.worlds.world_runs import Result, WorldRun, run_all
from recipe.knapsack.worlds.world_table import world_table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    options = _parse(arguments)
    runs = _runs(options)
    if not options.show:
        run_all(runs, options.parallel)
    results: dict[str, dict[int, Result]] = {}
    for run in runs:
        result = run.result()
        if result is not None:
            results.setdefault(_row(run, options), {})[run.world] = result
    of_baseline = {"method": BASELINE, "learning_rate": _learning_rate(options.task, BASELINE)}
    unfinished = sum(run.result() is None for run in runs)
    if not results:
        sys.exit(f"error: no finished training in {options.output}")
    table = world_table(results, _row(replace(runs[0], **of_baseline), options))
    print("\n" + table)
    if unfinished:
        print(f"\n{unfinished} of {len(runs)} trainings are not finished; the same command without --show goes on.")
    name = "tuning" if options.tune else "worlds"
    (options.output / f"{name}-n{options.rollouts}-steps{options.steps}.md").write_text(table + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.compare_worlds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", choices=[*TASKS], default="tiny", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder (default: one below runs for each task)")
    parser.add_argument("--tune", action="store_true", help="every learning rate, on tuning worlds")
    parser.add_argument("--worlds", type=int, nargs="+", help="seeds of worlds (default: from 20 on; --tune: 0 to 3)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], help="beside GRPO (default: those of the table)")
    parser.add_argument("--rollouts", type=int, default=8, help="N, of a prompt on average (default: %(default)s)")
    steps = ", ".join(f"{name} {task.steps}" for name, task in TASKS.items())
    parser.add_argument("--steps", type=int, help=f"of GRPO, whose rollouts all get (default: {steps})")
    parser.add_argument("--parallel", type=int, default=os.cpu_count() or 1, help="trainings at a time")
    parser.add_argument("--show", action="store_true", help="show what is finished, run nothing")
    options = parser.parse_args(arguments)
    task = TASKS[options.task]
    options.output = options.output or Path("runs") / task.folder
    options.steps = task.steps if options.steps is None else options.steps
    options.methods = dict.fromkeys([BASELINE, *(options.methods or task.methods)])
    if options.task == "reasoning_gym" and not options.show and find_spec("reasoning_gym") is None:
        parser.error("--task reasoning_gym needs pip install -r requirements/reasoning_gym.txt")
    for name in ("steps", "parallel"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}: expected at least 1")
    bounds = ExplorationConfig()
    if not bounds.n_low <= options.rollouts <= bounds.n_up:
        parser.error(f"--rollouts is {options.rollouts}: expected {bounds.n_low} to {bounds.n_up}")
    if options.worlds is None:
        options.worlds = list(TUNING_WORLDS[:4] if options.tune else task.final_worlds)
    if options.tune and not set(options.worlds) <= set(TUNING_WORLDS):
        parser.error(f"--tune --worlds {options.worlds}: expected worlds of 0 to {TUNING_WORLDS[-1]}")
    return options


def _runs(options: argparse.Namespace) -> list[WorldRun]:
    """All trainings, world by world, so that an interrupted comparison is of use."""
    return [
        WorldRun(options.output, options.task, method, world, learning_rate, options.steps, options.rollouts)
        for world in options.worlds
        for method in options.methods
        for learning_rate in (LEARNING_RATES if options.tune else (_learning_rate(options.task, method),))
    ]


def _learning_rate(task: str, method: str) -> float:
    """The best of `LEARNING_RATES` on tuning worlds."""
    return TASKS[task].learning_rates.get(method, METHODS[method].learning_rate)


def _row(run: WorldRun, options: argparse.Namespace) -> str:
    name = METHODS[run.method].name
    return f"{name}, learning rate {run.learning_rate:g}" if options.tune else name


if __name__ == "__main__":
    main()
