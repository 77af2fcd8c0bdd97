"""The table of a comparison over worlds: differences to GRPO, paired by world, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recipe.knapsack.worlds.world_runs import Result

__all__ = ["interval_of_mean", "world_table"]

_RESAMPLES = 10_000
Results = Mapping[str, Mapping[int, Result]]
"""By the name of the method, then by world."""


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean over worlds, by the percentiles of 10,000 bootstrap resamples.

    >>> interval_of_mean([0.1, 0.1, 0.1])
    (0.1, 0.1)
    """
    sample = np.asarray(values)
    rows = np.random.default_rng(0).integers(len(sample), size=(_RESAMPLES, len(sample)))
    low, high = np.percentile(sample[rows].mean(axis=1), [2.5, 97.5])
    return round(float(low), 12), round(float(high), 12)


def world_table(results: Results, baseline: str) -> str:
    """The table as Markdown.

    Args:
        results: what was finished.
        baseline: the method that the others are compared with, in the worlds that both have finished.
    """
    header = (
        "method | worlds | held-out accuracy | difference to GRPO, 95 % interval | wins | effective ratio at the end | "
        "never solved | tokens of all rollouts, of GRPO's | difference at GRPO's tokens | "
        "of GRPO's cost to GRPO's accuracy: rollouts | tokens | CPU time | worlds that reach it"
    )
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    for name, by_world in results.items():
        lines.append("| " + " | ".join(_cells(name, by_world, results.get(baseline, {}), name == baseline)) + " |")
    return "\n".join(lines)


def _cells(name: str, by_world: Mapping[int, Result], baseline: Mapping[int, Result], is_baseline: bool) -> list[str]:
    runs = list(by_world.values())
    accuracies = [run.accuracy for run in runs]
    cells = [
        name,
        str(len(runs)),
        f"{np.mean(accuracies):.3f} +- {np.std(accuracies, ddof=1) if len(runs) > 1 else 0.0:.3f}",
        *(["", ""] if is_baseline else _difference(by_world, baseline)),
        f"{np.mean([run.effective_ratio for run in runs]):.3f}",
        f"{np.mean([run.never_solved for run in runs]):.0f}",
    ]
    return cells + ([""] * 6 if is_baseline else [*_tokens(by_world, baseline), *_costs(by_world, baseline)])


def _difference(by_world: Mapping[int, Result], baseline: Mapping[int, Result]) -> list[str]:
    paired = [run.accuracy - baseline[world].accuracy for world, run in by_world.items() if world in baseline]
    if not paired:
        return ["", ""]
    low, high = interval_of_mean(paired)
    wins = sum(difference > 0 for difference in paired)
    return [f"{np.mean(paired):+.3f} ({low:+.3f} to {high:+.3f})", f"{wins} of {len(paired)}"]


def _tokens(by_world: Mapping[int, Result], baseline: Mapping[int, Result]) -> list[str]:
    """What equal rollouts cost in tokens, and what is gained when as many tokens as the baseline's are spent."""
    paired = [
        (run.validations, baseline[world].validations[-1]) for world, run in by_world.items() if world in baseline
    ]
    if not paired:
        return ["", ""]
    shares = [validations[-1].tokens / whole.tokens for validations, whole in paired]
    gains = [
        [each for each in validations if each.tokens <= whole.tokens][-1].accuracy - whole.accuracy
        for validations, whole in paired
    ]
    return [f"{np.mean(shares):.0%}", f"{np.mean(gains):+.3f}"]


def _costs(by_world: Mapping[int, Result], baseline: Mapping[int, Result]) -> list[str]:
    """Medians over the worlds that reach the baseline's final accuracy: what that took, as a share of the baseline."""
    shares, worlds = [], [world for world in by_world if world in baseline]
    for world in worlds:
        whole = baseline[world].validations[-1]
        reached = by_world[world].first_with(whole.accuracy)
        if reached is not None:
            shares.append(
                [reached.rollouts / whole.rollouts, reached.tokens / whole.tokens, reached.seconds / whole.seconds]
            )
    if not shares:
        return ["-", "-", "-", f"0 of {len(worlds)}"]
    return [*(f"{share:.0%}" for share in np.median(shares, axis=0)), f"{len(shares)} of {len(worlds)}"]
