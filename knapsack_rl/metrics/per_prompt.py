"""Sums over the rollouts of each prompt, with the checks that all metrics share.

B is the number of rollouts of a step, M the number of its prompts; ``prompt_index`` (B,) says whose a rollout is.
"""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["check_same_shape", "rollouts_per_prompt", "sum_per_prompt"]


def rollouts_per_prompt(prompt_index: Array, num_prompts: int) -> Array:
    prompt_index = np.asarray(prompt_index)
    if prompt_index.ndim != 1 or len(prompt_index) == 0:
        raise ValueError(f"prompt_index must hold the prompt of at least one rollout, got shape {prompt_index.shape}")
    if prompt_index.min() < 0 or prompt_index.max() >= num_prompts:
        raise ValueError(
            f"prompt_index must lie in [0, {num_prompts}), got {prompt_index.min()} to {prompt_index.max()}"
        )
    return np.bincount(prompt_index, minlength=num_prompts)


def sum_per_prompt(prompt_index: Array, values: Array, num_prompts: int, name: str) -> Array:
    values = np.asarray(values, dtype=np.float64)
    check_same_shape("prompt_index", np.asarray(prompt_index), name, values)
    return np.bincount(prompt_index, weights=values, minlength=num_prompts)


def check_same_shape(name: str, array: Array, other_name: str, other: Array) -> None:
    if array.shape != other.shape:
        raise ValueError(f"{name} and {other_name} must have the same shape, got {array.shape} and {other.shape}")
