"""The exploration section: defaults, refusals that name key, value and what is accepted, the budget schedule."""

import dataclasses

import pytest

from knapsack_rl.config import BudgetSchedule, ConfigError, ExplorationConfig


def test_defaults_are_the_papers():
    config = ExplorationConfig()
    assert (config.allocator, config.n_low, config.n_up, config.fallback) == ("knapsack", 2, 128, True)
    assert config.fallback_confidence == 0.9
    assert config.success_rate.estimator == "previous_epoch"


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExplorationConfig().n_low = 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_upp": 64}, ["exploration.n_upp", "exploration.n_up?"]),
        ({"allocator": "greedy"}, ["exploration.allocator='greedy'", "knapsack, homogeneous"]),
        ({"n_low": 0}, ["exploration.n_low=0", "at least 1"]),
        ({"n_low": True}, ["exploration.n_low=True", "integer"]),
        ({"n_low": 9, "n_up": 8}, ["exploration.n_low=9", "exploration.n_up=8"]),
        ({"n_up": 2.5}, ["exploration.n_up=2.5", "integer"]),
        ({"fallback": "yes"}, ["exploration.fallback='yes'", "true or false"]),
        ({"fallback_confidence": 1.0}, ["exploration.fallback_confidence=1.0", "(0, 1)"]),
        ({"fallback_confidence": float("nan")}, ["exploration.fallback_confidence=nan"]),
        ({"dispatch": "even"}, ["exploration.dispatch='even'", "random, packed"]),
        ({"solver": "milp"}, ["exploration.solver='milp'", "auto, greedy, dp"]),
        ({"value": 3}, ["exploration.value=3"]),
        ({"seed": -1}, ["exploration.seed=-1"]),
        ({"rollout_is_cap": 0.5}, ["exploration.rollout_is_cap=0.5", "at least 1"]),
        ({"total_budget": "all"}, ["exploration.total_budget='all'"]),
        ({"total_budget": [[1, 64], [1, 32]]}, ["exploration.total_budget", "increase"]),
        ({"total_budget": [[5, 64]]}, ["exploration.total_budget", "from 1"]),
        ({"success_rate": {"estimator": "mean"}}, ["exploration.success_rate.estimator='mean'", "previous_epoch"]),
        ({"success_rate": {"windw": 3}}, ["exploration.success_rate.windw", "exploration.success_rate.window?"]),
        ({"success_rate": {"discount": -0.1}}, ["exploration.success_rate.discount=-0.1", "[0, 1]"]),
        ({"success_rate": "beta"}, ["exploration.success_rate='beta'"]),
        ({"dynamic_sampling": {"max_generations": 0}}, ["exploration.dynamic_sampling.max_generations=0"]),
    ],
)
def test_a_bad_value_is_refused_naming_key_value_and_what_is_accepted(values, said):
    with pytest.raises(ConfigError) as refusal:
        ExplorationConfig.from_mapping(values)
    for part in said:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_total_budget_the_homogeneous_one_is_spent():
    schedule = ExplorationConfig().budget_schedule(train_batch_size=256, rollouts_per_prompt=8)
    assert schedule.at(1) == schedule.at(10_000) == 2048


def test_budget_schedule_is_a_step_function():
    schedule = ExplorationConfig(total_budget=[[0, 2048], [100, 1024], [200, 4096]]).budget_schedule(256, 8)
    assert [schedule.at(step) for step in (1, 99, 100, 199, 200, 900)] == [2048, 2048, 1024, 1024, 4096, 4096]
    assert schedule.budgets == (2048, 1024, 4096)
    assert BudgetSchedule.parse(512, default=1).at(7) == 512
