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
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from verl.trainer.ppo.exploration_utils import (
    Allocation,
    expected_effective_ratio,
    homogeneous_allocate,
    knapsack_allocate,
)
from verl.trainer.ppo.task_status import TaskStatus

DEFAULT_BATCH_SIZE = 256
DEFAULT_ROLLOUTS_PER_PROMPT = (4, 8, 16)
LARGEST_UNIFORM_ROLLOUTS = 1024
HISTOGRAM_EDGES = (1, 2, 3, 5, 9, 17, 33, 65, 129)


class PlanError(ValueError):
    """The input or the options do not allow a plan; the message says what to change."""


@dataclass(frozen=True)
class Population:
    """What is known of P prompts.

    Attributes:
        success_rates: (P,) float in [0, 1]; NaN = unseen.
        beliefs: (alpha, beta), (P,) each, or None where the number of rollouts behind the rates is unknown.
        greedy_match_rates: (P,) float for ReMax, or None where unknown.
        estimator: that made the success rates from a task status; None where they come from a table.
    """

    success_rates: np.ndarray
    beliefs: tuple[np.ndarray, np.ndarray] | None = None
    greedy_match_rates: np.ndarray | None = None
    estimator: str | None = None

    def __len__(self) -> int:
        return len(self.success_rates)

    def take(self, chosen: np.ndarray) -> Population:
        """The chosen prompts."""
        beliefs = None if self.beliefs is None else (self.beliefs[0][chosen], self.beliefs[1][chosen])
        matches = None if self.greedy_match_rates is None else self.greedy_match_rates[chosen]
        return Population(self.success_rates[chosen], beliefs, matches, self.estimator)

    def estimates(self) -> dict[str, Any]:
        """Keyword arguments for the allocators."""
        return {
            "success_rates": self.success_rates,
            "beliefs": self.beliefs,
            "greedy_match_rates": self.greedy_match_rates,
        }

    def counts(self) -> dict[str, int]:
        """Number of prompts by estimated success rate."""
        rates = self.success_rates
        return {
            "prompts": len(rates),
            "unseen": int(np.isnan(rates).sum()),
            "rate_zero": int((rates == 0).sum()),
            "rate_between": int(((rates > 0) & (rates < 1)).sum()),
            "rate_one": int((rates == 1).sum()),
        }


@dataclass(frozen=True)
class Plan:
    """What one choice of budget and bounds would do, averaged over the batches of an epoch.

    Attributes:
        batch_size, total_budget, n_low, n_up: the choice; budgets are per step.
        homogeneous_ratio, knapsack_ratio: expected effective-gradient ratio; NaN if no success rate is known.
        matching_uniform_rollouts: smallest uniform number of rollouts per prompt that gives at least the knapsack's
            ratio; None where no number up to `LARGEST_UNIFORM_ROLLOUTS` does.
        effective_rollouts_gained: additional rollouts with a non-zero gradient per step.
        largest_budget: most rollouts for one prompt.
        rollouts_by_rule: mean rollouts per step that each rule of the allocation places.
        rollouts_per_unsolved_prompt, rollouts_per_unsolved_prompt_without_fallback: mean budget of a prompt whose
            estimated success rate is 0; None where there is none.
        histogram: number of prompts of the epoch by budget, ``"3-4"`` and so on.
    """

    batch_size: int
    total_budget: int
    n_low: int
    n_up: int
    homogeneous_ratio: float
    knapsack_ratio: float
    matching_uniform_rollouts: int | None
    effective_rollouts_gained: float
    largest_budget: int
    rollouts_by_rule: dict[str, float]
    rollouts_per_unsolved_prompt: float | None
    rollouts_per_unsolved_prompt_without_fallback: float | None
    histogram: dict[str, int]


# --- Input ------------------------------------------------------------------------------------------------------------


def load_population(
    path: Path, *, column: str = "success_rate", observed_rollouts: str | None = None, estimator: str | None = None
) -> Population:
    """Read what is known of the prompts.

    Args:
        path: a saved task status (``.npz``), or a table (``.csv``, ``.parquet``) with one row per prompt.
        column: the table's column of success rates.
        observed_rollouts: rollouts behind each success rate of a table: a number, or the name of a column.
        estimator: success-rate estimator for a task status; None = the one it was saved with.

    Raises:
        PlanError: the file is of no known kind, or lacks a column, or holds something that is not a success rate.
        FileNotFoundError: there is no such file.
    """
    if path.suffix == ".npz":
        return _from_task_status(TaskStatus.load(path, **({} if estimator is None else {"estimator": estimator})))
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise PlanError(
            f"{path}: expected a file named .npz (task status), .csv or .parquet, got {path.suffix or 'none'!r}"
        )
    return _from_table(readers[path.suffix](path), path, column, observed_rollouts)


