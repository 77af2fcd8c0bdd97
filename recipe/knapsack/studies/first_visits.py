"""How well similar prompts foretell the first visit of one, by the history of a run and the data it trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

from knapsack_rl.identity import prompt_id
from knapsack_rl.similar_columns import check_similar_columns, labels_of_batch
from knapsack_rl.task_status import TaskStatus

__all__ = ["labels_of_data", "predict_first_visits"]


def labels_of_data(file: Path, similar_by: Sequence[str]) -> dict[str, str | None]:
    """The label of each prompt of training data (parquet in verl's schema), by prompt id.

    Raises:
        OSError: the file cannot be read.
        ValueError: it lacks a column that is needed.
    """
    try:
        names = pyarrow.parquet.read_schema(file).names
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error
    missing = {"data_source", "prompt"} - set(names)
    if missing:
        raise ValueError(f"{file} has no column {', '.join(sorted(missing))}: expected data that verl trains on")
    check_similar_columns(similar_by, [file], "prompt")
    data = pyarrow.parquet.read_table(file).to_pydict()
    labels = labels_of_batch(similar_by, data)
    assert labels is not None
    ids = [prompt_id(source, messages) for source, messages in zip(data["data_source"], data["prompt"], strict=True)]
    return dict(zip(ids, labels, strict=True))


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
