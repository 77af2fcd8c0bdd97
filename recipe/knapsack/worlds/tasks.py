"""The tasks that methods are compared on: how a world of each is made, and how its responses are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from recipe.knapsack.tiny.tiny_task import compute_score, max_response_length
from recipe.knapsack.tiny.warm_start import WarmStartSettings, make_warm_start
from recipe.knapsack.worlds.gym_task import GYM_RESPONSE_LENGTH, make_gym_warm_start, score_of_gym

__all__ = ["TASKS", "ComputeScore", "Task"]

ComputeScore = Callable[[str, str, str, dict[str, Any]], Mapping[str, Any]]

MOST_COPIES = 3
"""Of an answer, in the task whose lengths differ: its longest responses are about three times its shortest."""


@dataclass(frozen=True)
class Task:
    """What `recipe.knapsack.worlds.plain_training` trains on.

    Attributes:
        folder: below ``runs``, where the comparison is kept.
        prepare: writes ``train.parquet``, ``test.parquet`` (verl's schema) and ``model`` (weights, and a tokenizer
            whose token 0 ends a sequence and pads) to a folder, for a seed; what is there already stays.
        compute_score: verl's reward function.
        response_length: tokens after which a response is cut.
        steps: of GRPO, whose rollouts all methods get.
        final_worlds: seeds for the table, on which nothing was chosen.
        methods: of the table, beside GRPO.
        learning_rates: of methods, where they are not those of the tiny task (`recipe.knapsack.worlds.methods`).
    """

    folder: str
    prepare: Callable[[Path, int], object]
    compute_score: ComputeScore
    response_length: int
    steps: int
    final_worlds: range
    methods: tuple[str, ...]
    learning_rates: Mapping[str, float] = field(default_factory=dict)


def _prepare(folder: Path, seed: int, most_copies: int = 1) -> object:
    return make_warm_start(folder, WarmStartSettings(seed=seed, most_copies=most_copies), show_progress=False)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "tiny": Task(
            folder="worlds",
            prepare=_prepare,
            compute_score=compute_score,
            response_length=max_response_length() + 1,
            steps=240,
            final_worlds=range(20, 32),
            methods=("paper", "recommended", "dynamic"),
        ),
        "lengths": Task(
            folder="worlds_lengths",
            prepare=partial(_prepare, most_copies=MOST_COPIES),
            compute_score=compute_score,
            response_length=max_response_length(MOST_COPIES) + 1,
            steps=120,
            final_worlds=range(20, 26),
            methods=("recommended", "token_limit"),
        ),
        "reasoning_gym": Task(
            folder="worlds_reasoning_gym",
            prepare=make_gym_warm_start,
            compute_score=score_of_gym,
            response_length=GYM_RESPONSE_LENGTH,
            steps=60,
            final_worlds=range(20, 26),
            methods=("paper", "recommended"),
            learning_rates=dict.fromkeys(("grpo", "paper", "recommended"), 2e-4),
        ),
    }
)