def _from_task_status(status: TaskStatus) -> Population:
    if len(status) == 0:
        raise PlanError("the task status knows no prompt yet; plan after the first steps of a run")
    prompts, next_epoch = status.prompt_ids, status.epoch + 1
    return Population(
        success_rates=status.success_rates(prompts, epoch=next_epoch),
        beliefs=status.beliefs(prompts, epoch=next_epoch),
        greedy_match_rates=status.greedy_match_rates(prompts, epoch=next_epoch),
        estimator=status.estimator,
    )


def _from_table(table: pd.DataFrame, path: Path, column: str, observed_rollouts: str | None) -> Population:
    rates = _numbers(table, path, column)
    is_valid = np.isnan(rates) | ((rates >= 0.0) & (rates <= 1.0))
    if len(rates) == 0 or not is_valid.all():
        found = "no rows" if len(rates) == 0 else f"{rates[np.argmin(is_valid)]} in row {np.argmin(is_valid)}"
        raise PlanError(f"{path}: column {column!r} must hold success rates between 0 and 1, found {found}")
    if observed_rollouts is None:
        return Population(rates)
    if observed_rollouts.isdigit():
        rollouts = np.full(len(rates), float(observed_rollouts))
    else:
        rollouts = _numbers(table, path, observed_rollouts)
    if not np.all(rollouts[~np.isnan(rates)] > 0):
        raise PlanError(
            f"{path}: --observed-rollouts {observed_rollouts} must be above 0 wherever there is a success rate"
        )
    return Population(rates, beliefs_from_counts(rates, rollouts))


