"""Which rollouts have a gradient, and how the records of a step add up."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl.trainer.ppo import rollouts
from verl.trainer.ppo.exploration_utils import knapsack_allocate
from verl.trainer.ppo.rollouts import Exploration, RolloutRecord, choose_rows, effective_rollouts


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


def test_doctests():
    assert doctest.testmod(rollouts).failed == 0


@given(
    groups=st.lists(st.tuples(st.integers(2, 9), st.booleans()), min_size=1, max_size=12),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_rows_are_chosen_by_whole_groups_effective_ones_first(groups, share, seed):
    sizes, is_effective = np.array([size for size, _ in groups]), np.array([effective for _, effective in groups])
    group_of_row = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(groups)), sizes))
    num_rows = max(1, int(share * len(group_of_row)))
    chosen = choose_rows(is_effective[group_of_row], group_of_row, num_rows)
    assert len(chosen) == num_rows and (np.diff(chosen) > 0).all()

    kept = np.bincount(group_of_row[chosen], minlength=len(groups))
    cut = (kept > 0) & (kept < sizes)
    assert cut.sum() <= 2
    effective_rows = sizes[is_effective].sum()
    assert kept[is_effective].sum() >= min(num_rows, effective_rows) - 1
    # A row alone is left only where there is no way: an odd number of rows of which no group holds more than two.
    assert not (kept == 1).any() or num_rows == 1 or (num_rows % 2 == 1 and (kept <= 2).all())


def test_every_row_is_chosen_where_all_are_asked_for():
    assert choose_rows(np.array([True, False, True]), np.array([1, 0, 1]), 3).tolist() == [0, 1, 2]


def test_of_a_group_for_pass_at_k_the_advantages_tell_which_rollouts_have_a_gradient():
    advantages = np.array([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    effective = effective_rollouts(np.array([1.0, 0.0, 0.0]), np.zeros(3, dtype=int), "grpo_passk", advantages)
    assert effective.tolist() == [True, False, False]


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
