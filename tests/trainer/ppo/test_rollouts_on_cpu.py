"""Which rollouts have a gradient, and how the records of a step add up."""

import numpy as np
import pytest

from verl.trainer.ppo.exploration_utils import knapsack_allocate
from verl.trainer.ppo.rollouts import Exploration, RolloutRecord, effective_rollouts


def make_record(success_rates, prompt_index, successes, total_budget):
    successes = np.array(successes, dtype=bool)
    prompt_index = np.array(prompt_index)
    return RolloutRecord(
        epoch=1,
        prompt_ids=[f"prompt {number}" for number in range(len(success_rates))],
        success_rates=np.array(success_rates),
        allocation=knapsack_allocate(success_rates, total_budget, 2, 8),
        prompt_index=prompt_index,
        scores=successes.astype(float),
        successes=successes,
        effective=effective_rollouts(successes.astype(float), prompt_index, "grpo"),
        response_tokens=np.arange(1, len(successes) + 1),
    )


@pytest.mark.parametrize("adv_estimator", ["grpo", "rloo", "opo", "gpg"])
def test_a_group_with_equal_scores_has_no_gradient(adv_estimator):
    scores = np.array([0.1, 1.0, 0.1, 0.0, 0.1])
    prompt_index = np.array([0, 1, 0, 1, 0])
    assert effective_rollouts(scores, prompt_index, adv_estimator).tolist() == [False, True, False, True, False]


def test_without_a_group_baseline_the_advantages_tell():
    advantages = np.array([[0.0, 0.0], [0.0, -0.5]])
    effective = effective_rollouts(np.ones(2), np.zeros(2, dtype=int), "reinforce_plus_plus", advantages)
    assert effective.tolist() == [False, True]


def test_sums_by_prompt():
    record = make_record([0.5, 0.5], [1, 0, 1, 0], [True, False, True, True], total_budget=4)
    assert record.successes_by_prompt.tolist() == [1, 2]
    assert record.response_tokens_by_prompt.tolist() == [6, 4]


def test_records_of_several_generations_are_one_exploration():
    first = make_record([0.5, 0.5], [0, 0, 1, 1], [True, False, True, True], total_budget=4)
    second = make_record([0.5, 0.0], [1, 1, 0, 0], [False, False, True, False], total_budget=4)
    exploration = Exploration()
    exploration.add(first)
    exploration.add(second)
    metrics = exploration.metrics(n_low=2, n_up=8, fallback_confidence=0.9)
    assert metrics["training/effective_gradient_ratio"] == 0.5
    assert metrics["training/effective_prompt_ratio"] == 0.5
    assert metrics["prompt/all_negative_ratio"] == 0.25
    assert metrics["training/prompt_mean_score"] == pytest.approx((0.5 + 1.0 + 0.5 + 0.0) / 4)
