"""A limit on expected tokens: the value is the best there is, whatever gives way is told, every limit is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, knapsack_allocate, resolve_value_function
from knapsack_rl.metrics import METRICS
from knapsack_rl.metrics.tokens import token_metrics, total_token_metrics
from knapsack_rl.solvers import token_limited
from knapsack_rl.token_limit import TokenLimit, cheapest_budgets, limit_of_step

N_LOW, N_UP = 2, 12


def value_table(value, parameters):
    return np.stack([value.value(n, *parameters) for n in range(N_LOW, N_UP + 1)], axis=1)


def best_value(table, lengths, total_budget, max_tokens):
    """The largest value within both budgets, by a mixed-integer programme that assumes nothing about the value."""
    prompts, choices = table.shape
    rollouts = np.tile(np.arange(N_LOW, N_UP + 1), prompts)
    one_choice = np.kron(np.eye(prompts), np.ones(choices))
    constraints = [
        LinearConstraint(one_choice, 1, 1),
        LinearConstraint(rollouts[None], total_budget, total_budget),
        LinearConstraint((rollouts * np.repeat(lengths, choices))[None], -np.inf, max_tokens),
    ]
    solution = milp(-table.ravel(), constraints=constraints, bounds=Bounds(0, 1), integrality=np.ones(table.size))
    assert solution.status == 0
    return -solution.fun


def instance(seed, prompts=8):
    rng = np.random.default_rng(seed)
    rates = rng.beta(0.6, 0.9, prompts).clip(1e-3, 1 - 1e-3)
    lengths = 20 + 400 * (1 - rates) * rng.random(prompts) + rng.integers(0, 50, prompts)
    return rates, lengths


@pytest.mark.parametrize("value", ["grpo", "reinforce", "expected"])
@pytest.mark.parametrize("seed", range(6))
def test_the_value_is_that_of_an_integer_programme_up_to_one_rollout(seed, value):
    rates, lengths = instance(seed)
    function, budget = resolve_value_function(value), 40
    parameters = (1 + 8 * rates, 1 + 8 * (1 - rates)) if value == "expected" else (rates,)
    beliefs = parameters if value == "expected" else None
    table = value_table(function, parameters)
    free = knapsack_allocate(rates, budget, N_LOW, N_UP, value=value, beliefs=beliefs).budgets @ lengths
    least = cheapest_budgets(lengths, budget, N_LOW, N_UP) @ lengths
    for share in (0.1, 0.5, 0.9, 1.0, 1.1):
        limit = least + share * (free - least)
        allocation = knapsack_allocate(
            rates, budget, N_LOW, N_UP, value=value, beliefs=beliefs, token_limit=TokenLimit(lengths, limit)
        )
        budgets = allocation.budgets
        assert budgets.sum() == budget and budgets.min() >= N_LOW and budgets.max() <= N_UP
        assert budgets @ lengths <= limit * (1 + 1e-8)
        best = best_value(table, lengths, budget, limit * (1 + 1e-9))
        assert best >= allocation.total_value - 1e-9
        # One exchange: a rollout is taken from one prompt and given to another.
        gains = np.diff(table, axis=1)
        assert best - allocation.total_value <= gains.max() - gains.min()
        assert best - allocation.total_value <= 0.05 * best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.booleans())
def test_no_allocation_within_the_limit_is_better_by_more_than_the_multiplier_says(seed, share, with_equal):
    rates, lengths = instance(seed, prompts=12)
    if with_equal:
        rates, lengths = np.repeat(rates[:3], 4), np.repeat(lengths[:3], 4)
    budget = 60
    free = knapsack_allocate(rates, budget, N_LOW, N_UP)
    least = cheapest_budgets(lengths, budget, N_LOW, N_UP) @ lengths
    limit = least + share * max(free.budgets @ lengths - least, 0.0)
    allocation = knapsack_allocate(rates, budget, N_LOW, N_UP, token_limit=TokenLimit(lengths, limit))
    table = value_table(resolve_value_function("grpo"), (rates,))
    # For every multiplier, the best rollouts net of their tokens, plus what the limit is worth, bound the value.
    multipliers = np.concatenate([[0.0], np.geomspace(1e-9, 1e3, 4000)])
    tokens = np.arange(N_LOW, N_UP + 1)[:, None] * lengths[:, None, None]
    worth = table[:, :, None] - multipliers * tokens
    best_first = np.sort(np.diff(worth, axis=1).reshape(-1, len(multipliers)), axis=0)[::-1]
    best_sum = best_first[: budget - len(rates) * N_LOW].sum(axis=0)
    bound = (worth[:, 0].sum(axis=0) + best_sum + multipliers * limit * (1 + 1e-9)).min()
    gains = np.diff(table, axis=1)
    assert allocation.total_value <= bound + 1e-9
    assert bound - allocation.total_value <= gains.max() - gains.min() + 1e-9
    assert allocation.budgets.sum() == budget and allocation.budgets @ lengths <= limit * (1 + 1e-8)
    if with_equal:
        for equal in allocation.budgets.reshape(3, 4):
            assert equal.max() - equal.min() <= 1


def test_a_limit_that_does_not_bind_changes_nothing():
    rates = np.array([0.0, 0.9, 1.0, 0.3, np.nan, 0.5])
    free = knapsack_allocate(rates, 60)
    limited = knapsack_allocate(rates, 60, token_limit=TokenLimit(np.full(6, 10.0), 600.0))
    assert limited.budgets.tolist() == free.budgets.tolist() and limited.placed == free.placed


def test_the_fallback_gives_way_first():
    rates, lengths = np.array([0.0, 0.0, 0.5, 0.8]), np.array([100.0, 100.0, 10.0, 10.0])
    free = knapsack_allocate(rates, 120)
    assert free.placed["fallback"] > 0
    limit = TokenLimit(lengths, 0.6 * float(free.budgets @ lengths))
    limited = knapsack_allocate(rates, 120, token_limit=limit)
    assert 0 < limited.budgets[:2].sum() < free.budgets[:2].sum() and (limited.budgets[2:] > free.budgets[2:]).any()
    assert limited.budgets @ lengths <= limit.max_tokens
    assert limited.budgets @ lengths + 90.0 > limit.max_tokens  # as much of the fallback as there is room for
    assert sum(limited.placed.values()) == 120 and limited.placed["remainder"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_every_limit_that_can_be_met_is_met_whatever_the_classes(seed):
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0, np.nan], 20)
    lengths = rng.integers(5, 500, 20) * 1.0
    n_up = int(rng.integers(8, 40))
    least = cheapest_budgets(lengths, 120, 2, n_up) @ lengths
    for factor in (1.0, 1.01, 1.2, 2.0, 10.0):
        allocation = knapsack_allocate(rates, 120, 2, n_up, token_limit=TokenLimit(lengths, factor * least))
        budgets = allocation.budgets
        assert budgets.sum() == 120 and budgets.min() >= 2 and budgets.max() <= n_up
        assert budgets @ lengths <= factor * least * (1 + 1e-8)
        assert sum(allocation.placed.values()) == 120 and min(allocation.placed.values()) >= 0


def test_a_limit_that_cannot_be_met_names_the_least_possible():
    with pytest.raises(ValueError, match=r"at most 50 expected tokens cannot be met .* the least possible is 120$"):
        knapsack_allocate([0.5, 0.5], 8, 2, 6, token_limit=TokenLimit(np.array([10.0, 30.0]), 50.0))


def test_the_least_possible_is_that_of_an_integer_programme():
    for seed in range(5):
        _, lengths = instance(seed)
        cheapest = cheapest_budgets(lengths, 40, N_LOW, N_UP)
        by_programme = milp(
            lengths, constraints=LinearConstraint(np.ones((1, 8)), 40, 40), bounds=Bounds(N_LOW, N_UP), integrality=1
        )
        assert cheapest.sum() == 40 and cheapest @ lengths == pytest.approx(by_programme.fun)


def test_a_value_that_is_not_concave_is_refused():
    with pytest.raises(ValueError, match="a token limit needs a value that is concave in N"):
        knapsack_allocate(
            [0.5, 0.4], 20, value=lambda n, p: p * n**2, token_limit=TokenLimit(np.array([9.0, 1.0]), 60.0)
        )


def test_a_large_problem_has_the_value_of_the_whole_table(monkeypatch):
    rng = np.random.default_rng(0)
    rates, lengths = rng.beta(0.5, 0.5, 6000).clip(1e-3, 1 - 1e-3), rng.uniform(50, 900, 6000)
    free = knapsack_allocate(rates, 48_000)
    for factor in (0.97, 0.8):
        limit = TokenLimit(lengths, factor * float(free.budgets @ lengths))
        near_sample = knapsack_allocate(rates, 48_000, token_limit=limit)
        with monkeypatch.context() as patch:
            patch.setattr(token_limited, "_TABLE_ENTRIES", 1 << 30)
            whole_table = knapsack_allocate(rates, 48_000, token_limit=limit)
        assert near_sample.total_value == pytest.approx(whole_table.total_value, rel=1e-7)
        assert near_sample.budgets @ lengths <= limit.max_tokens * (1 + 1e-8)


# --- the limit of a step ----------------------------------------------------------------------------------------------


def test_the_limit_of_a_step_is_a_number_a_multiple_or_the_least_possible():
    lengths = np.array([10.0, 30.0])
    assert limit_of_step(None, lengths, 8, 2, 6) is None
    assert limit_of_step("1.0x", np.array([10.0, np.nan]), 8, 2, 6) is None
    assert limit_of_step("1.0x", lengths, 8, 2, 6).max_tokens == 160.0
    assert limit_of_step(150, lengths, 8, 2, 6).max_tokens == 150.0
    assert limit_of_step(7, lengths, 8, 2, 6).max_tokens == 120.0


def train(explorer, steps, first=1):
    rng = np.random.default_rng(first)
    rates, tokens = np.array([0.02, 0.1, 0.5, 0.9] * 4), np.array([400, 200, 50, 20] * 4)
    plans = []
    for step in range(first, first + steps):
        plan = explorer.plan([f"prompt {number}" for number in range(16)], epoch=step - 1, step=step)
        success = rng.random(len(plan.order)) < rates[plan.order]
        outcomes = Outcomes(plan.order, success * 1.0, success, success, tokens[plan.order])
        explorer.observe(plan, outcomes)
        plans.append((plan, outcomes))
    return plans


@pytest.mark.parametrize("limit", ["1.0x", "0.9x", 20_000])
def test_the_configured_limit_holds_at_every_step_and_after_a_restore(limit):
    config = ExplorationConfig.from_mapping({"max_expected_tokens": limit, "success_rate": {"estimator": "beta"}})
    explorer, free = Explorer(config), Explorer(ExplorationConfig.from_mapping({"success_rate": {"estimator": "beta"}}))
    first, *others = train(explorer, 4)
    assert first[0].max_tokens is None  # no length was known
    for plan, outcomes in others:
        metrics = explorer.metrics([(plan, outcomes)])
        assert metrics["allocation/planned_tokens"] <= plan.max_tokens * (1 + 1e-8)
        assert metrics["allocation/token_limit"] == plan.max_tokens
        assert metrics["allocation/planned_tokens"] == pytest.approx(metrics["allocation/generated_tokens"])
        assert metrics.keys() <= METRICS.keys()
    plan, outcomes = train(free, 4)[-1]
    assert free.metrics([(plan, outcomes)])["allocation/planned_tokens"] > others[-1][0].max_tokens
    resumed = Explorer(config)
    resumed.load_state_dict(explorer.state_dict())
    for (ours, _), (theirs, _) in zip(train(explorer, 2, first=5), train(resumed, 2, first=5), strict=True):
        assert ours.budgets.tobytes() == theirs.budgets.tobytes()


def test_an_unseen_prompt_is_as_long_as_the_mean_of_all():
    explorer = Explorer(ExplorationConfig())
    train(explorer, 1)
    lengths = explorer.task_status.expected_response_lengths(["prompt 0", "new"])
    assert lengths.tolist() == [400.0, pytest.approx(np.mean([400, 200, 50, 20]))]


def test_token_metrics_are_summed_over_the_batches_of_a_step():
    one = token_metrics(np.array([2, 4]), np.array([5.0, 10.0]), np.full(6, 9), 60.0)
    assert total_token_metrics([one, one])["allocation/planned_tokens"] == 100.0
    assert total_token_metrics([one, {}]) == {}


@pytest.mark.parametrize("max_tokens", [float("nan"), -1.0, "9", True, None])
def test_a_limit_that_is_no_number_is_refused(max_tokens):
    with pytest.raises(ValueError, match="max_tokens must be a number of at least 0"):
        TokenLimit(np.array([1.0, 2.0]), max_tokens)


def test_lengths_are_one_number_for_each_prompt():
    for lengths in ([1.0, -2.0], [1.0, float("nan")], ["a", "b"], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="lengths must be numbers of at least 0, one per prompt"):
            TokenLimit(lengths, 9.0)
    with pytest.raises(ValueError, match="the token limit has 3 lengths; expected one for each of 2"):
        knapsack_allocate([0.5, 0.25], 8, 2, 6, token_limit=TokenLimit([1, 2, 3], 99))
