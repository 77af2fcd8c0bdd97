"""Allocation: properties over random instances, and optimality against solvers that assume nothing."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from knapsack_rl import (
    expected_value,
    grpo_value,
    homogeneous_allocate,
    knapsack_allocate,
    reinforce_value,
    remax_value,
)
from knapsack_rl.allocation_rules import PLACING_RULES

NAN = float("nan")
# In a bare environment the versions of NumPy are in question, not the properties.
EXAMPLES = 30 if os.environ.get("KNAPSACK_RL_BARE") else 150
deterministic = settings(
    derandomize=True,
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
few = settings(deterministic, max_examples=2 * EXAMPLES // 5)


@st.composite
def instances(draw, max_prompts=10, unseen=True, budget_for=1):
    """(success rates, total budget, n_low, n_up): ties, extremes, unseen prompts, budgets from tight to loose."""
    eighths = st.integers(0, 8).map(lambda successes: successes / 8)
    rate = st.one_of(eighths, st.sampled_from([0.0, 1.0]), st.floats(1e-6, 1 - 1e-6))
    rate = st.one_of(rate, st.just(NAN)) if unseen else rate
    rates = np.array(draw(st.lists(rate, min_size=1, max_size=max_prompts)))
    n_low = draw(st.integers(2, 4))
    n_up = draw(st.integers(n_low, n_low + 14))
    smallest, largest = len(rates) * n_low, len(rates) * n_up
    total_budget = draw(st.one_of(st.sampled_from([smallest, largest]), st.integers(smallest, largest)))
    return rates, total_budget, n_low, n_up


def value_of(name, rates):
    """(options, table function) of a value function that is the same for equal success rates."""
    if name == "remax":
        matches = np.where(rates > 0.5, rates, 1.0 - rates)
        return {"greedy_match_rates": matches}, lambda n, i: remax_value(n, rates[i], matches[i])
    if name == "expected":
        alpha, beta = 8 * np.nan_to_num(rates) + 0.5, 8 * (1 - np.nan_to_num(rates)) + 0.5
        return {"beliefs": (alpha, beta)}, lambda n, i: expected_value(n, alpha[i], beta[i])
    function = reinforce_value if name == "reinforce" else grpo_value
    return {}, lambda n, i: function(n, rates[i])


VALUES = st.sampled_from(["grpo", "rloo", "reinforce", "remax", "expected"])


def milp_total_value(table, amount):
    """Largest sum of one entry per row whose column numbers add up to `amount`, by mixed-integer programming."""
    num_rows, num_columns = table.shape
    one_each = np.kron(np.eye(num_rows), np.ones(num_columns))
    columns = np.tile(np.arange(num_columns), num_rows)
    scale = max(np.abs(table).max(), 1e-12)
    solution = milp(
        -table.ravel() / scale,
        integrality=np.ones(table.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(columns[None, :], amount, amount)],
        options={"mip_rel_gap": 0.0},
    )
    assert solution.success, solution.message
    chosen = np.round(solution.x).astype(int).reshape(table.shape)
    assert (chosen @ np.arange(num_columns)).sum() == amount
    return float((chosen * table).sum())


# --- Rules that hold for every instance -------------------------------------------------------------------------------


@deterministic
@given(instances(), VALUES, st.booleans(), st.floats(0.05, 0.999))
def test_sum_bounds_and_account_are_exact(instance, value, fallback, confidence):
    rates, total_budget, n_low, n_up = instance
    options, _ = value_of(value, rates)
    allocation = knapsack_allocate(
        rates, total_budget, n_low, n_up, value=value, fallback=fallback, fallback_confidence=confidence, **options
    )
    assert allocation.budgets.sum() == total_budget
    assert allocation.budgets.min() >= n_low and allocation.budgets.max() <= n_up
    assert sum(allocation.placed.values()) == total_budget
    assert min(allocation.placed.values()) >= 0
    ratio = allocation.expected_effective_ratio
    assert np.isnan(ratio) or 0.0 <= ratio <= 1.0 + 1e-12


@deterministic
@given(instances(), VALUES, st.booleans())
def test_the_rule_of_each_prompt_fits_its_estimate_its_budget_and_the_account(instance, value, fallback):
    rates, total_budget, n_low, n_up = instance
    options, _ = value_of(value, rates)
    allocation = knapsack_allocate(rates, total_budget, n_low, n_up, value=value, fallback=fallback, **options)
    rules = np.array(PLACING_RULES)[allocation.rules]
    beyond = {rule: int((allocation.budgets - n_low)[rules == rule].sum()) for rule in PLACING_RULES}
    assert (allocation.budgets[rules == "minimum"] == n_low).all()
    assert (allocation.budgets[~np.isin(rules, ("minimum", "unseen"))] > n_low).all()
    assert beyond["knapsack"] == allocation.placed["knapsack"]
    assert beyond["fallback"] >= allocation.placed["fallback"] and (beyond["fallback"] == 0 or fallback)
    assert (rules != "review").all() and (rules != "homogeneous").all()
    if value == "expected":
        assert set(rules) <= {"knapsack", "minimum"}
    else:
        assert (rates[rules == "fallback"] == 0).all() and (beyond["remainder"] > 0) <= (
            allocation.placed["remainder"] > 0
        )
        has_share = allocation.budgets <= total_budget // len(rates)
        unseen = np.isnan(rates)
        assert (rules[unseen & has_share] == "unseen").all() and (rules[unseen & ~has_share] == "remainder").all()


@deterministic
@given(instances(), VALUES, st.sampled_from(["greedy", "dp"]))
def test_equal_prompts_differ_by_at_most_one_and_the_first_has_more(instance, value, solver):
    rates, total_budget, n_low, n_up = instance
    options, _ = value_of(value, rates)
    budgets = knapsack_allocate(rates, total_budget, n_low, n_up, value=value, solver=solver, **options).budgets
    for rate in np.unique(rates):
        is_equal = np.isnan(rates) if np.isnan(rate) else rates == rate
        equal = budgets[is_equal]
        if value == "expected" and (np.isnan(rate) or rate == 0.0):  # both have the same belief here
            continue
        assert equal.max() - equal.min() <= 1
        assert np.all(np.diff(equal) <= 0)


@deterministic
@given(instances(), VALUES, st.randoms(use_true_random=False))
def test_order_of_prompts_does_not_matter_up_to_ties(instance, value, random):
    rates, total_budget, n_low, n_up = instance
    order = np.array(random.sample(range(len(rates)), len(rates)))

    def allocate(ordered_rates):
        options, _ = value_of(value, ordered_rates)
        return knapsack_allocate(ordered_rates, total_budget, n_low, n_up, value=value, **options)

    here, there = allocate(rates), allocate(rates[order])
    assert there.total_value == pytest.approx(here.total_value, rel=1e-12)
    back = np.empty_like(there.budgets)
    back[order] = there.budgets
    keys = np.nan_to_num(rates, nan=0.0 if value == "expected" else 2.0)
    for key in np.unique(keys):
        assert sorted(back[keys == key]) == sorted(here.budgets[keys == key])


@deterministic
@given(instances(), VALUES, st.booleans())
def test_same_input_same_output(instance, value, fallback):
    rates, total_budget, n_low, n_up = instance
    options, _ = value_of(value, rates)
    runs = [
        knapsack_allocate(rates.copy(), total_budget, n_low, n_up, value=value, fallback=fallback, **options).budgets
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*runs)


@deterministic
@given(instances())
def test_each_kind_of_prompt_gets_what_its_rule_says(instance):
    rates, total_budget, n_low, n_up = instance
    allocation = knapsack_allocate(rates, total_budget, n_low, n_up, fallback=False)
    budgets, unplaced = allocation.budgets, allocation.placed["remainder"]
    is_mixed = (rates > 0) & (rates < 1)
    if unplaced == 0:
        assert np.all(budgets[np.isnan(rates)] == total_budget // len(rates))
        assert np.all(budgets[(rates == 0) | (rates == 1)] == n_low)
    else:
        assert np.all(budgets[is_mixed] == n_up)
    if np.any(budgets[np.isnan(rates)] > total_budget // len(rates)):
        assert np.all(budgets[rates == 0] == n_up)
    if np.any(budgets[rates == 1] > n_low):
        assert np.all(budgets[rates != 1] == n_up)


@deterministic
@given(instances(), st.floats(0.05, 0.999))
def test_fallback_takes_only_what_theorem_1_leaves(instance, confidence):
    rates, total_budget, n_low, n_up = instance
    allocation = knapsack_allocate(rates, total_budget, n_low, n_up, fallback_confidence=confidence)
    is_mixed, is_unsolved = (rates > 0) & (rates < 1), rates == 0
    worse = np.maximum(rates[is_mixed], 1 - rates[is_mixed])
    needed = np.floor(np.minimum(np.log(1 - confidence) / np.log(worse), n_up - n_low)).sum()
    if allocation.placed["fallback"] > 0:
        assert allocation.placed["knapsack"] >= needed
        assert allocation.budgets[is_unsolved].sum() >= is_unsolved.sum() * n_low + allocation.placed["fallback"]
    elif is_unsolved.any() and n_up > n_low:
        assert allocation.placed["knapsack"] <= needed
    if allocation.placed["knapsack"] > needed and is_unsolved.any():
        assert np.all(allocation.budgets[is_unsolved] == n_up)


# --- Optimality -------------------------------------------------------------------------------------------------------


@few
@given(instances(max_prompts=8), VALUES, st.booleans())
def test_knapsack_part_is_optimal_against_integer_programming(instance, value, fallback):
    rates, total_budget, n_low, n_up = instance
    options, value_at = value_of(value, rates)
    allocation = knapsack_allocate(rates, total_budget, n_low, n_up, value=value, fallback=fallback, **options)
    mixed = np.arange(len(rates)) if value == "expected" else np.flatnonzero((rates > 0) & (rates < 1))
    assume(len(mixed) > 0)
    table = np.array([value_at(np.arange(n_low, n_up + 1), i) for i in mixed])
    amount = int(allocation.budgets[mixed].sum()) - n_low * len(mixed)
    assert allocation.total_value == pytest.approx(milp_total_value(table, amount), rel=1e-9, abs=1e-15)


@few
@given(instances(max_prompts=8, unseen=False))
def test_whole_allocation_is_the_optimum_of_equation_5(instance):
    """Without fallback and unseen prompts only ties of the paper's problem are broken: p = 0 and 1 have no value."""
    rates, total_budget, n_low, n_up = instance
    allocation = knapsack_allocate(rates, total_budget, n_low, n_up, fallback=False)
    table = np.array([grpo_value(np.arange(n_low, n_up + 1), p) for p in rates])
    best = milp_total_value(table, total_budget - n_low * len(rates))
    assert allocation.total_value == pytest.approx(best, rel=1e-9, abs=1e-15)


