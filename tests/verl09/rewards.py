"""Reward functions of the tests' trainings."""

from __future__ import annotations

import os
from typing import Any
from zlib import crc32

from recipe.knapsack.tiny import tiny_task


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """The tiny task's score; one response of ``ONE_FAILS_OF`` raises instead, the same ones in every process."""
    one_of = int(os.environ.get("ONE_FAILS_OF", "0"))
    if one_of and crc32(f"{ground_truth}|{solution_str}".encode()) % one_of == 0:
        raise RuntimeError("this response cannot be scored")
    return tiny_task.compute_score(data_source, solution_str, ground_truth, extra_info)
