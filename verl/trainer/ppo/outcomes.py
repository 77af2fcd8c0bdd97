"""What came of the rollouts of a batch, read from its rewards and advantages."""

from __future__ import annotations

import numpy as np

from knapsack_rl.advantage_estimators import AdvantageEstimator, has_mixed_rewards
from knapsack_rl.outcomes import Outcomes
from verl import DataProto

__all__ = ["read_outcomes", "verdicts"]


def read_outcomes(batch: DataProto, adv_estimator: AdvantageEstimator, success_threshold: float) -> Outcomes:
    """Read the outcome of every rollout of a batch that has its rewards.

    A rollout is a success when the reward function's ``acc`` exceeds the threshold, or else its score. Before there
    are advantages, a rollout counts as effective where its prompt's scores differ, as DAPO filters.

    Args:
        batch: B rows with ``prompt_index``, ``token_level_scores`` and ``response_mask``.
        adv_estimator: tells which rollouts have a gradient.
        success_threshold: ``exploration.success_threshold``.
    """
    scores = batch.batch["token_level_scores"].sum(-1).numpy()
    greedy = batch.batch["reward_baselines"].numpy() if "reward_baselines" in batch.batch else None
    return Outcomes(
        prompt_index=batch.non_tensor_batch["prompt_index"],
        scores=scores,
        successes=verdicts(batch, scores) > success_threshold,
        effective=_effective(batch, adv_estimator, scores),
        response_tokens=batch.batch["response_mask"].sum(-1).numpy(),
        greedy_successes=None if greedy is None else greedy > success_threshold,
    )


def verdicts(batch: DataProto, scores: np.ndarray) -> np.ndarray:
    """(B,) float, what decides whether a rollout is a success: the reward function's ``acc``, or else its score."""
    # A column of the data that is called acc is not the reward function's verdict.
    if "acc" not in batch.meta_info.get("reward_columns", ()):
        return scores
    return np.asarray(batch.non_tensor_batch["acc"], dtype=float)


def _effective(batch: DataProto, adv_estimator: AdvantageEstimator, scores: np.ndarray) -> np.ndarray:
    prompt_index = batch.non_tensor_batch["prompt_index"]
    if "advantages" not in batch.batch:
        return has_mixed_rewards(scores, prompt_index)
    rewards = batch.batch["token_level_rewards"].sum(-1).numpy()
    return adv_estimator.effective_rollouts(rewards, prompt_index, batch.batch["advantages"].numpy())
