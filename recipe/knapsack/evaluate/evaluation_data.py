"""The prompts of an evaluation, and which responses to them are right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from omegaconf import DictConfig, ListConfig
from transformers import AutoTokenizer

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
        rows += pyarrow.parquet.read_table(path, columns=columns).to_pylist()
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
