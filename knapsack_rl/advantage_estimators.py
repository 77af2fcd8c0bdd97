"""What each of verl's advantage estimators implies for exploration: one table.

Which value function its budgets are worth, whether it compares the rollouts of a group, and which rollouts have a
gradient (paper, appendix B).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.gradient_rules import (
    DIFFERS_FROM_GREEDY,
    EVERY_ROLLOUT,
    MIXED_GROUP,
    SINGLE_SUCCESS,
    UNKNOWN,
    GradientRule,
)
from knapsack_rl.values import VALUE_FUNCTIONS

__all__ = ["ADVANTAGE_ESTIMATORS", "AdvantageEstimator", "advantage_estimator", "value_for_adv_estimator"]


@dataclass(frozen=True)
class AdvantageEstimator:
    """What an advantage estimator implies.

    Attributes:
        name: verl's name.
        value: name of the value function that it implies; None if it has none.
        compares_group: whether the advantage compares the rollouts of a prompt, so that a group of one has none.
        gradient_rule: which rollouts have a gradient.
    """

    name: str
    value: str | None
    compares_group: bool
    gradient_rule: GradientRule

    def effective_rollouts(self, rewards: Array, prompt_index: Array, advantages: Array | None = None) -> Array:
        """Tell which rollouts have a non-zero gradient (paper, equation 4).

        Args:
            rewards: (B,) float, what the estimator compares: the sum of a rollout's token-level rewards, after a KL
                penalty if one is taken off.
            prompt_index: (B,) int, the prompt of each rollout.
            advantages: (B, response_length) float; needed where the estimator has no group to compare.

        Returns:
            (B,) bool. Under `MIXED_GROUP`, whether the rollout's group earned different rewards. (Advantages would not
            tell: the mean of equal rewards may differ from them by rounding, and whitening over the batch shifts all.)
            Under other rules, whether any of the rollout's tokens has an advantage.

        Raises:
            ValueError: advantages are needed and were not given.

        >>> grpo = advantage_estimator("grpo")
        >>> grpo.effective_rollouts(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
        array([ True,  True, False, False])
        """
        if self.gradient_rule is MIXED_GROUP:
            return has_mixed_rewards(rewards, prompt_index)
        if advantages is None:
            raise ValueError(f"{self.name} needs the advantages to tell which rollouts have a gradient; got None")
        return (advantages != 0).any(axis=-1)  # type: ignore[no-any-return]


def has_mixed_rewards(rewards: Array, prompt_index: Array) -> Array:
    """(B,) bool: whether the prompt of each rollout earned different rewards; arguments as `effective_rollouts`.

    >>> has_mixed_rewards(np.array([0.0, 0.0, 1.0]), np.array([0, 1, 1]))
    array([False,  True,  True])
    """
    num_prompts = int(prompt_index.max(initial=-1)) + 1
    highest, lowest = np.full(num_prompts, -np.inf), np.full(num_prompts, np.inf)
    np.maximum.at(highest, prompt_index, rewards)
    np.minimum.at(lowest, prompt_index, rewards)
    return (highest > lowest)[prompt_index]


ADVANTAGE_ESTIMATORS: Mapping[str, AdvantageEstimator] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            AdvantageEstimator("grpo", "grpo", True, MIXED_GROUP),
            AdvantageEstimator("rloo", "rloo", True, MIXED_GROUP),
            # Both subtract a baseline that equals the reward when all rewards of a group are the same.
            AdvantageEstimator("opo", "grpo", True, MIXED_GROUP),
            AdvantageEstimator("gpg", "grpo", True, MIXED_GROUP),
            # The group mean, then whitening over the batch. The common shift is no signal about the prompt.
            AdvantageEstimator("reinforce_plus_plus_baseline", "grpo", True, MIXED_GROUP),
            # Returns whitened over the batch: what a rollout is compared with is all others, not its group.
            AdvantageEstimator("reinforce_plus_plus", "reinforce", False, EVERY_ROLLOUT),
            AdvantageEstimator("remax", "remax", False, DIFFERS_FROM_GREEDY),
            # Best minus second best: non-zero when exactly one rollout of a group succeeds, and only for that one.
            AdvantageEstimator("grpo_passk", None, True, SINGLE_SUCCESS),
            # The critic gives every rollout a gradient.
            AdvantageEstimator("gae", None, False, EVERY_ROLLOUT),
        )
    }
)
"""verl's advantage estimators by name."""


def advantage_estimator(name: str) -> AdvantageEstimator:
    """What is known of an estimator, named by a string or a member of an enumeration.

    Of an estimator that a user registered with verl, nothing is known in advance: it implies no value function, has no
    forecast, and its gradients are read from its advantages.

    >>> advantage_estimator("remax").compares_group
    False
    """
    plain = _plain_name(name)
    return ADVANTAGE_ESTIMATORS.get(plain, AdvantageEstimator(plain, None, False, UNKNOWN))


def _plain_name(name: str) -> str:
    return str(getattr(name, "value", name))


def value_for_adv_estimator(name: str) -> str:
    """Name of the value function that an advantage estimator implies (paper, appendix B).

    Raises:
        ValueError: the estimator has no value function; the message lists those that have one.

    >>> value_for_adv_estimator("gpg")
    'grpo'
    """
    entry = advantage_estimator(name)
    if entry.value is None:
        with_value = [known.name for known in ADVANTAGE_ESTIMATORS.values() if known.value is not None]
        raise ValueError(
            f"advantage estimator {entry.name!r} has no value function; those that have one: {', '.join(with_value)}. "
            f"Choose one of them, or set exploration.value to one of {', '.join(VALUE_FUNCTIONS)} or to "
            "'package.module:function'"
        )
    return entry.value
