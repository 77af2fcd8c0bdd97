"""How well similar prompts foretell the first visit of one, by the history of a run and the data it trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from knapsack_rl.identity import prompt_id
from knapsack_rl.similar_columns import check_similar_columns, labels_of_batch
from knapsack_rl.task_status import TaskStatus

__all__ = ["columns_of_data", "labels_of_data", "predict_first_visits", "regress_first_visits"]

_RIDGE = 1.0  # prompts: how many of a value it takes until half of what they differ by is believed


def labels_of_data(file: Path, similar_by: Sequence[str]) -> dict[str, str | None]:
    """The label of each prompt of training data (parquet in verl's schema), by prompt id.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column that is needed.
    """
    ids, data = _read(file, similar_by)
    return dict(zip(ids, _labels(similar_by, data), strict=True))


def columns_of_data(file: Path, similar_by: Sequence[str]) -> dict[str, tuple[str | None, ...]]:
    """The values of each column apart, by prompt id; errors as those of `labels_of_data`."""
    ids, data = _read(file, similar_by)
    by_column = [_labels([column], data) for column in similar_by]
    return dict(zip(ids, zip(*by_column, strict=True), strict=True))


def _read(file: Path, similar_by: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Ids of the prompts, and the columns of the data."""
    try:
        names = pyarrow.parquet.read_schema(file).names
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error
    missing = {"data_source", "prompt"} - set(names)
    if missing:
        raise ValueError(f"{file} has no column {', '.join(sorted(missing))}: expected data that verl trains on")
    check_similar_columns(similar_by, [file], "prompt")
    data = pyarrow.parquet.read_table(file).to_pydict()
    ids = [prompt_id(source, messages) for source, messages in zip(data["data_source"], data["prompt"], strict=True)]
    return ids, data


def _labels(similar_by: Sequence[str], data: dict[str, list[Any]]) -> Sequence[str | None]:
    labels = labels_of_batch(similar_by, data)
    assert labels is not None
    return labels


def regress_first_visits(history: pd.DataFrame, columns_of: Mapping[str, tuple[str | None, ...]]) -> np.ndarray:
    """Predict first visits by a ridge regression on the columns, fitted to the prompts of the steps before.

    Each value of each column adds its share to a mean, so that combinations never seen are predicted too. Prompts count
    alike, by their mean success rate so far.

    Returns:
        (V,) float64 in [0, 1], in the order of `predict_first_visits`.
    """
    values = sorted({(column, value) for row in columns_of.values() for column, value in enumerate(row) if value})
    place = {value: index for index, value in enumerate(values)}
    row_of = {identity: row for row, identity in enumerate(columns_of)}
    features = np.zeros((len(columns_of), len(place)))
    for row, columns in enumerate(columns_of.values()):
        features[row, [place[column, value] for column, value in enumerate(columns) if value]] = 1.0

    counts: dict[str, tuple[int, int]] = {}
    predicted = []
    for _, visits in history.groupby("step"):
        fresh = [identity for identity in visits["prompt_id"] if identity not in counts]
        if counts and fresh:
            known = features[[row_of[identity] for identity in counts]]
            rates = np.array([right / total for right, total in counts.values()])
            mean = rates.mean()
            normal = known.T @ known + _RIDGE * np.eye(len(place))
            weights = np.linalg.solve(normal, known.T @ (rates - mean))
            predicted.append(np.clip(mean + features[[row_of[identity] for identity in fresh]] @ weights, 0.0, 1.0))
        for visit in visits.itertuples():
            right, total = counts.get(visit.prompt_id, (0, 0))
            counts[visit.prompt_id] = right + visit.successes, total + visit.budget
    return np.concatenate(predicted)


def predict_first_visits(history: pd.DataFrame, label_of: Mapping[str, str | None]) -> pd.DataFrame:
    """Predict the first visit of each prompt from the steps before it.

    Args:
        history: a run's history: `epoch`, `step`, `prompt_id`, `budget`, `successes` of each visit.
        label_of: label of each prompt by its id.

    Returns:
        The first visits after the first step, with columns `similar` (the mean of similar prompts, of all where there
        is none) and `all` (the mean of all prompts).

    Raises:
        ValueError: the history has prompts without a label, or none that was first visited after the first step.
    """
    unknown = set(history["prompt_id"]) - set(label_of)
    if unknown:
        raise ValueError(f"{len(unknown)} prompts of the run are not in the data, the first of them {min(unknown)}")
    status, seen, predicted = TaskStatus("beta"), set[str](), []
    for step, visits in history.groupby("step"):
        first = visits[~visits["prompt_id"].isin(seen)]
        ids, epoch = first["prompt_id"].tolist(), int(visits["epoch"].max())
        status.add_similar(ids, [label_of[identity] for identity in ids])
        if seen and ids:
            alpha, beta = status.beliefs(["a prompt like no other"], epoch=epoch)
            of_all = float(alpha[0] / (alpha[0] + beta[0]))
            similar = status.success_rates(ids, epoch=epoch)
            predicted.append(first.assign(all=of_all, similar=np.where(np.isnan(similar), of_all, similar)))
        outcomes = np.concatenate(
            [np.arange(n) < k for n, k in zip(visits["budget"], visits["successes"], strict=True)]
        )
        rows = np.repeat(visits["prompt_id"].to_numpy(), visits["budget"].to_numpy()).tolist()
        status.observe(rows, outcomes, epoch=epoch, step=int(step))
        seen |= set(ids)
    if not predicted:
        raise ValueError("every prompt was first visited in the first step: there is nothing to predict")
    return pd.concat(predicted).reset_index(drop=True)
