"""Plans as text, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recipe.knapsack.planner.budget_plan import LARGEST_UNIFORM_ROLLOUTS, Plan, uniform_ratio
from recipe.knapsack.planner.population import Population


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
    labels = max((list(plan.histogram) for plan in plans), key=len)
    width = 0.8 / len(plans)
    for position, (plan, hatch) in enumerate(zip(plans, _cycle(["", "//", "..", "xx"], len(plans)), strict=True)):
        counts = np.array([plan.histogram.get(label, 0) for label in labels])
        offsets = np.arange(len(labels)) + (position - (len(plans) - 1) / 2) * width
        axes.bar(
            offsets, counts / counts.sum(), width, label=_label(plan), hatch=hatch, edgecolor="black", linewidth=0.5
        )
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
