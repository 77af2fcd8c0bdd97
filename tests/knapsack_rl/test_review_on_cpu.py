"""A floor by age: who is reviewed, what it costs, and that the rest is still the best there is."""

from itertools import product

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, TaskStatus, grpo_value, knapsack_allocate
from knapsack_rl.allocation_rules import PLACING_RULES
from knapsack_rl.config import ConfigError
from knapsack_rl.estimates import Estimates
from knapsack_rl.gradient_rules import MIXED_GROUP
from knapsack_rl.review import review_floors, with_floors


def floors_of(ages, **options):
    defaults = {"after_steps": 10, "rollouts": 6, "max_share": 1.0, "total_budget": 60, "n_low": 2}
    return review_floors(np.array(ages, dtype=float), **{**defaults, **options}).tolist()


def test_those_are_reviewed_that_told_nothing_for_long_and_were_seen():
    assert floors_of([9, 10, 50, np.nan]) == [2, 6, 6, 2]


@pytest.mark.parametrize(
    ("max_share", "expected"), [(1.0, [6, 6, 6]), (0.15, [2, 6, 6]), (0.1, [2, 6, 2]), (0.05, [2, 2, 2])]
)
def test_a_share_of_the_budget_bounds_reviews_and_the_oldest_come_first(max_share, expected):
    assert floors_of([11, 99, 50], max_share=max_share) == expected


def test_there_is_no_review_without_room():
    assert floors_of([99, 99], total_budget=4) == [2, 2]
    assert floors_of([99, 99], total_budget=8) == [6, 2]


def allocated(rates, floors, total_budget, n_up):
    known = Estimates(np.asarray(rates))
    return with_floors(
        lambda chosen, budget: knapsack_allocate(known.take(chosen).success_rates, budget, 2, n_up),
        np.array(floors),
        known,
        MIXED_GROUP,
        total_budget,
        2,
        n_up,
    )


@pytest.mark.parametrize("seed", range(8))
def test_the_value_is_the_best_of_all_budgets_at_or_above_the_floors(seed):
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.05, 0.95, 4)
    floors = np.where(rng.random(4) < 0.5, 5, 2)
    allocation = allocated(rates, floors, 24, 12)
    choices = (np.array(budgets) for budgets in product(*(range(floor, 13) for floor in floors)))
    best = max(grpo_value(budgets, rates).sum() for budgets in choices if budgets.sum() == 24)
    assert (allocation.budgets >= floors).all() and allocation.budgets.sum() == 24
    assert grpo_value(allocation.budgets, rates).sum() == pytest.approx(best, rel=1e-12)
    assert sum(allocation.placed.values()) == 24 and min(allocation.placed.values()) >= 0


def test_floors_that_all_have_change_nothing():
    rates = [0.0, 0.9, 1.0, 0.3, np.nan]
    free, same = knapsack_allocate(rates, 60), allocated(rates, [2] * 5, 60, 128)
    assert same.budgets.tolist() == free.budgets.tolist()
    assert {**free.placed, "review": 0} == same.placed
    assert free.rules.tolist() == same.rules.tolist()


def test_a_prompt_at_its_floor_was_placed_by_its_review():
    rules = allocated([1.0, 0.05, 1.0, np.nan, 0.0], [6, 6, 2, 2, 2], 80, 128).rules
    assert [PLACING_RULES[rule] for rule in rules] == ["review", "knapsack", "minimum", "unseen", "fallback"]


def test_a_review_is_a_visit_with_mixed_outcomes_or_with_enough_rollouts():
    status = TaskStatus()
    for step, (outcomes, since) in enumerate(
        [([1, 1], 0), ([1, 1], 1), ([1, 0], 0), ([1, 1], 1), ([1] * 6, 0)], start=1
    ):
        status.observe(["a"] * len(outcomes), outcomes, epoch=step - 1, step=step, enough_rollouts=6)
        assert status.steps_since_review(["a", "new"], step=step).tolist() == [
            since,
            pytest.approx(np.nan, nan_ok=True),
        ]


@pytest.mark.parametrize("limit", [None, "1.0x"])
def test_a_solved_prompt_is_reviewed_in_training_and_after_a_restore(limit):
    options = {"review": {"after_steps": 3, "rollouts": 6, "max_share": 0.5}, "max_expected_tokens": limit}
    config = ExplorationConfig.from_mapping(options)
    ids, rates = ["a", "b", "c", "d"], np.array([1.0, 1.0, 0.5, 0.4])
    explorer, rng, budgets = Explorer(config), np.random.default_rng(0), []
    for step in range(1, 9):
        if step == 5:
            resumed = Explorer(config)
            resumed.load_state_dict(explorer.state_dict())
            expected = explorer.plan(ids, epoch=step - 1, step=step).budgets
            explorer = resumed
            assert explorer.plan(ids, epoch=step - 1, step=step).budgets.tobytes() == expected.tobytes()
        plan = explorer.plan(ids, epoch=step - 1, step=step)
        assert plan.budgets.sum() == 32 == len(plan.order)
        success = rng.random(32) < rates[plan.order]
        explorer.observe(plan, Outcomes(plan.order, success * 1.0, success, success, np.full(32, 7)))
        budgets.append(plan.budgets[0])
    assert budgets == [8, 2, 2, 6, 2, 2, 6, 2]


def test_a_review_outside_the_bounds_is_refused():
    for rollouts in (2, 200):
        with pytest.raises(ConfigError, match=f"exploration.review.rollouts={rollouts} is not accepted"):
            ExplorationConfig.from_mapping({"review": {"after_steps": 9, "rollouts": rollouts}})
    with pytest.raises(ConfigError, match="exploration.review.after_steps=0"):
        ExplorationConfig.from_mapping({"review": {"after_steps": 0}})
    with pytest.raises(ConfigError, match="exploration.review.after_step is not a known key"):
        ExplorationConfig.from_mapping({"review": {"after_step": 9}})


def test_a_review_costs_the_others_what_it_takes_and_unseen_prompts_keep_their_share():
    prompts = ["s0", "s1", "s2", "s3", "m0", "m1", "u0", "u1"]

    def budgets(**review):
        explorer = Explorer(ExplorationConfig.from_mapping({"n_up": 32, "review": review}), rollouts_per_prompt=8)
        seen, successes = np.repeat(prompts[:6], 4).tolist(), [1] * 16 + [1, 0, 1, 0] * 2
        explorer.task_status.observe(seen, successes, epoch=0, step=1)
        return explorer.plan(prompts, epoch=1, step=50).budgets.tolist()

    assert budgets() == [2, 2, 2, 2, 20, 20, 8, 8]
    assert budgets(after_steps=10, rollouts=3) == [3, 3, 3, 3, 18, 18, 8, 8]


def test_unseen_prompts_give_way_where_their_share_does_not_fit():
    assert knapsack_allocate([np.nan, np.nan, 0.5], 12, 2, 8, unseen_share=8).budgets.tolist() == [5, 5, 2]
    assert knapsack_allocate([np.nan, np.nan, 0.5], 12, 2, 8, unseen_share=3).budgets.tolist() == [3, 3, 6]
    with pytest.raises(ValueError, match="unseen_share must lie between n_low=2 and n_up=8, got 9"):
        knapsack_allocate([np.nan, 0.5], 12, 2, 8, unseen_share=9)
