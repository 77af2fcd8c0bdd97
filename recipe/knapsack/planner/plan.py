"""What would knapsack allocation do on my data? Answers from success rates alone, before any GPU is used.

    python -m recipe.knapsack.plan outputs/my_run/task_status.npz
    python -m recipe.knapsack.plan rates.csv --column pass_rate --total-budget 1024 2048 --n-up 32 128 --picture out.png

The prompts are split into batches as an epoch of training would, each batch is allocated, and for every combination of
total budget and bounds one line tells the expected effective-gradient ratio (share of rollouts with a non-zero
gradient; paper, equation 4) of homogeneous and of knapsack allocation, the rollouts per prompt that homogeneous
allocation would need for the knapsack's ratio, and where the rollouts go.

INPUT is a task status that a run has saved (task_status.npz), or a CSV or parquet file with one row per prompt and a
column of success rates between 0 and 1; an empty cell is a prompt that has not been tried yet.

A few rollouts cannot tell p = 0 from p = 0.1. A task status knows how many there were, a file does with
--observed-rollouts; then the ratios are averaged over what the success rates may really be (a Beta belief for each
prompt). Without it, the success rates are taken at face value, which flatters the knapsack where there is something to
gain, and says that rollouts for a prompt with p = 0, such as the fallback gives, are lost.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from knapsack_rl.values import VALUE_FUNCTIONS
from recipe.knapsack.planner.budget_plan import make_plan
from recipe.knapsack.planner.plan_output import as_json, format_plans, plot_plans
from recipe.knapsack.planner.population import PlanError, load_population

DEFAULT_BATCH_SIZE = 256
DEFAULT_ROLLOUTS_PER_PROMPT = (4, 8, 16)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help="task_status.npz, or a .csv or .parquet file")
    parser.add_argument("--column", default="success_rate", help="column of success rates (default: %(default)s)")
    parser.add_argument(
        "--observed-rollouts",
        metavar="N|COLUMN",
        help="rollouts behind each success rate of a file: a number or a column",
    )
    parser.add_argument("--estimator", help="success-rate estimator for a task status (default: the saved one)")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="M",
        help=f"prompts per step (default: {DEFAULT_BATCH_SIZE}, or all if there are fewer)",
    )
    parser.add_argument(
        "--total-budget",
        type=int,
        nargs="+",
        metavar="N",
        help=f"rollouts per step to try (default: {', '.join(map(str, DEFAULT_ROLLOUTS_PER_PROMPT))} per prompt)",
    )
    parser.add_argument(
        "--n-low", type=int, nargs="+", default=[2], metavar="N", help="least rollouts to try (default: 2)"
    )
    parser.add_argument(
        "--n-up", type=int, nargs="+", default=[128], metavar="N", help="most rollouts to try (default: 128)"
    )
    parser.add_argument(
        "--value",
        default="grpo",
        help=f"{', '.join(VALUE_FUNCTIONS)} or package.module:function (default: %(default)s)",
    )
    parser.add_argument("--no-fallback", action="store_true", help="leave unsolved prompts at their minimum")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle into batches (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="also draw ratios and budgets")
    return parser


def run(options: argparse.Namespace) -> str:
    """Plan as the command line asks; returns what is to be printed."""
    population = load_population(
        options.input, column=options.column, observed_rollouts=options.observed_rollouts, estimator=options.estimator
    )
    if options.value == "expected" and population.beliefs is None:
        raise PlanError("--value expected needs --observed-rollouts: the number of rollouts behind the success rates")
    batch_size = min(DEFAULT_BATCH_SIZE, len(population)) if options.batch_size is None else options.batch_size
    total_budgets = options.total_budget or [batch_size * rollouts for rollouts in DEFAULT_ROLLOUTS_PER_PROMPT]
    plans = [
        make_plan(
            population,
            batch_size=batch_size,
            total_budget=total_budget,
            n_low=n_low,
            n_up=n_up,
            value=options.value,
            fallback=not options.no_fallback,
            seed=options.seed,
        )
        for total_budget, n_low, n_up in product(total_budgets, options.n_low, options.n_up)
    ]
    if options.picture:
        plot_plans(population, plans, options.value, options.picture)
    return as_json(population, plans) if options.json else format_plans(population, plans)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        print(run(_parser().parse_args(arguments)))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
