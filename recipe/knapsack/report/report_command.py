"""Report on training runs: one self-contained HTML page, and its figures as PNG files.

    python -m recipe.knapsack.report runs/quickstart/grpo runs/quickstart/knapsack --output runs/quickstart/report

RUN is the folder of a run (trainer.default_local_dir). A run may still be going on or have crashed: the report shows
what it has written so far, and says what is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from knapsack_rl.run_folder import HISTORY_FOLDER
from recipe.knapsack.report.report import write_report
from recipe.knapsack.report.run_data import METRICS_FILE, Run, RunError, load_runs

__all__ = ["main"]

SECONDS_TO_FOLLOW = 30.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where page and pictures go")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="how to call the runs (default: by their folders)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of single prompts (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=12, help="number of single prompts (default: %(default)s)")
    parser.add_argument(
        "--follow",
        nargs="?",
        type=float,
        const=SECONDS_TO_FOLLOW,
        metavar="SECONDS",
        help=f"write the report again whenever the runs have grown, looking every SECONDS (default: "
        f"{SECONDS_TO_FOLLOW:.0f}), until they are finished; the page loads itself again",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.prompts < 1:
            raise RunError(f"--prompts must be at least 1, got {options.prompts}")
        if options.follow is not None and not options.follow > 0:
            raise RunError(f"--follow must be more than 0 seconds, got {options.follow}")
        state = _state_of_files(options.runs)
        runs = _write(options)
        if options.follow is not None:
            _follow(options, runs, state)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(options: argparse.Namespace) -> list[Run]:
    runs = load_runs(options.runs, options.names)
    for run in runs:
        for problem in run.problems:
            print(f"{run.name}: {problem}", file=sys.stderr)
    refresh = None if options.follow is None or _are_finished(runs) else max(math.ceil(options.follow), 5)
    try:
        page = write_report(runs, options.output, seed=options.seed, num_prompts=options.prompts, refresh=refresh)
    except OSError as error:
        raise RunError(f"--output {options.output} cannot be written to ({error}): give another folder") from error
    print(page, flush=True)
    return runs


def _follow(options: argparse.Namespace, runs: Sequence[Run], state: list[tuple[str, float, int]]) -> None:
    """Write the report again whenever a file of the runs has changed, until all runs are finished or Ctrl-C."""
    try:
        while not _are_finished(runs):
            time.sleep(options.follow)
            now = _state_of_files(options.runs)
            if now != state:
                state, runs = now, _write(options)
    except KeyboardInterrupt:
        print(file=sys.stderr)


def _are_finished(runs: Sequence[Run]) -> bool:
    return all(run.planned_steps is not None and run.last_step >= run.planned_steps for run in runs)


def _state_of_files(folders: Sequence[Path]) -> list[tuple[str, float, int]]:
    """What changes when a run writes: names, times and sizes of the files that reports read."""
    files = [
        file for folder in folders for file in (folder / METRICS_FILE, *(folder / HISTORY_FOLDER).glob("*.parquet"))
    ]
    return [(str(file), file.stat().st_mtime, file.stat().st_size) for file in sorted(files) if file.exists()]
