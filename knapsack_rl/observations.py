"""The columns of what is observed of rollouts, checked: one entry per rollout, each of the right kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["as_lengths", "as_list", "as_outcomes"]


def as_list(prompt_ids: Iterable[str]) -> list[str]:
    return prompt_ids.tolist() if isinstance(prompt_ids, np.ndarray) else list(prompt_ids)


def _as_column(values: Any, length: int, name: str) -> Array:
    column = np.asarray(values)
    if column.shape != (length,):
        raise ValueError(f"{name} must hold one value for each of the {length} rollouts, got shape {column.shape}")
    return column


def as_outcomes(values: Any, length: int, name: str) -> Array:
    """(length,) int8 of 0 and 1."""
    column = _as_column(values, length, name)
    is_outcome = (column == 0) | (column == 1)
    if not np.all(is_outcome):
        position = int(np.argmin(is_outcome))
        raise ValueError(f"{name} must be True or False (1 or 0), got {column[position]!r} for rollout {position}")
    return column.astype(np.int8)


def as_lengths(values: Any, length: int) -> Array:
    column = _as_column(values, length, "response_lengths").astype(np.float64)
    is_length = np.isfinite(column) & (column >= 0)
    if not np.all(is_length):
        position = int(np.argmin(is_length))
        raise ValueError(f"response_lengths must be token counts, got {column[position]} for rollout {position}")
    return column