@st.composite
def any_tables(draw, max_prompts=5, max_choices=6):
    """Success rates that stand for rows of an arbitrary table of values, with ties and negative entries."""
    num_rows = draw(st.integers(1, max_prompts))
    num_choices = draw(st.integers(1, max_choices))
    entries = st.one_of(st.integers(-3, 6).map(float), st.floats(-1, 1, width=32))
    table = np.array(draw(st.lists(entries, min_size=num_rows * num_choices, max_size=num_rows * num_choices)))
    table = table.reshape(num_rows, num_choices)
    rows = np.array(draw(st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=max_prompts)))
    n_low = draw(st.integers(1, 3))
    amount = draw(st.integers(0, len(rows) * (num_choices - 1)))
    return table, rows, n_low, amount


def allocate_table(table, rows, n_low, amount, **options):
    rates = (np.arange(len(table)) + 1) / (len(table) + 1)

    def value(n, p):
        return table[np.searchsorted(rates, p), n - n_low]

    total_budget = amount + n_low * len(rows)
    return knapsack_allocate(rates[rows], total_budget, n_low, n_low + table.shape[1] - 1, value=value, **options)


@settings(deterministic, max_examples=2 * EXAMPLES)
@given(any_tables(), st.sampled_from(["dp", "auto"]))
def test_any_table_is_solved_exactly_against_brute_force(instance, solver):
    table, rows, n_low, amount = instance
    allocation = allocate_table(table, rows, n_low, amount, solver=solver)
    choices = product(range(table.shape[1]), repeat=len(rows))
    best = max(
        sum(table[row, c] for row, c in zip(rows, choice, strict=True)) for choice in choices if sum(choice) == amount
    )
    assert allocation.total_value == pytest.approx(best, rel=1e-12, abs=1e-12)
    assert table[rows, allocation.budgets - n_low].sum() == pytest.approx(best, rel=1e-12, abs=1e-12)


