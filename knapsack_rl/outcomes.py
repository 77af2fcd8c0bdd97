"""What came of the rollouts of a plan, and which of them to train on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["Outcomes", "choose_rows"]


@dataclass(frozen=True, eq=False)  # equality of arrays is not a truth value
class Outcomes:
    """The B rollouts of one plan, once their rewards and advantages are known.

    Rows are in the order in which the trainer holds them. They may be fewer than planned: what came is what counts.

    Attributes:
        prompt_index: (B,) int, the plan's prompt of each rollout.
        scores: (B,) float, outcome rewards.
        successes: (B,) bool, whether the rollout succeeded.
        effective: (B,) bool, whether the rollout has a non-zero policy gradient.
        response_tokens: (B,) int, response lengths in tokens.
        greedy_successes: (B,) bool, whether the greedy response of the rollout's prompt succeeded; None without one.

    Raises:
        ValueError: the arrays differ in length, there are no rollouts, or a prompt index is negative.

    >>> outcomes = Outcomes(np.array([0, 0, 1]), np.array([1.0, 0.0, 1.0]), np.array([True, False, True]),
    ...                     np.array([True, True, False]), np.array([5, 7, 6]))
    >>> outcomes.successes_by_prompt(2).tolist(), outcomes.response_tokens_by_prompt(2).tolist()
    ([1, 1], [12, 6])
    """

    prompt_index: Array
    scores: Array
    successes: Array
    effective: Array
    response_tokens: Array
    greedy_successes: Array | None = None

    def __post_init__(self) -> None:
        num_rollouts = len(self.prompt_index)
        columns = ("scores", "successes", "effective", "response_tokens", "greedy_successes")
        for name in columns:
            column = getattr(self, name)
            if column is not None and np.shape(column) != (num_rollouts,):
                raise ValueError(f"{name} must have one entry per rollout ({num_rollouts}), got {np.shape(column)}")
        if num_rollouts == 0 or np.min(self.prompt_index) < 0:
            raise ValueError(f"expected at least one rollout, of prompts numbered from 0; got {self.prompt_index}")

    def rollouts_by_prompt(self, num_prompts: int) -> Array:
        """(M,) int64, number of rollouts of each prompt."""
        return np.bincount(self.prompt_index, minlength=num_prompts)

    def successes_by_prompt(self, num_prompts: int) -> Array:
        """(M,) int64, number of successful rollouts of each prompt."""
        return self._sum_by_prompt(self.successes, num_prompts)

    def response_tokens_by_prompt(self, num_prompts: int) -> Array:
        """(M,) int64, response tokens of each prompt's rollouts together."""
        return self._sum_by_prompt(self.response_tokens, num_prompts)

    def _sum_by_prompt(self, values: Array, num_prompts: int) -> Array:
        return np.bincount(self.prompt_index, weights=values, minlength=num_prompts).astype(np.int64)


def choose_rows(effective: Array, group_of_row: Array, num_rows: int) -> Array:
    """Choose the rows to train on, effective ones first, by whole groups as far as ``num_rows`` allows.

    The last group chosen may be cut. It never keeps a single row, which would have nothing to be compared with: it
    keeps two, and a larger group gives up one for it. (Without a larger group, for an odd ``num_rows``, it cannot be
    helped.)

    Args:
        effective: (B,) bool, the same for all rows of a group.
        group_of_row: (B,) int, the prompt of each row.
        num_rows: how many to choose, at most B.

    Returns:
        (num_rows,) int64 row numbers, ascending.

    >>> group_of_row = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    >>> choose_rows(np.array([0, 1, 1] * 3, dtype=bool), group_of_row, 4).tolist()
    [1, 2, 4, 5]
    """
    order = np.lexsort((group_of_row, ~effective))
    group = group_of_row[order]
    keeps_one_row = 1 < num_rows < len(order) and group[num_rows - 2] != group[num_rows - 1] == group[num_rows]
    if keeps_one_row:
        larger = np.flatnonzero(np.bincount(group_of_row)[group[: num_rows - 1]] > 2)
        order = np.delete(order, larger[-1:])
    return np.sort(order[:num_rows])
