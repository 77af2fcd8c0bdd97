"""The prompts of an evaluation, and which responses to them are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from omegaconf import DictConfig, ListConfig
from transformers import AutoTokenizer

from knapsack_rl.identity import prompt_id
from recipe.knapsack.evaluate.evaluation_config import EvaluationError


def read_prompts(config: DictConfig) -> list[dict[str, Any]]:
    """Return the rows of the evaluation files, in the order in which the trainer validates them.

    Raises:
        EvaluationError: a file does not exist or lacks a column.
    """
    files = config.data.val_files
    rows: list[dict[str, Any]] = []
    columns = [config.data.prompt_key, config.data.reward_fn_key]
    for path in files if isinstance(files, ListConfig) else [files]:
        path = Path(path).expanduser()
        if not path.is_file():
            raise EvaluationError(
                f"--data: {path} does not exist; examples/data_preprocess/math_evaluation.py makes it."
            )
        lacking = set(columns) - set(pyarrow.parquet.read_schema(path).names)
        if lacking:
            raise EvaluationError(f"--data: {path} has no column {', '.join(sorted(lacking))}: expected verl's schema.")
        with_source = {"data_source"} & set(pyarrow.parquet.read_schema(path).names) - set(columns)
        rows += pyarrow.parquet.read_table(path, columns=[*columns, *with_source]).to_pylist()
    return rows


def check_prompt_lengths(config: DictConfig, prompts: Sequence[dict[str, Any]], model: Path) -> None:
    """Refuse prompts that do not fit, which the trainer would drop, or fail on after the engine has started.

    Raises:
        EvaluationError: telling the longest, and the lengths that would do within the same sequence length.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=config.data.get("trust_remote_code", False))
    lengths = [
        len(tokenizer.apply_chat_template(row[config.data.prompt_key], add_generation_prompt=True)) for row in prompts
    ]
    limit, longest = config.data.max_prompt_length, max(lengths)
    if longest <= limit:
        return
    remaining = limit + config.data.max_response_length - longest
    raise EvaluationError(
        f"{sum(length > limit for length in lengths)} of {len(lengths)} prompts are longer than data.max_prompt_length="
        f"{limit} tokens. Append data.max_prompt_length={longest}, and data.max_response_length={remaining} if the "
        "sequence may not grow."
    )


def read_outcomes(file: Path, prompts: int, responses: int, success_threshold: float) -> np.ndarray:
    """Return whether each response is right, (prompts, responses) bool, from the trainer's dump of a validation.

    A response is right if its ``acc``, or else its ``score``, exceeds ``success_threshold``.

    Raises:
        EvaluationError: the dump does not hold ``responses`` responses to each prompt, in order.
    """
    with file.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    if len(entries) != prompts * responses:
        raise EvaluationError(f"{file} holds {len(entries)} responses, expected {prompts} prompts times {responses}.")
    inputs = np.array([entry["input"] for entry in entries], dtype=object).reshape(prompts, responses)
    if not (inputs == inputs[:, :1]).all():
        raise EvaluationError(f"{file} does not hold the responses to a prompt one after the other.")
    outcomes = np.array([entry.get("acc", entry["score"]) for entry in entries], dtype=float)
    return (outcomes > success_threshold).reshape(prompts, responses)


def write_success_rates(file: Path, prompts: Sequence[dict[str, Any]], prompt_key: str, is_right: np.ndarray) -> None:
    """Write each prompt's success rate as a prior of a training (``exploration.success_rate.prior``).

    Args:
        file: a parquet file with the columns prompt_id, data_source, success_rate and rollouts.
        prompts: P rows with their messages as text; rows with the same prompt are counted together.
        prompt_key: the column of the messages.
        is_right: (P, responses) bool.
    """
    sources = [str(row.get("data_source", "")) for row in prompts]
    ids = [prompt_id(source, row[prompt_key]) for source, row in zip(sources, prompts, strict=True)]
    distinct, first, of_row = np.unique(ids, return_index=True, return_inverse=True)
    rollouts = np.bincount(of_row) * is_right.shape[1]
    successes = np.bincount(of_row, weights=is_right.sum(axis=1))
    table = {
        "prompt_id": distinct.tolist(),
        "data_source": [sources[row] for row in first],
        "success_rate": successes / rollouts,
        "rollouts": rollouts,
    }
    pyarrow.parquet.write_table(pyarrow.table(table), file)
