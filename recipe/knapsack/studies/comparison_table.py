"""What the finished runs of the comparison come to, and the table of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.knapsack.report.run_data import Run, load_run, summarize
from recipe.knapsack.studies.comparison_jobs import Job
from recipe.knapsack.studies.comparison_variants import BASELINE, BASELINE_OF


@dataclass(frozen=True)
class Outcome:
    """What a run comes to at its end.

    ``accuracy_curve`` is (rollouts, held-out accuracy, generated tokens, seconds) of every validation.
    ``never_solved`` and ``tokens_per_step`` are None, and tokens NaN, for a run that was ended before it wrote a
    history.
    """

    accuracy: float
    effective_ratio: float
    never_solved: int | None
    largest_budget: int
    minutes: float
    accuracy_curve: np.ndarray
    tokens_per_step: float | None = None

    def rollouts_to_reach(self, accuracy: float) -> float:
        """Return the rollouts at the first validation with at least ``accuracy``; NaN if there is none."""
        reached = self.accuracy_curve[self.accuracy_curve[:, 1] >= accuracy]
        return float(reached[0, 0]) if len(reached) else float("nan")


def outcome_of(run: Run, rollouts: int) -> Outcome:
    """Reduce a run to its outcome at ``rollouts``."""
    summary = summarize(run)
    accuracy = run.held_out_accuracy.iloc[:, 0].dropna()
    spent = run.cumulative_rollouts.reindex(accuracy.index).fillna(0)
    costs = [run.cumulative_tokens.reindex(accuracy.index), run.cumulative_seconds.reindex(accuracy.index)]
    curve = np.column_stack([spent, accuracy, *costs])
    curve = curve[curve[:, 0] <= rollouts]
    return Outcome(
        accuracy=float(curve[-1, 1]),
        effective_ratio=summary.effective_ratio,
        never_solved=summary.never_solved,
        largest_budget=summary.largest_budget,
        minutes=summary.seconds / 60,
        accuracy_curve=curve,
        tokens_per_step=summary.median_step_tokens,
    )


Outcomes = dict[str, dict[int, Outcome]]


def read_outcomes(jobs: list[Job]) -> Outcomes:
    """Return the outcome of every finished run by variant and seed."""
    outcomes: Outcomes = {}
    for job in jobs:
        if job.is_finished:
            outcome = outcome_of(load_run(job.run.run_folder), job.rollouts)
            outcomes.setdefault(job.variant.name, {})[job.seed] = outcome
    return outcomes


def comparison_table(outcomes: Outcomes) -> str:
    """Return the table as Markdown: mean +- standard deviation over seeds, differences to GRPO paired by seed."""
    header = (
        "method | seeds | held-out accuracy | difference to GRPO (wins) | effective ratio | never solved | "
        "largest budget | rollouts to reach GRPO's accuracy | minutes | tokens per step"
    )
    rows = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for name, by_seed in outcomes.items():
        baseline = outcomes.get(BASELINE_OF.get(name, BASELINE), {})
        runs = list(by_seed.values())
        cells = [
            name,
            str(len(runs)),
            _mean_and_spread([run.accuracy for run in runs], 3),
            "" if name == BASELINE else _paired_difference(by_seed, baseline),
            _mean_and_spread([run.effective_ratio for run in runs], 3),
            _mean_and_spread([run.never_solved for run in runs], 0),
            str(max(run.largest_budget for run in runs)),
            _rollouts_to_match(by_seed, baseline),
            _mean_and_spread([run.minutes for run in runs], 1),
            _mean_and_spread([run.tokens_per_step for run in runs], 0),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _mean_and_spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" +- {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def _paired_difference(by_seed: dict[int, Outcome], baseline: dict[int, Outcome]) -> str:
    differences = [run.accuracy - baseline[seed].accuracy for seed, run in by_seed.items() if seed in baseline]
    if not differences:
        return ""
    wins = sum(difference > 0 for difference in differences)
    return f"{np.mean(differences):+.3f} ({wins} of {len(differences)})"


def _rollouts_to_match(by_seed: dict[int, Outcome], baseline: dict[int, Outcome]) -> str:
    spent = [
        run.rollouts_to_reach(baseline[seed].accuracy) / baseline[seed].accuracy_curve[-1, 0]
        for seed, run in by_seed.items()
        if seed in baseline
    ]
    reached = [share for share in spent if np.isfinite(share)]
    if not spent:
        return ""
    if not reached:
        return f"not reached (0 of {len(spent)})"
    return f"{np.median(reached):.0%} of GRPO's ({len(reached)} of {len(spent)} reached it)"