@settings(deterministic, max_examples=4 * EXAMPLES // 3)
@given(any_tables())
def test_greedy_solves_concave_tables_and_refuses_all_others(instance):
    table, rows, n_low, amount = instance
    bends = np.diff(table[np.unique(rows)], n=2, axis=1)
    # In between, rounding decides: a bend counts where it exceeds the rounding of the values that it is the bend of.
    assume(np.all(bends <= 0.0) or np.any(bends > 1e-9))
    if np.all(bends <= 0.0):
        greedy = allocate_table(table, rows, n_low, amount, solver="greedy")
        exact = allocate_table(table, rows, n_low, amount, solver="dp")
        assert greedy.total_value == pytest.approx(exact.total_value, rel=1e-12, abs=1e-9)
    else:
        with pytest.raises(ValueError, match="needs a value that is concave in N"):
            allocate_table(table, rows, n_low, amount, solver="greedy")


@few
@given(any_tables())
def test_greedy_on_concave_versions_of_any_table_is_optimal(instance):
    table, rows, n_low, amount = instance
    gains = -np.sort(-np.diff(table, axis=1), axis=1)
    concave = np.cumsum(np.hstack([table[:, :1], gains]), axis=1)
    allocation = allocate_table(concave, rows, n_low, amount, solver="greedy")
    assert allocation.total_value == pytest.approx(milp_total_value(concave[rows], amount), rel=1e-9, abs=1e-9)


@deterministic
@given(instances(), VALUES)
def test_both_solvers_give_the_same_answer(instance, value):
    rates, total_budget, n_low, n_up = instance
    options, _ = value_of(value, rates)
    greedy, exact = (
        knapsack_allocate(rates, total_budget, n_low, n_up, value=value, solver=solver, **options)
        for solver in ("greedy", "dp")
    )
    assert greedy.total_value == pytest.approx(exact.total_value, rel=1e-12)
    np.testing.assert_array_equal(greedy.budgets, exact.budgets)


@pytest.mark.parametrize("value", ["grpo", "reinforce", "expected"])
def test_both_solvers_give_the_same_answer_at_the_papers_size(value):
    rates = np.random.default_rng(5).binomial(8, np.random.default_rng(6).beta(0.5, 0.5, 256)) / 8
    options, _ = value_of(value, rates)
    greedy, exact = (knapsack_allocate(rates, 2048, value=value, solver=s, **options) for s in ("greedy", "dp"))
    np.testing.assert_array_equal(greedy.budgets, exact.budgets)


# --- More budget ------------------------------------------------------------------------------------------------------


@deterministic
@given(instances(unseen=False), VALUES, st.booleans(), st.integers(1, 10))
def test_more_budget_never_lowers_the_total_value(instance, value, fallback, more):
    rates, total_budget, n_low, n_up = instance
    assume(total_budget + more <= len(rates) * n_up)
    options, _ = value_of(value, rates)
    smaller, larger = (
        knapsack_allocate(rates, budget, n_low, n_up, value=value, fallback=fallback, **options)
        for budget in (total_budget, total_budget + more)
    )
    assert larger.total_value >= smaller.total_value * (1 - 1e-12)
    mixed = (rates > 0) & (rates < 1)
    assert larger.budgets[mixed].sum() >= smaller.budgets[mixed].sum()


@deterministic
@given(instances(), st.booleans())
def test_more_budget_never_lowers_the_total_value_beside_unseen_prompts(instance, fallback):
    """The share of unseen prompts jumps where the budget passes a multiple of M, so whole multiples are compared."""
    rates, _, n_low, n_up = instance
    values = [
        knapsack_allocate(rates, share * len(rates), n_low, n_up, fallback=fallback).total_value
        for share in range(n_low, n_up + 1)
    ]
    assert np.all(np.diff(values) >= -1e-12)


@deterministic
@given(instances(unseen=False))
def test_knapsack_is_never_worth_less_than_the_homogeneous_allocation(instance):
    rates, total_budget, n_low, n_up = instance
    assume(total_budget // len(rates) < n_up)
    uniform = homogeneous_allocate(len(rates), total_budget, success_rates=rates)
    knapsack = knapsack_allocate(rates, total_budget, n_low, n_up, fallback=False)
    assert knapsack.total_value >= uniform.total_value * (1 - 1e-12)


# --- Large instances --------------------------------------------------------------------------------------------------


def log_value(n, p):
    return p * np.log(n)


def linear_value(n, p):
    return np.full(p.shape, float(n))


def plateau_value(n, p):
    return np.minimum(n, 20.0) * np.round(p, 2)


@pytest.mark.parametrize("total_budget", [8_001, 12_345, 32_000, 400_000, 511_999])
@pytest.mark.parametrize("value", ["grpo", "reinforce", "remax", "expected", log_value, linear_value, plateau_value])
def test_thousands_of_distinct_prompts_get_the_largest_gains(value, total_budget):
    """At this size gains are streamed, not held in a table; the oracle sorts them all."""
    rates = np.random.default_rng(7).uniform(0.001, 0.999, 4_000)
    if callable(value):
        options, value_at = {}, lambda n: value(n, rates)
    else:
        options, function = value_of(value, rates)
        value_at = lambda n: function(n, slice(None))  # noqa: E731
    values = np.stack([value_at(n) for n in range(2, 129)], axis=1)
    largest = np.sort(np.diff(values, axis=1), axis=None)[::-1][: total_budget - 8_000]
    allocation = knapsack_allocate(rates, total_budget, value=value, **options)
    assert allocation.budgets.sum() == total_budget
    assert allocation.total_value == pytest.approx(values[:, 0].sum() + largest.sum(), rel=1e-9)


def test_ties_of_a_large_instance_are_shared_evenly():
    rates = np.random.default_rng(8).uniform(0.001, 0.999, 4_000)
    budgets = knapsack_allocate(rates, 30_001, value=linear_value).budgets
    assert budgets.tolist() == homogeneous_allocate(4_000, 30_001).budgets.tolist()


def test_many_prompts_with_few_success_rates():
    rates = np.random.default_rng(9).integers(0, 9, 50_000) / 8
    allocation = knapsack_allocate(rates, 400_003)
    assert allocation.budgets.sum() == 400_003
    for rate in np.unique(rates):
        assert np.ptp(allocation.budgets[rates == rate]) <= 1
