"""avg@N and pass@k per benchmark and on average, from which responses were right; laid out as the paper's Table 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Column:
    """A column of Table 2: its heading, and the number of benchmarks that it counts for in the average.

    AIME is one column for the editions of 2024 and 2025, but the averages that the paper prints count both.
    """

    heading: str
    weight: int = 1


COLUMNS = {
    "aime_2024_2025": Column("AIME", weight=2),
    "amc": Column("AMC"),
    "math_500": Column("MATH"),
    "minerva_math": Column("MINERVA"),
    "olympiad_bench": Column("OLYMPIAD"),
    "gpqa_diamond": Column("GPQA"),
}
"""The columns of Table 2 by data source, in its order. A data source that is not here is a column of its own name."""

AVERAGE = "Avg"


@dataclass(frozen=True)
class BenchmarkScore:
    """How a model does on one benchmark.

    Attributes:
        prompts, responses: number of prompts, and of responses to each, N.
        avg: avg@N, the share of right responses, averaged over the prompts.
        pass_at: k -> pass@k, the probability that at least one of k responses is right, averaged over the prompts.
    """

    prompts: int
    responses: int
    avg: float
    pass_at: dict[int, float]


def pass_at_k(successes: np.ndarray, responses: int, k: int) -> np.ndarray:
    """Unbiased estimate of the probability that at least one of ``k`` responses is right (Chen et al. 2021, eq. 1).

    Args:
        successes: (P,) int, right responses to each prompt.
        responses: N, responses to each prompt.
        k: at most ``responses``.

    Returns:
        (P,) float: 1 - C(N - c, k) / C(N, k) for c right ones of N.

    Raises:
        ValueError: k is not within 1 and ``responses``.

    Example:
        >>> pass_at_k(np.array([0, 1, 3]), responses=4, k=2)
        array([0. , 0.5, 1. ])
    """
    if not 1 <= k <= responses:
        raise ValueError(
            f"pass@{k} cannot be estimated from {responses} responses to a prompt: expected 1 to {responses}"
        )
    wrong = responses - np.asarray(successes)[:, None]
    drawn = np.arange(k)
    # Once the wrong ones are used up a factor is 0, and with it the probability that all k are wrong.
    return 1.0 - np.prod(np.maximum(wrong - drawn, 0) / (responses - drawn), axis=1)


def score_benchmark(is_right: np.ndarray, ks: Sequence[int]) -> BenchmarkScore:
    """Score one benchmark from ``is_right``, (P, N) bool: whether each of N responses to each of P prompts is right."""
    prompts, responses = is_right.shape
    successes = is_right.sum(axis=1)
    return BenchmarkScore(
        prompts=prompts,
        responses=responses,
        avg=float(is_right.mean()),
        pass_at={k: float(pass_at_k(successes, responses, k).mean()) for k in ks},
    )


def score_benchmarks(data_sources: Sequence[str], is_right: np.ndarray, ks: Sequence[int]) -> dict[str, BenchmarkScore]:
    """Score every benchmark.

    Args:
        data_sources: P names, the benchmark of each prompt.
        is_right: (P, N) bool, whether each of N responses to each prompt is right.
        ks: the k of pass@k.

    Returns:
        data source -> score; those of `COLUMNS` first, in its order, then the others in order of appearance.
    """
    sources = np.asarray(data_sources)
    present = dict.fromkeys(data_sources)
    ordered = [source for source in COLUMNS if source in present] + [s for s in present if s not in COLUMNS]
    return {source: score_benchmark(is_right[sources == source], ks) for source in ordered}


def average(values: Mapping[str, float]) -> float:
    """Average over benchmarks as in Table 2: every benchmark counts once, AIME once for each of its two editions.

    Args:
        values: data source -> avg@N or pass@k.

    Example:
        >>> average({"aime_2024_2025": 0.2, "amc": 0.5})
        0.3
    """
    weights = [COLUMNS.get(source, Column(source)).weight for source in values]
    return float(np.average(list(values.values()), weights=weights))


def format_table(models: Mapping[str, Mapping[str, BenchmarkScore]]) -> str:
    """Lay out avg@N and every pass@k of all models, in percent; a benchmark that a model has not answered is a dash.

    Args:
        models: name of a model -> data source -> score.
    """
    sources = list(dict.fromkeys(source for scores in models.values() for source in scores))
    ordered = [source for source in COLUMNS if source in sources] + [s for s in sources if s not in COLUMNS]
    headings = [COLUMNS.get(source, Column(source)).heading for source in ordered] + [AVERAGE]
    widths = [max(len(heading), 5) + 2 for heading in headings]
    name_width = max(map(len, models), default=0) + 2
    lines = []
    for metric, values_of in _metrics(models).items():
        cells = "".join(f"{heading:>{width}}" for heading, width in zip(headings, widths, strict=True))
        lines += ["", f"{metric:{name_width}}{cells}"]
        for model, values in values_of.items():
            row = [values.get(source) for source in ordered] + [average(values)]
            cells = "".join(f"{_percent(value):>{width}}" for value, width in zip(row, widths, strict=True))
            lines.append(f"{model:{name_width}}{cells}")
    if "aime_2024_2025" in ordered and len(ordered) > 1:
        lines += ["", f"{AVERAGE}: AIME counts for both of its editions, 2024 and 2025, as in the paper's Table 2."]
    return "\n".join(lines[1:])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _metrics(models: Mapping[str, Mapping[str, BenchmarkScore]]) -> dict[str, dict[str, dict[str, float]]]:
    """metric -> model -> data source -> value, avg@N first."""
    metrics: dict[str, dict[str, dict[str, float]]] = {}
    for model, scores in models.items():
        for source, score in scores.items():
            metrics.setdefault(f"avg@{score.responses}", {}).setdefault(model, {})[source] = score.avg
    for model, scores in models.items():
        for source, score in scores.items():
            for k, value in score.pass_at.items():
                metrics.setdefault(f"pass@{k}", {}).setdefault(model, {})[source] = value
    return metrics
