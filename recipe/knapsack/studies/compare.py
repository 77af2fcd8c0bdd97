"""An honest comparison on a CPU: methods and ablations on the tiny task, over seeds, through the real trainer.

    python -m recipe.knapsack.compare --output runs/compare --seeds 4

Every seed has a world, a warm start and a sampling of its own, shared by all methods. Started again, it resumes what
was interrupted and keeps what is finished. ``--seeds 1 --steps 40`` is the short form.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recipe.knapsack.processes.child_processes import ended_by_sigterm
from recipe.knapsack.studies.comparison_jobs import make_jobs, run_jobs, runs_that_fit
from recipe.knapsack.studies.comparison_picture import draw
from recipe.knapsack.studies.comparison_table import comparison_table, read_outcomes
from recipe.knapsack.studies.comparison_variants import VARIANTS


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of the main rows")
    parser.add_argument("--ablation-seeds", type=int, default=None, help="seeds of the other rows (default: 2 at most)")
    parser.add_argument("--steps", type=int, default=240, help="training steps of GRPO, whose rollouts the others get")
    parser.add_argument("--parallel", type=int, default=None, help="runs at a time (default: what fits the machine)")
    parser.add_argument("--only", nargs="*", default=None, help="folders of the rows to run (default: all)")
    parser.add_argument("--show", action="store_true", help="show what is finished, run nothing")
    options = parser.parse_args(arguments)
    if options.parallel is not None and options.parallel < 1:
        parser.error(f"--parallel is {options.parallel}: at least 1 run at a time")
    variants = [variant for variant in VARIANTS if options.only is None or variant.folder in options.only]
    ablation_seeds = min(options.seeds, 2) if options.ablation_seeds is None else options.ablation_seeds
    output = options.output.absolute()
    if not options.show:
        with ended_by_sigterm():
            jobs = make_jobs(output, variants, options.seeds, ablation_seeds, options.steps)
            run_jobs(jobs, options.parallel or runs_that_fit())
    # --only chooses what runs; its rows mean little without the baseline and the others that are finished.
    outcomes = read_outcomes(make_jobs(output, VARIANTS, options.seeds, ablation_seeds, options.steps))
    if not outcomes:
        sys.exit(f"error: no finished run in {output}")
    print("\n" + comparison_table(outcomes))
    (output / "comparison.md").write_text(comparison_table(outcomes) + "\n")
    draw(outcomes, VARIANTS, output / "comparison.png")
    print(f"\nTable: {output / 'comparison.md'}\nPicture: {output / 'comparison.png'}")


if __name__ == "__main__":
    main()
