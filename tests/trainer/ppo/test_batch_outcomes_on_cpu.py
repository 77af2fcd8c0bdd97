"""What the trainer reads of a batch, with verl's own advantage functions behind it."""

import numpy as np
import pytest
import torch
from scored_batches import batch_of, with_advantages

from knapsack_rl import ExplorationConfig, Explorer, Outcomes
from knapsack_rl.advantage_estimators import ADVANTAGE_ESTIMATORS
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.outcomes import read_outcomes


def estimator_of(name):
    return ADVANTAGE_ESTIMATORS[name]


def test_the_table_has_every_estimator_of_verl():
    assert set(ADVANTAGE_ESTIMATORS) >= {getattr(name, "value", name) for name in ADV_ESTIMATOR_REGISTRY}


@pytest.mark.parametrize("allocator", ["knapsack", "homogeneous"])
@pytest.mark.parametrize("name", ADVANTAGE_ESTIMATORS)
def test_forecast_and_verls_advantages_agree_in_expectation(name, allocator):
    """With success rates that the status knows exactly, only the estimator's rule can make the forecast wrong."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.0, 0.125, 0.25, 0.5, 0.75, 1.0], 200)
    greedy = rng.random(200) < rates
    prompts = [f"prompt {number}" for number in range(200)]
    value = "grpo" if ADVANTAGE_ESTIMATORS[name].value is None else None
    explorer = Explorer(ExplorationConfig(allocator=allocator, value=value), adv_estimator=name)
    first = explorer.plan(prompts, epoch=0, step=1)
    rows = np.repeat(np.arange(200), 8)
    exactly = np.concatenate([np.arange(8) < round(8 * rate) for rate in rates])
    greedy_column = greedy[rows] if name == "remax" else None
    explorer.observe(first, Outcomes(rows, exactly * 1.0, exactly, exactly, np.ones(1600), greedy_column))
    plan = explorer.plan(prompts, epoch=1, step=2)
    errors = []
    for _ in range(8):
        rewards = (rng.random(len(plan.order)) < rates[plan.order]) * 1.0
        batch = batch_of(rewards, plan.order, greedy[plan.order] * 1.0 if name == "remax" else None)
        outcomes = read_outcomes(with_advantages(batch, name), estimator_of(name), success_threshold=0.0)
        errors.append(explorer.metrics([(plan, outcomes)])["allocation/effective_gradient_ratio_error"])
    assert abs(np.mean(errors)) <= 4 * np.std(errors) / np.sqrt(len(errors)) < 0.03


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg"])
def test_rollouts_with_a_gradient_are_those_with_an_advantage(name):
    rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    batch = with_advantages(batch_of(rewards, [0, 0, 1, 1, 2, 2, 3, 3]), name)
    effective = read_outcomes(batch, estimator_of(name), 0.0).effective
    assert effective.tolist() == (batch.batch["advantages"].abs() > 1e-4).any(-1).tolist()


def test_a_kl_penalty_in_the_reward_gives_a_group_of_failures_a_gradient():
    batch = batch_of([0.0, 0.0, 0.0, 0.0], [0, 0, 1, 1])
    batch.batch["token_level_rewards"] = batch.batch["token_level_rewards"] - 0.01 * torch.arange(16).reshape(4, 4)
    outcomes = read_outcomes(with_advantages(batch, "grpo"), estimator_of("grpo"), 0.0)
    assert outcomes.effective.all() and not outcomes.successes.any()


def test_a_shaped_score_gives_a_gradient_to_what_counts_as_failed():
    batch = batch_of([-0.5, -1.0], [0, 0])
    outcomes = read_outcomes(with_advantages(batch, "grpo"), estimator_of("grpo"), 0.0)
    assert outcomes.effective.all() and not outcomes.successes.any()


def test_acc_of_the_reward_function_decides_success_and_a_column_of_the_data_does_not():
    scores, acc = [1.0, 0.0], [0.0, 1.0]
    by_reward = read_outcomes(batch_of(scores, [0, 0], reward_columns=["acc"], acc=acc), estimator_of("grpo"), 0.0)
    assert by_reward.successes.tolist() == [False, True]
    of_the_data = read_outcomes(batch_of(scores, [0, 0], acc=acc), estimator_of("grpo"), 0.0)
    assert of_the_data.successes.tolist() == [True, False]


def test_before_there_are_advantages_scores_tell_which_rollouts_dapo_keeps():
    outcomes = read_outcomes(batch_of([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]), estimator_of("gae"), 0.0)
    assert outcomes.effective.tolist() == [True, True, False, False]
    assert outcomes.response_tokens.tolist() == [2, 3, 4, 2]
