"""The columns of what is observed of rollouts, checked: one entry per rollout, each of the right kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["as_lengths", "as_list", "as_outcomes", "as_rates", "check_not_before"]


def as_list(prompt_ids: Iterable[str]) -> list[str]:
    """Prompt ids as a list.

    Raises:
        TypeError: one of them is no string, or one that could not be saved.
    """
    listed = prompt_ids.tolist() if isinstance(prompt_ids, np.ndarray) else list(prompt_ids)
    foreign = {type(identity).__name__ for identity in listed if not isinstance(identity, str)}
    if foreign:
        raise TypeError(f"prompt ids must be strings as prompt_id makes them, got {', '.join(sorted(foreign))}")
    ends_in_nul = next((identity for identity in listed if identity.endswith("\0")), None)
    if ends_in_nul is not None:
        raise TypeError(f"prompt ids must not end in a NUL character, which saving would cut off: got {ends_in_nul!r}")
    return listed


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


def as_rates(values: Any, length: int, name: str) -> Array:
    """(length,) float64 in [0, 1]."""
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (length,):
        raise ValueError(f"{name} must hold one value for each of the {length} prompts, got shape {column.shape}")
    is_rate = (column >= 0.0) & (column <= 1.0)
    if not np.all(is_rate):
        position = int(np.argmin(is_rate))
        raise ValueError(f"{name} must be success rates between 0 and 1, got {column[position]} at {position}")
    return column


def check_not_before(value: int, latest: int, name: str) -> None:
    """Refuse an epoch or a step that lies before what was observed."""
    if value < max(latest, 0):
        expected = "it is counted from 0" if value < 0 else f"{name} {latest} was already observed"
        raise ValueError(f"{name} {value} is not valid: {expected}. Was the status restored with its checkpoint?")
