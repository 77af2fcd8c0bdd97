"""What a run of the trainer on the copying task left behind, and whether its rollouts belong to their prompts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import MetricsFile, read_metrics

M, TOTAL_BUDGET = 16, 64


def steps_of(run: Path) -> int:
    """Training steps that the run has logged."""
    records = read_metrics(run) if (run / "metrics.jsonl").exists() else []
    return sum("training/global_step" in record for record in records)


def history_of(run: Path) -> pd.DataFrame:
    return read_history(run / "history").to_pandas().reset_index(drop=True)


def dumped_rollouts(folder: Path, steps: int) -> pd.DataFrame:
    """The rollouts of the first ``steps`` steps."""
    files = [folder / f"{step}.jsonl" for step in range(1, steps + 1)]
    return pd.concat([pd.read_json(file, lines=True, dtype=False) for file in files])


def assert_identities_agree(rollouts: pd.DataFrame, history: pd.DataFrame, prompts: pd.DataFrame) -> None:
    """Each dumped rollout has the id of the prompt that it answers, and as many do as the history says."""
    contents = {prompt[0]["content"] for prompt in prompts["prompt"]}
    assert set(rollouts["input"]) == contents
    assert (rollouts.groupby("prompt_id")["input"].nunique() == 1).all()
    assert rollouts["prompt_id"].nunique() == len(contents)
    by_prompt = rollouts.assign(is_success=rollouts["score"] > 0).groupby(["step", "prompt_id"])
    dumped = by_prompt["is_success"].agg(budget="size", successes="sum")
    recorded = history.set_index(["step", "prompt_id"])[["budget", "successes"]]
    pd.testing.assert_frame_equal(dumped, recorded.sort_index(), check_dtype=False)


def go_back_to(run: Path, step: int) -> None:
    """Take from a killed run what it did after ``step``; it may have saved once more before it was killed."""
    assert (run / f"global_step_{step}").exists()
    for checkpoint in run.glob("global_step_*"):
        if int(checkpoint.name.removeprefix("global_step_")) > step:
            shutil.rmtree(checkpoint)
    (run / "latest_checkpointed_iteration.txt").write_text(str(step))
    MetricsFile(run).truncate_after(step)
