"""Validation metrics per data source: upstream's names, without its bootstrap loops, and by rows of the data.

Upstream takes equal prompts for one, which then has more responses than others: its mean alone becomes the headline
figure, ``val-core``. Here a prompt is a row of the data.

Upstream estimates best@k and worst@k from 1,000 resamples of every prompt in Python, which takes minutes for a
benchmark suite. The expectation and the spread of a resampled extreme have a closed form; only the majority vote is
sampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from numbers import Real
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
    data_sources: Sequence[str],
    sample_inputs: Sequence[str],
    infos_dict: Mapping[str, Sequence[Any]],
    seed: int = 42,
    responses_per_prompt: int | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Aggregate the scores of all responses: over the responses of a prompt, then over the prompts of a data source.

    A prompt is a row of the validation data. One that is there several times counts each time, so that every prompt of
    a data source has the same number of responses, and the metrics' names do not depend on the others.

    Args:
        data_sources: data source of every response.
        sample_inputs: prompt of every response; the responses of a prompt follow each other.
        infos_dict: variable name -> value of every response; a variable that is no number for each response of a data
            source is left out, except that ``pred`` votes.
        seed: seed of the majority vote's resamples.
        responses_per_prompt: how many responses follow each other for each row of the data. None infers it for each
            data source, as the largest number that divides all runs of equal prompts.

    Returns:
        data source -> variable -> metric -> mean over prompts, with the metrics ``mean@N``, ``std@N``,
        ``{best,worst,maj}@K/{mean,std}`` for K = 2, 4, ... and N.

    Raises:
        ValueError: the responses are not ``responses_per_prompt`` for each prompt.

    Example:
        >>> process_validation_metrics(["math"] * 2, ["1+1="] * 2, {"acc": [0.0, 1.0]})["math"]["acc"]["mean@2"]
        0.5
        >>> process_validation_metrics(["math"] * 3, ["1+1=", "2+2=", "1+1="], {"acc": [0.0, 1.0, 1.0]})["math"]["acc"]
        {'mean@1': 0.6666666666666666}
    """
    prompts_of_source: dict[str, list[range]] = defaultdict(list)
    for source, rows in _rows_of_prompts(data_sources, sample_inputs, responses_per_prompt):
        prompts_of_source[source].append(rows)
    answers = infos_dict.get("pred")
    collected: dict[str, dict[str, dict[str, float]]] = {}
    for source, prompts in prompts_of_source.items():
        collected[source] = {}
        for name, values in infos_dict.items():
            if not len(values) or not all(_is_number(values[row]) for rows in prompts for row in rows):
                continue
            metrics = [
                _prompt_metrics(
                    [values[row] for row in rows], [answers[row] for row in rows] if answers else None, seed
                )
                for rows in prompts
            ]
            collected[source][name] = {
                metric: float(np.mean([each[metric] for each in metrics])) for metric in metrics[0]
            }
    return collected


def _take(values: Sequence[Any], rows: range) -> list[Any]:
    return [values[row] for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.bool_)


def _rows_of_prompts(
    data_sources: Sequence[str], sample_inputs: Sequence[str], responses_per_prompt: int | None
) -> Iterator[tuple[str, range]]:
    """Yield the data source and the rows of every prompt."""
    runs: list[tuple[str, range]] = []
    for row, key in enumerate(zip(data_sources, sample_inputs, strict=True)):
        continues = row > 0 and key == (data_sources[row - 1], sample_inputs[row - 1])
        start = runs.pop()[1].start if continues else row
        runs.append((key[0], range(start, row + 1)))
    common: dict[str, int] = defaultdict(int)
    for source, rows in runs:
        common[source] = gcd(common[source], len(rows))
    for source, rows in runs:
        size = responses_per_prompt or common[source]
        if len(rows) % size:
            raise ValueError(
                f"{len(rows)} responses to the prompt {sample_inputs[rows.start]!r} follow each other; expected a "
                f"multiple of the {size} responses per prompt."
            )
        for start in range(rows.start, rows.stop, size):
            yield source, range(start, start + size)
