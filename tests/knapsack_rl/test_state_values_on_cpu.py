"""Values that lean to hard prompts, always or by the state of training, and the state itself."""

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, TaskStatus, TrainingState, knapsack_allocate
from knapsack_rl.state_values import EASY_TO_HARD, HARD_LEANING
from knapsack_rl.status_records import empty_records
from knapsack_rl.training_state import training_state
from knapsack_rl.values import VALUE_FUNCTIONS

RATES = np.array([1e-4, 0.02, 0.1, 0.3, 0.5, 0.8, 0.97, 1 - 1e-4])


def at(mean):
    return EASY_TO_HARD.for_state(TrainingState(mean_success_rate=mean))


def test_at_the_start_it_is_the_papers_value():
    n = np.arange(2, 60)[:, None]
    np.testing.assert_allclose(at(0.0).value(n, RATES), VALUE_FUNCTIONS["grpo"].value(n, RATES), rtol=1e-12)
    paper = knapsack_allocate(RATES, 80).budgets
    assert knapsack_allocate(RATES, 80, value=at(0.0)).budgets.tolist() == paper.tolist()


def test_the_hard_leaning_value_is_the_papers_by_the_fourth_root_of_the_rate():
    n = np.arange(2, 60)[:, None]
    paper = VALUE_FUNCTIONS["grpo"].value(n, RATES)
    np.testing.assert_allclose(VALUE_FUNCTIONS["hard_leaning"].value(n, RATES), paper * RATES**-0.25, rtol=1e-12)


@pytest.mark.parametrize("value", [*map(at, [0.0, 0.3, 0.7, 1.0]), HARD_LEANING])
def test_its_gains_are_its_differences_and_never_increase(value):
    differences = np.diff([value.value(n, RATES) for n in range(2, 42)], axis=0).T
    table = value.gain_table((RATES,), 2, 41)
    np.testing.assert_allclose(table, differences, rtol=1e-6, atol=1e-14)
    assert (np.diff(table, axis=1) <= 0).all()


@pytest.mark.parametrize("value", [at(0.2), at(0.9), HARD_LEANING])
def test_the_greedy_solver_is_as_good_as_the_dynamic_programme(value):
    pytest.importorskip("numba")
    greedy, dynamic = (knapsack_allocate(RATES, 90, value=value, solver=solver) for solver in ("greedy", "dp"))
    assert greedy.total_value == pytest.approx(dynamic.total_value, rel=1e-12)


def test_weight_moves_to_hard_prompts_as_training_saturates():
    budgets = np.array([knapsack_allocate([0.05, 0.6], 60, value=at(mean)).budgets for mean in (0.0, 0.5, 1.0)])
    assert (np.diff(budgets[:, 0]) > 0).all()


def test_it_is_not_used_without_a_state():
    with pytest.raises(ValueError, match="value='easy_to_hard' depends on the state of training"):
        knapsack_allocate([0.1, 0.5], 20, value="easy_to_hard")


def test_the_state_is_what_was_observed():
    status = TaskStatus()
    assert status.training_state(epoch=0, step=1) == TrainingState(1, 0, 0.5, 0.0)
    status.observe(["a", "a", "b", "b", "c", "c"], [1, 0, 0, 0, 1, 1], epoch=0, step=1)
    assert status.training_state(epoch=0, step=2) == TrainingState(2, 0, 0.5, pytest.approx(1 / 3))
    # What a solved prompt forgets is part of the mean, but it stays a prompt that was solved once.
    status.observe(["c"] * 4, [0] * 4, epoch=1, step=2)
    assert status.training_state(epoch=1, step=3) == TrainingState(3, 1, pytest.approx(1 / 6), pytest.approx(1 / 3))


def test_a_prompt_stays_solved_once_even_if_counts_forget_everything():
    status = TaskStatus("beta", window=1, discount=0.0)
    for epoch, outcome in enumerate([1, 0, 0, 0]):
        status.observe(["a"], [outcome], epoch=epoch, step=epoch + 1)
    assert status.training_state(epoch=4, step=5).never_solved == 0.0


def test_no_records_are_the_beginning():
    assert training_state(empty_records(0, 4), step=3, epoch=1) == TrainingState(3, 1)


def test_the_configured_value_follows_the_state():
    ids, rng = [f"prompt {number}" for number in range(8)], np.random.default_rng(0)
    for mean, share in (("low", 0.1), ("high", 0.95)):
        explorer = Explorer(ExplorationConfig(value="easy_to_hard"))
        plan = explorer.plan(ids, epoch=0, step=1)
        rates = np.where(np.arange(8) < 6, share, np.array([0.125, 0.5] * 4))
        success = rng.random(len(plan.order)) < rates[plan.order]
        explorer.observe(plan, Outcomes(plan.order, success * 1.0, success, success, np.ones(len(plan.order))))
        state = explorer.task_status.training_state(epoch=1, step=2)
        planned = explorer.plan(ids, epoch=1, step=2)
        expected = knapsack_allocate(planned.success_rates, 64, value=EASY_TO_HARD.for_state(state)).budgets
        assert planned.budgets.tolist() == expected.tolist(), mean
