"""What one training step explored: the prompts, their budgets, and the outcome of every rollout.

A step records one :class:`RolloutRecord` per batch that it generated; dynamic sampling generates several.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from verl.trainer.ppo.exploration_metrics import compute_exploration_metrics
from verl.trainer.ppo.exploration_utils import Allocation

# Estimators whose baseline is computed from the prompt's own group: equal rewards leave no gradient, others leave one
# in every rollout. (Not so grpo_passk, which gives an advantage to the best rollout alone.)
GROUP_ESTIMATORS = ("grpo", "rloo", "opo", "reinforce_plus_plus_baseline", "gpg")


def effective_rollouts(
    scores: np.ndarray, prompt_index: np.ndarray, adv_estimator: str, advantages: np.ndarray | None = None
) -> np.ndarray:
    """Tell which rollouts contribute a non-zero gradient (paper, equation 4).

    Args:
        scores: (B,) float, the outcome reward of each rollout.
        prompt_index: (B,) int, the prompt of each rollout.
        adv_estimator: verl's name of the advantage estimator.
        advantages: (B, response_length) float; for estimators without a group baseline.

    Returns:
        (B,) bool. For a group estimator, whether the rollout's group earned different scores. (Advantages would not
        tell: the mean of equal scores may differ from them by rounding.) For others, whether any of its tokens has an
        advantage; without ``advantages``, as for a group estimator.

    Example:
        >>> effective_rollouts(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]), "grpo")
        array([ True,  True, False, False])
    """
    if adv_estimator not in GROUP_ESTIMATORS and advantages is not None:
        return (advantages != 0).any(axis=-1)
    num_prompts = int(prompt_index.max()) + 1
    highest, lowest = np.full(num_prompts, -np.inf), np.full(num_prompts, np.inf)
    np.maximum.at(highest, prompt_index, scores)
    np.minimum.at(lowest, prompt_index, scores)
    return (highest > lowest)[prompt_index]


def choose_rows(effective: np.ndarray, group_of_row: np.ndarray, num_rows: int) -> np.ndarray:
    """Choose the rows to train on, effective ones first, by whole groups as far as ``num_rows`` allows.

    The last group chosen may be cut. It never keeps a single row, which would be its own baseline and have its reward
    for an advantage: it keeps two, and a larger group gives up one for it. (Without a larger group, for an odd
    ``num_rows``, it cannot be helped.)

    Args:
        effective: (B,) bool, the same for all rows of a group.
        group_of_row: (B,) int, the prompt of each row.
        num_rows: how many to choose, at most B.

    Returns:
        (num_rows,) int64 row numbers, ascending.

    Example:
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


@dataclass
class RolloutRecord:
    """One generated batch of M prompts and B rollouts; the outcome arrays are filled once the rewards are known.

    Attributes:
        epoch: the epoch that the prompts belong to.
        prompt_ids: M identities of the prompts.
        success_rates: (M,) float64, the estimates the allocation was made with; NaN for unseen.
        allocation: the budgets and what is known about them.
        prompt_index: (B,) int, the prompt of each rollout.
        scores: (B,) float, outcome rewards.
        successes: (B,) bool.
        effective: (B,) bool, whether the rollout has a non-zero gradient.
        response_tokens: (B,) int, response lengths.
        greedy_successes: (B,) bool, whether the greedy response of the rollout's prompt succeeded; None without one.
    """

    epoch: int
    prompt_ids: list[str]
    success_rates: np.ndarray
    allocation: Allocation
    prompt_index: np.ndarray | None = None
    scores: np.ndarray | None = None
    successes: np.ndarray | None = None
    effective: np.ndarray | None = None
    response_tokens: np.ndarray | None = None
    greedy_successes: np.ndarray | None = None

    def _sum_by_prompt(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.prompt_index, weights=values, minlength=len(self.prompt_ids)).astype(np.int64)

    @property
    def successes_by_prompt(self) -> np.ndarray:
        """(M,) int64, number of successful rollouts of each prompt."""
        return self._sum_by_prompt(self.successes)

    @property
    def response_tokens_by_prompt(self) -> np.ndarray:
        """(M,) int64, response tokens of each prompt's rollouts together."""
        return self._sum_by_prompt(self.response_tokens)


@dataclass
class Exploration:
    """All records of one training step."""

    records: list[RolloutRecord] = field(default_factory=list)

    def add(self, record: RolloutRecord) -> None:
        """Append the record of a further generated batch."""
        self.records.append(record)

    def _concatenated(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(record, name) for record in self.records])

    @property
    def scores(self) -> np.ndarray:
        """Outcome rewards of all rollouts of the step, float."""
        return self._concatenated("scores")

    @property
    def budgets(self) -> np.ndarray:
        """Budgets of all prompts of the step, int64."""
        return np.concatenate([record.allocation.budgets for record in self.records])

    @property
    def success_rates(self) -> np.ndarray:
        """Estimates for all prompts of the step, float64; NaN for unseen."""
        return self._concatenated("success_rates")

    @property
    def num_effective(self) -> int:
        """Number of rollouts with a non-zero gradient."""
        return int(self._concatenated("effective").sum())

    def rows_to_train(self, num_rows: int) -> np.ndarray:
        """Return which ``num_rows`` rollouts of the step, counted through its batches, to train on; ascending."""
        return choose_rows(self._concatenated("effective"), self._prompt_index(), num_rows)

    def _prompt_index(self) -> np.ndarray:
        offsets = np.cumsum([0] + [len(record.prompt_ids) for record in self.records[:-1]])
        return np.concatenate(
            [record.prompt_index + offset for record, offset in zip(self.records, offsets, strict=True)]
        )

    def _predicted_effective_ratio(self) -> float:
        """The allocations' expected effective-gradient ratio, weighted by the rollouts that it speaks of."""
        seen = [record.allocation.budgets[~np.isnan(record.success_rates)].sum() for record in self.records]
        expected = [record.allocation.expected_effective_ratio for record in self.records]
        return float(np.dot(seen, np.nan_to_num(expected)) / np.sum(seen)) if np.sum(seen) else float("nan")

    def metrics(self, *, n_low: int, n_up: int, fallback_confidence: float) -> dict[str, float]:
        """Return the step's exploration metrics; see ``exploration_metrics.METRICS`` for each."""
        return compute_exploration_metrics(
            prompt_index=self._prompt_index(),
            successes=self._concatenated("successes"),
            scores=self.scores,
            effective=self._concatenated("effective"),
            success_rates=self.success_rates,
            budgets=self.budgets,
            n_low=n_low,
            n_up=n_up,
            fallback_rollouts=sum(record.allocation.placed["fallback"] for record in self.records),
            fallback_confidence=fallback_confidence,
            predicted_effective_ratio=self._predicted_effective_ratio(),
        )
