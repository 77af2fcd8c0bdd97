"""Dispatch orders: every rollout exactly once, even rows, few prompts split, balanced tokens, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knapsack_rl.dispatch import packed_order, random_order
from knapsack_rl.metrics import imbalance


def uneven_step(seed=0, num_prompts=256, total=2048, big=0):
    """Budgets of a knapsack step and response lengths that grow with difficulty."""
    random = np.random.default_rng(seed)
    rates = random.beta(0.4, 0.4, num_prompts)
    budgets = np.full(num_prompts, 2)
    budgets[np.argsort(rates)[:big]] = 128
    weights = rates * (1 - rates) ** 2
    budgets += random.multinomial(total - budgets.sum(), weights / weights.sum())
    tokens = np.exp(random.normal(np.log(600) + 1.2 * (1 - rates), 0.5))
    return budgets, tokens


@st.composite
def dispatches(draw):
    """(budgets, number of workers, expected tokens) whose rows divide evenly."""
    num_workers = draw(st.integers(1, 6))
    budgets = np.array(draw(st.lists(st.integers(0, 12), min_size=1, max_size=20)), dtype=np.int64)
    budgets[0] += -budgets.sum() % num_workers
    lengths = st.one_of(st.floats(0, 1000), st.just(np.nan))
    tokens = draw(st.lists(lengths, min_size=len(budgets), max_size=len(budgets)))
    return budgets, num_workers, np.array(tokens)


# --- random ---------------------------------------------------------------------------------------------------------


@given(budgets=st.lists(st.integers(0, 30), max_size=20), seed=st.integers(0, 2**40), step=st.integers(0, 2**40))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_random_order_holds_every_rollout_once(budgets, seed, step):
    budgets = np.array(budgets, dtype=np.int64)
    order = random_order(budgets, seed=seed, step=step)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(order, minlength=len(budgets)), budgets)


def test_random_order_is_the_same_on_every_machine():
    expected = [3, 3, 2, 1, 0, 3, 0, 1, 3, 2]
    assert random_order(np.array([2, 2, 2, 4]), seed=1, step=7).tolist() == expected


def test_random_order_changes_with_seed_and_step():
    budgets = np.full(64, 8)
    orders = {random_order(budgets, seed=seed, step=step).tobytes() for seed in range(3) for step in range(3)}
    assert len(orders) == 9


def test_random_order_spreads_a_prompt_over_the_workers():
    budgets = np.array([128] + [2] * 192)
    shares = [np.sum(random_order(budgets, seed=0, step=step).reshape(8, 64) == 0, axis=1) for step in range(200)]
    # 16 on average; the mean of 200 hypergeometric draws has a standard deviation of 0.22
    np.testing.assert_allclose(np.mean(shares, axis=0), 16, atol=1.0)


@pytest.mark.parametrize(
    ("budgets", "seed", "step", "message"),
    [
        ([1, -2], 0, 0, "budgets must not be negative, got -2 for prompt 1"),
        ([1.5, 2.0], 0, 0, "one-dimensional array of integers, got float64"),
        ([[1, 2]], 0, 0, "one-dimensional array of integers"),
        ([1, 2], -1, 0, "seed=-1, step=0"),
        ([1, 2], 0, -1, "seed=0, step=-1"),
    ],
)
def test_random_order_refuses(budgets, seed, step, message):
    with pytest.raises(ValueError, match=message):
        random_order(np.array(budgets), seed=seed, step=step)


# --- packed ---------------------------------------------------------------------------------------------------------


@given(case=dispatches())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_packed_order_keeps_its_promises(case):
    budgets, num_workers, tokens = case
    order = packed_order(budgets, num_workers, expected_tokens=tokens)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(order, minlength=len(budgets)), budgets)
    if len(order):
        assert imbalance(order, num_workers, np.ones(len(order)))["dispatch/split_prompts"] <= num_workers - 1
    for rows in order.reshape(num_workers, -1):
        runs = 1 + np.count_nonzero(np.diff(rows)) if len(rows) else 0
        assert runs == len(np.unique(rows)), "a prompt's rows on a worker are not contiguous"


@pytest.mark.parametrize("num_workers", [2, 8, 32])
@pytest.mark.parametrize("big", [0, 6])
@pytest.mark.parametrize("seed", range(3))
def test_packed_order_balances_expected_tokens(num_workers, big, seed):
    budgets, tokens = uneven_step(seed, big=big)
    order = packed_order(budgets, num_workers, expected_tokens=tokens)
    packed = imbalance(order, num_workers, tokens[order])
    shuffled = random_order(budgets, seed=seed, step=0)
    spread = imbalance(shuffled, num_workers, tokens[shuffled])
    assert packed["dispatch/token_imbalance"] < 1.08
    assert packed["dispatch/workers_per_prompt"] < 1.3
    assert num_workers == 2 or packed["dispatch/token_imbalance"] < spread["dispatch/token_imbalance"]


def test_packed_order_does_not_depend_on_the_order_of_the_prompts():
    budgets, tokens = uneven_step()
    shuffle = np.random.default_rng(1).permutation(len(budgets))
    order = packed_order(budgets, 8, expected_tokens=tokens)
    shuffled_order = packed_order(budgets[shuffle], 8, expected_tokens=tokens[shuffle])
    np.testing.assert_array_equal(shuffle[shuffled_order], order)


def test_packed_order_does_not_depend_on_the_unit_of_length():
    budgets, tokens = uneven_step()
    order = packed_order(budgets, 8, expected_tokens=tokens)
    np.testing.assert_array_equal(packed_order(budgets, 8, expected_tokens=tokens * 1024), order)


def test_packed_order_reads_unknown_lengths_as_the_mean_of_the_known():
    budgets = np.array([4, 4, 4, 4])
    order = packed_order(budgets, 2, expected_tokens=np.array([100.0, np.nan, 300.0, np.nan]))
    filled = packed_order(budgets, 2, expected_tokens=np.array([100.0, 200.0, 300.0, 200.0]))
    np.testing.assert_array_equal(order, filled)
    nothing_known = packed_order(budgets, 2, expected_tokens=np.full(4, np.nan))
    np.testing.assert_array_equal(nothing_known, packed_order(budgets, 2))


def test_packed_order_divides_a_prompt_that_is_too_long_for_a_worker():
    budgets, tokens = np.array([16] + [2] * 24), np.array([1000.0] + [10.0] * 24)
    order = packed_order(budgets, 4, expected_tokens=tokens)
    assert imbalance(order, 4, tokens[order])["dispatch/token_imbalance"] < 1.05


@pytest.mark.parametrize("tokens", [[0.0, 0.0], None])
def test_packed_order_works_without_lengths(tokens):
    order = packed_order(np.array([3, 3]), 2, expected_tokens=tokens)
    assert sorted(order.reshape(2, 3)[:, 0].tolist()) == [0, 1]


def test_packed_order_of_nothing_is_empty():
    assert len(packed_order(np.array([0, 0]), 2)) == 0


@pytest.mark.parametrize(
    ("budgets", "num_workers", "tokens", "message"),
    [
        ([3, 4], 2, None, "7 rollouts cannot be shared evenly by 2 workers; the nearest total budgets are 6 and 8"),
        ([3, 3], 0, None, "num_workers must be at least 1, got 0"),
        ([3, 3], 2, [1.0], r"one value per prompt, got \(1,\) for 2 prompts"),
        ([3, 3], 2, [1.0, -5.0], "finite and not negative, got -5.0"),
        ([3, 3], 2, [1.0, np.inf], "finite and not negative, got inf"),
    ],
)
def test_packed_order_refuses(budgets, num_workers, tokens, message):
    with pytest.raises(ValueError, match=message):
        packed_order(np.array(budgets), num_workers, expected_tokens=tokens)


# --- imbalance ------------------------------------------------------------------------------------------------------


def test_imbalance_is_most_over_mean():
    metrics = imbalance(np.array([0, 0, 1, 2]), 2, np.array([1, 2, 4, 5]), worker_seconds=np.array([1.0, 3.0]))
    assert metrics == {
        "dispatch/row_imbalance": 1.0,
        "dispatch/token_imbalance": 9 / 6,
        "dispatch/time_imbalance": 1.5,
        "dispatch/split_prompts": 0.0,
        "dispatch/workers_per_prompt": 1.0,
    }


def test_rows_are_uneven_when_workers_do_not_divide_them():
    metrics = imbalance(np.array([0, 0, 0, 1, 1]), 2, np.ones(5))
    assert metrics["dispatch/row_imbalance"] == 3 / 2.5
    assert metrics["dispatch/split_prompts"] == 0.0


def test_empty_responses_are_balanced():
    assert imbalance(np.array([0, 1]), 2, np.zeros(2))["dispatch/token_imbalance"] == 1.0


@pytest.mark.parametrize(
    ("order", "num_workers", "tokens", "seconds", "message"),
    [
        ([0, 1], 2, [1.0], None, r"got \(2,\) rows and \(1,\) counts"),
        ([], 2, [], None, "one token count per row"),
        ([0, 1], 0, [1.0, 1.0], None, "num_workers must be at least 1, got 0"),
        ([0, 1], 2, [1.0, 1.0], [1.0], r"the seconds of 2 workers, got shape \(1,\)"),
    ],
)
def test_imbalance_refuses(order, num_workers, tokens, seconds, message):
    with pytest.raises(ValueError, match=message):
        imbalance(np.array(order, dtype=int), num_workers, np.array(tokens), worker_seconds=seconds)
