"""Validation metrics per data source: upstream's names and meaning, without its bootstrap loops.

Upstream estimates best@k and worst@k from 1,000 resamples of every prompt in Python, which takes minutes for a
benchmark suite. The expectation and the spread of a resampled extreme have a closed form; only the majority vote is
sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_VOTE_RESAMPLES = 1000


def extreme_of_resamples(values: np.ndarray, size: int, largest: bool = True) -> tuple[float, float]:
    """Mean and standard deviation of the largest (or smallest) of ``size`` values drawn with replacement.

    Args:
        values: (n,) float, the scores of one prompt's responses.
        size: number of draws.
        largest: whether to take the largest draw, else the smallest.

    Example:
        >>> extreme_of_resamples(np.array([0.0, 1.0]), size=2)
        (0.75, 0.4330127018922193)
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    ordered = ordered if largest else ordered[::-1]
    at_most = (np.arange(len(ordered) + 1) / len(ordered)) ** size
    probabilities = np.diff(at_most)
    mean = float(probabilities @ ordered)
    variance = float(probabilities @ (ordered - mean) ** 2)
    return mean, variance**0.5


def majority_of_resamples(values: np.ndarray, votes: Sequence[Any], size: int, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the value that the majority of ``size`` resampled responses answered with.

    Args:
        values: (n,) float, the scores of one prompt's responses.
        votes: n answers; equal answers vote together, and the first answer drawn wins a tie.
        size: number of draws.
        seed: seed of the 1,000 resamples.
    """
    codes = np.unique([str(vote) for vote in votes], return_inverse=True)[1]
    if codes.max() == 0 and np.ptp(values) == 0:
        return float(values[0]), 0.0
    draws = np.random.default_rng(seed).integers(len(values), size=(_VOTE_RESAMPLES, size))
    drawn = codes[draws]
    agreeing = (drawn[:, :, None] == drawn[:, None, :]).sum(axis=2)
    winners = draws[np.arange(_VOTE_RESAMPLES), agreeing.argmax(axis=1)]
    outcomes = np.asarray(values, dtype=float)[winners]
    return float(outcomes.mean()), float(outcomes.std())


def _prompt_metrics(values: Sequence[float], votes: Sequence[Any] | None, seed: int) -> dict[str, float]:
    values = np.asarray(values, dtype=float)
    count = len(values)
    metrics = {f"mean@{count}": float(values.mean())}
    if count == 1:
        return metrics
    metrics[f"std@{count}"] = float(values.std())
    sizes = [size for size in (2**power for power in range(1, count.bit_length())) if size < count] + [count]
    for size in sizes:
        metrics[f"best@{size}/mean"], metrics[f"best@{size}/std"] = extreme_of_resamples(values, size)
        metrics[f"worst@{size}/mean"], metrics[f"worst@{size}/std"] = extreme_of_resamples(values, size, largest=False)
        if votes is not None:
            majority = majority_of_resamples(values, votes, size, seed)
            metrics[f"maj@{size}/mean"], metrics[f"maj@{size}/std"] = majority
    return metrics


def process_validation_metrics(
    data_sources: Sequence[str], sample_inputs: Sequence[str], infos_dict: Mapping[str, Sequence[Any]], seed: int = 42
) -> dict[str, dict[str, dict[str, float]]]:
    """Aggregate the scores of all responses: over the responses of a prompt, then over the prompts of a data source.

    Args:
        data_sources: data source of every response.
        sample_inputs: prompt of every response; equal prompts of a data source form a group.
        infos_dict: variable name -> value of every response; text variables are left out, except that ``pred`` votes.
        seed: seed of the majority vote's resamples.

    Returns:
        data source -> variable -> metric -> mean over prompts, with the metrics ``mean@N``, ``std@N``,
        ``{best,worst,maj}@K/{mean,std}`` for K = 2, 4, ... and N.

    Example:
        >>> process_validation_metrics(["math"] * 2, ["1+1="] * 2, {"acc": [0.0, 1.0]})["math"]["acc"]["mean@2"]
        0.5
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(data_sources, sample_inputs, strict=True)):
        groups[key].append(row)
    collected: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    answers = infos_dict.get("pred")
    for (data_source, _), rows in groups.items():
        votes = [answers[row] for row in rows] if answers else None
        for name, values in infos_dict.items():
            if not values or isinstance(values[rows[0]], str) or values[rows[0]] is None:
                continue
            for metric, value in _prompt_metrics([values[row] for row in rows], votes, seed).items():
                collected[data_source][name][metric].append(value)
    return {
        source: {
            name: {metric: float(np.mean(values)) for metric, values in metrics.items()}
            for name, metrics in variables.items()
        }
        for source, variables in collected.items()
    }
