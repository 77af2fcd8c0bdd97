"""One table of what an advantage estimator implies, held against simulated rollouts."""

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes
from knapsack_rl.advantage_estimators import (
    ADVANTAGE_ESTIMATORS,
    advantage_estimator,
    has_mixed_rewards,
    value_for_adv_estimator,
)

WITH_A_VALUE = [name for name, entry in ADVANTAGE_ESTIMATORS.items() if entry.value is not None]


def simulated_advantages(name, rewards, prompt_index, greedy_rewards):
    """(B, 1) advantages of rollouts of one token, by the definition of each estimator."""
    groups = [np.flatnonzero(prompt_index == prompt) for prompt in range(prompt_index.max() + 1)]
    advantages = np.zeros(len(rewards))
    for rows in groups:
        own = rewards[rows]
        if name == "rloo":
            advantages[rows] = (own - own.mean()) * len(own) / (len(own) - 1)
        elif name == "grpo_passk":
            best, second = np.sort(own)[::-1][:2]
            advantages[rows[np.argmax(own)]] = best - second
        elif name == "remax":
            advantages[rows] = own - greedy_rewards[rows]
        elif name in ("reinforce_plus_plus", "gae"):
            advantages[rows] = own - rewards.mean()
        else:
            advantages[rows] = own - own.mean()
    return advantages[:, None]


def explorer_of(name, allocator, estimator="previous_epoch"):
    value = "grpo" if ADVANTAGE_ESTIMATORS[name].value is None else None
    config = ExplorationConfig.from_mapping(
        {"allocator": allocator, "value": value, "success_rate": {"estimator": estimator}}
    )
    return Explorer(config, adv_estimator=name, rollouts_per_prompt=8)


def outcomes_of(explorer, name, plan, rates, greedy, rng):
    prompt_index = plan.order
    rewards = (rng.random(len(prompt_index)) < rates[prompt_index]).astype(float)
    advantages = simulated_advantages(name, rewards, prompt_index, greedy[prompt_index].astype(float))
    return Outcomes(
        prompt_index=prompt_index,
        scores=rewards,
        successes=rewards > 0,
        effective=explorer.adv_estimator.effective_rollouts(rewards, prompt_index, advantages),
        response_tokens=np.ones(len(rewards), dtype=int),
        greedy_successes=greedy[prompt_index] if name == "remax" else None,
    )


@pytest.mark.parametrize("allocator", ["knapsack", "homogeneous"])
@pytest.mark.parametrize("name", ADVANTAGE_ESTIMATORS)
def test_predicted_and_observed_effective_ratio_agree_in_expectation(name, allocator):
    """Rates that the status knows exactly: then only the rule of the estimator can make the forecast wrong."""
    rng = np.random.default_rng(0)
    rates = rng.choice([0.0, 0.125, 0.25, 0.5, 0.75, 1.0], 400)
    greedy = rng.random(400) < rates
    prompts = [f"prompt {number}" for number in range(400)]
    explorer = explorer_of(name, allocator)
    first = explorer.plan(prompts, epoch=0, step=1)
    exactly = np.concatenate([np.arange(8) < round(8 * rate) for rate in rates])
    rows = np.repeat(np.arange(400), 8)
    explorer.observe(
        first, Outcomes(rows, exactly * 1.0, exactly, exactly, np.ones(3200), greedy[rows] if name == "remax" else None)
    )
    plan = explorer.plan(prompts, epoch=1, step=2)
    errors = []
    for _ in range(20):
        outcomes = outcomes_of(explorer, name, plan, rates, greedy, rng)
        errors.append(explorer.metrics([(plan, outcomes)])["allocation/effective_gradient_ratio_error"])
    assert abs(np.mean(errors)) <= 4 * np.std(errors) / np.sqrt(len(errors)) < 0.02
    assert np.mean(plan.predicted_shares) > 0


