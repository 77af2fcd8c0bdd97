"""What a training left behind, read for the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from knapsack_rl.history import read_history
from knapsack_rl.identity import prompt_id
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.rollout_dump import DUMP_SCHEMA
from knapsack_rl.run_folder import ROLLOUTS_FOLDER
from knapsack_rl.step_parts import list_parts, read_part
from recipe.knapsack.tiny.tiny_task import compute_score


@dataclass(frozen=True)
class RecordedRun:
    """A run's metrics, history and rollouts.

    Attributes:
        metrics: of every step that was trained, by step.
        history: a row for each prompt and step.
        rows: a row for each rollout that was trained on: ``step``, ``input``, ``output``, ``gts``, ``score``, ``uid``
            (of the prompt), ``session`` and ``prompt_id``; padding left out.
        padding: how many rows of each step were padding.
    """

    metrics: dict[int, dict]
    history: pd.DataFrame
    rows: pd.DataFrame
    padding: dict[int, int]


def read_run(folder: Path) -> RecordedRun:
    metrics = {record["step"]: record for record in read_metrics(folder) if "training/global_step" in record}
    lines = [json.loads(line) for file in (folder / "dump").glob("*.jsonl") for line in file.read_text().splitlines()]
    rows = pd.DataFrame(lines).sort_values(["step", "uid"])
    rows[["uid", "session", "output_number"]] = rows["uid"].str.rsplit("_", n=2, expand=True)
    rows["session"] = rows["session"].astype(int)
    is_padding = rows["uid"].str.startswith("pad")
    padding = rows[is_padding].groupby("step").size().to_dict()
    rows = rows[~is_padding]
    rows["prompt_id"] = [
        prompt_id("knapsack_tiny_task", [{"role": "user", "content": content}]) for content in rows["input"]
    ]
    return RecordedRun(metrics, read_history(folder / "history").to_pandas(), rows, padding)


def check_rows(run: RecordedRun, task: Path) -> None:
    """Assert of every row that prompt, ground truth, uid, session and reward belong together."""
    data = pd.read_parquet(task / "train.parquet")
    truth = {row.prompt[0]["content"]: row.reward_model["ground_truth"] for row in data.itertuples()}
    for row in run.rows.itertuples():
        assert row.gts == truth[row.input], row
        assert row.score == compute_score("", row.output, row.gts)["score"], row
    groups = run.rows.groupby(["step", "uid"])
    assert (groups["input"].nunique() == 1).all()
    assert (groups["session"].nunique() == groups.size()).all()


def check_history_against_rows(run: RecordedRun) -> None:
    """Assert that what was recorded of each prompt that was trained on is what its rows say."""
    for (step, identity), rows in run.rows.groupby(["step", "prompt_id"]):
        recorded = run.history[(run.history["step"] == step) & (run.history["prompt_id"] == identity)]
        # A prompt that verl drew twice in a step has two groups there.
        assert recorded["budget"].sum() >= len(rows), (step, identity)
        if len(recorded) == 1:
            assert recorded["budget"].item() == len(rows)
            assert recorded["successes"].item() == int(rows["score"].sum())


def kept_rollouts_of(folder: Path) -> pd.DataFrame:
    parts = [read_part(part, DUMP_SCHEMA).to_pandas() for part in list_parts(folder / ROLLOUTS_FOLDER)]
    return pd.concat(parts, ignore_index=True)


def budgets_of(run: RecordedRun, step: int) -> dict[str, int]:
    of_step = run.history[run.history["step"] == step]
    return dict(zip(of_step["prompt_id"], of_step["budget"], strict=True))


def estimates_of(run: RecordedRun, step: int) -> dict[str, float]:
    of_step = run.history[run.history["step"] == step]
    return {key: -1.0 if np.isnan(rate) else rate for key, rate in zip(of_step["prompt_id"], of_step["estimate"])}