def _numbers(table: pd.DataFrame, path: Path, column: str) -> np.ndarray:
    if column not in table.columns:
        raise PlanError(f"{path}: there is no column {column!r}; it has {', '.join(map(str, table.columns))}")
    try:
        return pd.to_numeric(table[column]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{path}: column {column!r} must hold numbers: {error}") from error


def beliefs_from_counts(success_rates: np.ndarray, rollouts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Beta beliefs from success rates and the rollouts behind them, with one prior rollout at the mean success rate.

    >>> alpha, beta = beliefs_from_counts(np.array([0.0, 1.0, np.nan]), np.array([8.0, 8.0, 0.0]))
    >>> alpha.tolist(), beta.tolist()
    ([0.5, 8.5, 0.5], [8.5, 0.5, 0.5])
    """
    is_seen = ~np.isnan(success_rates)
    mean = np.clip(np.mean(success_rates[is_seen]), 1e-3, 1.0 - 1e-3) if is_seen.any() else 0.5
    successes = np.where(is_seen, success_rates * rollouts, 0.0)
    failures = np.where(is_seen, (1.0 - success_rates) * rollouts, 0.0)
    return successes + mean, failures + 1.0 - mean


# --- Planning ---------------------------------------------------------------------------------------------------------


def make_plan(
    population: Population,
    *,
    batch_size: int,
    total_budget: int,
    n_low: int = 2,
    n_up: int = 128,
    value: str = "grpo",
    fallback: bool = True,
    seed: int = 0,
) -> Plan:
    """Allocate every batch of one epoch, and compare with homogeneous allocation.

    Args:
        population: the prompts; the last incomplete batch is dropped, as in training.
        batch_size: M, prompts per step.
        total_budget: N_total, rollouts per step.
        n_low, n_up, value, fallback: as for `knapsack_allocate`.
        seed: of the shuffle that makes the batches.

    Raises:
        ValueError: the population is smaller than a batch, or the allocation is impossible.
    """
    if not 1 <= batch_size <= len(population):
        raise PlanError(f"batch size {batch_size} is not possible with {len(population)} prompts; lower --batch-size")
    order = np.random.default_rng(seed).permutation(len(population))
    batches = [population.take(part) for part in _full_batches(order, batch_size)]
    options = {"n_low": n_low, "n_up": n_up, "value": value}
    with_fallback, without_fallback = (
        [knapsack_allocate(total_budget=total_budget, fallback=on, **options, **batch.estimates()) for batch in batches]
        for on in (True, False)
    )
    allocations = with_fallback if fallback else without_fallback
    uniform_budgets = homogeneous_allocate(batch_size, total_budget).budgets
    knapsack_ratio = _mean_ratio(batches, [allocation.budgets for allocation in allocations], value)
    homogeneous_ratio = _mean_ratio(batches, [uniform_budgets] * len(batches), value)
    budgets = np.concatenate([allocation.budgets for allocation in allocations])
    return Plan(
        batch_size=batch_size,
        total_budget=total_budget,
        n_low=n_low,
        n_up=n_up,
        homogeneous_ratio=homogeneous_ratio,
        knapsack_ratio=knapsack_ratio,
        matching_uniform_rollouts=uniform_rollouts_to_match(population, knapsack_ratio, value),
        effective_rollouts_gained=(knapsack_ratio - homogeneous_ratio) * total_budget,
        largest_budget=int(budgets.max()),
        rollouts_by_rule=_mean_by_rule(allocations),
        rollouts_per_unsolved_prompt=_mean_unsolved_budget(batches, with_fallback),
        rollouts_per_unsolved_prompt_without_fallback=_mean_unsolved_budget(batches, without_fallback),
        histogram=budget_histogram(budgets),
    )


def _full_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]


def _mean_ratio(batches: Sequence[Population], budgets: Sequence[np.ndarray], value: str) -> float:
    ratios = [effective_ratio(batch, given, value) for batch, given in zip(batches, budgets, strict=True)]
    known = [ratio for ratio in ratios if not np.isnan(ratio)]
    return float(np.mean(known)) if known else float("nan")


def effective_ratio(population: Population, budgets: np.ndarray, value: str = "grpo") -> float:
    """Expected effective-gradient ratio of the budgets, averaged over the beliefs where there are any.

    The expectation over beliefs exists for estimators that compare the rollouts of a group; REINFORCE and ReMax are
    judged by their success rates.
    """
    is_group_compared = value not in ("reinforce", "remax")
    judge = "expected" if population.beliefs is not None and is_group_compared else value
    return expected_effective_ratio(budgets, value=judge, **population.estimates())


def _mean_by_rule(allocations: Sequence[Allocation]) -> dict[str, float]:
    return {rule: float(np.mean([a.placed[rule] for a in allocations])) for rule in allocations[0].placed}


def _mean_unsolved_budget(batches: Sequence[Population], allocations: Sequence[Allocation]) -> float | None:
    budgets = [a.budgets[b.success_rates == 0] for b, a in zip(batches, allocations, strict=True)]
    unsolved = np.concatenate(budgets)
    return float(unsolved.mean()) if len(unsolved) else None


def uniform_ratio(population: Population, rollouts: int, value: str = "grpo") -> float:
    """Expected effective-gradient ratio if every prompt of the population gets `rollouts` rollouts."""
    return effective_ratio(population, np.full(len(population), rollouts), value)


def uniform_rollouts_to_match(population: Population, ratio: float, value: str = "grpo") -> int | None:
    """Smallest uniform number of rollouts whose expected effective-gradient ratio is at least `ratio`.

    None if `LARGEST_UNIFORM_ROLLOUTS` are not enough: homogeneous allocation can never exceed the share of prompts that
    can give a gradient at all, the knapsack can, because it moves rollouts there.
    """
    if not uniform_ratio(population, LARGEST_UNIFORM_ROLLOUTS, value) >= ratio:
        return None
    low, high = 1, LARGEST_UNIFORM_ROLLOUTS
    while low < high:
        middle = (low + high) // 2
        if uniform_ratio(population, middle, value) >= ratio:
            high = middle
        else:
            low = middle + 1
    return low


def budget_histogram(budgets: np.ndarray) -> dict[str, int]:
    """Number of prompts by budget, in bins that double.

    >>> budget_histogram(np.array([2, 3, 4, 130]))
    {'1': 0, '2': 1, '3-4': 2, '5-8': 0, '9-16': 0, '17-32': 0, '33-64': 0, '65-128': 0, '129+': 1}
    """
    starts = np.array(HISTOGRAM_EDGES)
    counts = np.bincount(np.searchsorted(starts, budgets, side="right") - 1, minlength=len(starts))
    ends = [str(end - 1) for end in HISTOGRAM_EDGES[1:]]
    labels = [end if start == int(end) else f"{start}-{end}" for start, end in zip(starts[:-1], ends, strict=True)]
    return dict(zip([*labels, f"{starts[-1]}+"], counts.tolist(), strict=True))


# --- Output -----------------------------------------------------------------------------------------------------------


def format_plans(population: Population, plans: Sequence[Plan]) -> str:
    """The plans as text."""
    counts = population.counts()
    lines = [
        f"{counts['prompts']} prompts by estimated success rate: {counts['rate_zero']} with p = 0, "
        f"{counts['rate_between']} with 0 < p < 1, {counts['rate_one']} with p = 1, {counts['unseen']} unseen"
        # Else its zeros would be read as prompts that were never, or always, solved.
        + ("; beta estimates are never 0 or 1" if population.estimator == "beta" else ""),
        "",
        "expected effective-gradient ratio (share of rollouts with a non-zero gradient), "
        + ("success rates at face value" if population.beliefs is None else "averaged over what the rates may be"),
        f"{'N_total':>8} {'N_low':>6} {'N_up':>5} {'homogeneous':>12} {'knapsack':>9} {'difference':>11} "
        f"{'uniform N for the same':>23} {'largest budget':>15} {'p = 0 get':>13} {'(no fallback)':>14}",
    ]
    lines += [_format_row(plan) for plan in plans]
    lines += [
        "",
        "uniform N for the same: rollouts for every prompt that homogeneous allocation needs for that ratio",
        "",
    ]
    lines += [line for plan in plans for line in _format_details(plan)]
    return "\n".join(lines)


def _format_row(plan: Plan) -> str:
    needed = plan.matching_uniform_rollouts
    uniform = f"over {LARGEST_UNIFORM_ROLLOUTS}" if needed is None else str(needed)
    return (
        f"{plan.total_budget:8} {plan.n_low:6} {plan.n_up:5} {plan.homogeneous_ratio:12.1%} {plan.knapsack_ratio:9.1%} "
        f"{(plan.knapsack_ratio - plan.homogeneous_ratio) * 100:+8.1f} pp {uniform:>23} {plan.largest_budget:15} "
        f"{_optional(plan.rollouts_per_unsolved_prompt):>13} "
        f"{_optional(plan.rollouts_per_unsolved_prompt_without_fallback):>14}"
    )


def _optional(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _format_details(plan: Plan) -> list[str]:
    num_prompts = sum(plan.histogram.values())
    rules = ", ".join(f"{rule} {rollouts:.0f}" for rule, rollouts in plan.rollouts_by_rule.items() if rollouts)
    lines = [
        f"N_total = {plan.total_budget}, N_low = {plan.n_low}, N_up = {plan.n_up}: rollouts per step by rule: {rules}"
    ]
    for label, count in plan.histogram.items():
        if count:
            lines.append(f"  {label:>7} rollouts {count / num_prompts:6.1%} {'#' * round(50 * count / num_prompts)}")
    return [*lines, ""]


def plot_plans(population: Population, plans: Sequence[Plan], value: str, path: Path) -> None:
    """Write a picture: the ratio against rollouts per prompt, and the histogram of budgets of each plan."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    ratios, histogram = figure.subplots(1, 2)
    _plot_ratios(ratios, population, plans, value)
    _plot_histograms(histogram, plans)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _label(plan: Plan) -> str:
    return f"$N_{{total}}$={plan.total_budget}, {plan.n_low}..{plan.n_up}"


def _plot_ratios(axes: Any, population: Population, plans: Sequence[Plan], value: str) -> None:
    uniform = np.unique(np.geomspace(1, 128, 30).astype(int))
    axes.plot(uniform, [uniform_ratio(population, int(n), value) for n in uniform], "k-", label="homogeneous")
    for plan, marker in zip(plans, _cycle("osD^vPX*", len(plans)), strict=True):
        axes.plot(plan.total_budget / plan.batch_size, plan.knapsack_ratio, marker, markersize=9, label=_label(plan))
    axes.set_xscale("log", base=2)
    axes.set_ylim(0, 1)
    axes.set_xlabel("rollouts per prompt on average")
    axes.set_ylabel("expected effective-gradient ratio")
    axes.grid(alpha=0.3)
    axes.legend(title="knapsack, $N_{low}$..$N_{up}$", fontsize="small")


def _plot_histograms(axes: Any, plans: Sequence[Plan]) -> None:
    labels = list(plans[0].histogram)
    width = 0.8 / len(plans)
    for position, (plan, hatch) in enumerate(zip(plans, _cycle(["", "//", "..", "xx"], len(plans)), strict=True)):
        shares = np.array(list(plan.histogram.values())) / sum(plan.histogram.values())
        offsets = np.arange(len(labels)) + (position - (len(plans) - 1) / 2) * width
        axes.bar(offsets, shares, width, label=_label(plan), hatch=hatch, edgecolor="black", linewidth=0.5)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("rollouts that a prompt gets")
    axes.set_ylabel("share of prompts")
    axes.legend(fontsize="small")


def _cycle(items: Sequence[str], length: int) -> list[str]:
    return [items[index % len(items)] for index in range(length)]


def as_json(population: Population, plans: Sequence[Plan]) -> str:
    """The plans as a JSON document; a ratio that is unknown is null."""
    document = {"population": population.counts(), "plans": [asdict(plan) for plan in plans]}
    return json.dumps(_without_nan(document), indent=2, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


# --- Command line -----------------------------------------------------------------------------------------------------


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
        help="grpo, rloo, reinforce, remax, expected or package.module:function (default: %(default)s)",
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