def test_reinforce_plus_plus_has_a_gradient_in_every_rollout_whichever_allocator():
    for allocator in ("knapsack", "homogeneous"):
        explorer = explorer_of("reinforce_plus_plus", allocator)
        plan = explorer.plan(["a", "b"], epoch=0, step=1)
        quarter = np.tile(np.arange(8) < 2, 2)
        explorer.observe(plan, Outcomes(np.repeat([0, 1], 8), quarter * 1.0, quarter, quarter, np.ones(16)))
        assert explorer.plan(["a", "b"], epoch=1, step=2).predicted_shares.tolist() == [1.0, 1.0]


def test_unseen_prompts_have_no_forecast_under_any_estimator():
    for name in ADVANTAGE_ESTIMATORS:
        assert np.isnan(explorer_of(name, "knapsack").plan(["a"], epoch=0, step=1).predicted_shares).all()


def test_beliefs_are_averaged_over_in_the_forecast_of_seen_prompts_only():
    config = ExplorationConfig.from_mapping({"value": "expected", "success_rate": {"estimator": "beta"}})
    explorer = Explorer(config, rollouts_per_prompt=4)
    plan = explorer.plan(["a"], epoch=0, step=1)
    nothing = np.zeros(4, dtype=bool)
    explorer.observe(plan, Outcomes(np.zeros(4, dtype=int), nothing * 1.0, nothing, nothing, np.ones(4)))
    shares = explorer.plan(["a", "new"], epoch=1, step=2).predicted_shares
    assert 0 < shares[0] < 0.2 and np.isnan(shares[1])


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline"])
def test_a_group_with_equal_rewards_has_no_gradient(name):
    rewards, prompt_index = np.array([0.1, 1.0, 0.1, 0.0, 0.1]), np.array([0, 1, 0, 1, 0])
    effective = advantage_estimator(name).effective_rollouts(rewards, prompt_index)
    assert effective.tolist() == [False, True, False, True, False]


def test_of_a_group_for_pass_at_k_the_advantages_tell_which_rollouts_have_a_gradient():
    advantages = np.array([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    rewards, prompt_index = np.array([1.0, 0.0, 0.0]), np.zeros(3, dtype=int)
    effective = advantage_estimator("grpo_passk").effective_rollouts(rewards, prompt_index, advantages)
    assert effective.tolist() == [True, False, False]


def test_without_a_group_the_advantages_are_needed():
    estimator = advantage_estimator("reinforce_plus_plus")
    advantages = np.array([[0.0, 0.0], [0.0, -0.5]])
    assert estimator.effective_rollouts(np.ones(2), np.zeros(2, dtype=int), advantages).tolist() == [False, True]
    with pytest.raises(ValueError, match="reinforce_plus_plus needs the advantages"):
        estimator.effective_rollouts(np.ones(2), np.zeros(2, dtype=int))


def test_of_a_users_estimator_nothing_is_presumed():
    estimator = advantage_estimator("my_estimator")
    assert (estimator.value, estimator.compares_group) == (None, False)
    explorer = Explorer(ExplorationConfig(value="grpo"), adv_estimator="my_estimator")
    assert np.isnan(explorer.plan(["a"], epoch=0, step=1).predicted_shares).all()
    with pytest.raises(ValueError, match="'my_estimator' has no value function.*grpo, rloo"):
        Explorer(ExplorationConfig(), adv_estimator="my_estimator")


def test_mixed_rewards_are_told_by_prompt():
    assert (
        has_mixed_rewards(np.array([0.0, 0.0, 1.0, 2.0]), np.array([0, 0, 3, 3])).tolist() == [False] * 2 + [True] * 2
    )


@pytest.mark.parametrize("name", WITH_A_VALUE)
def test_every_implied_value_function_exists(name):
    assert value_for_adv_estimator(name) == ADVANTAGE_ESTIMATORS[name].value
    explorer_of(name, "knapsack")
