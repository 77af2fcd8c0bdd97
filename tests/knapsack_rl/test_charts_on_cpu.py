"""The counts behind the wandb charts, and the charts as wandb objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knapsack_rl.charts import (
    BUDGET_HISTOGRAM,
    BUDGETS_BY_SUCCESS_RATE,
    SUCCESS_RATE_CLASSES,
    budget_histogram,
    count_budgets_by_success_rate,
    draw_budgets_by_success_rate,
    wandb_charts,
)

budget_lists = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@given(budget_lists, st.integers(1, 100))
def test_every_prompt_is_in_the_bin_that_holds_its_budget(budgets, max_bins):
    counts, edges = budget_histogram(np.array(budgets), max_bins)
    assert 1 <= len(counts) <= max_bins and len(edges) == len(counts) + 1
    assert np.array_equal(counts, np.histogram(budgets, edges)[0])
    assert counts.sum() == len(budgets)
    assert len(np.unique(np.diff(edges))) == 1


def test_few_distinct_budgets_get_a_bin_each():
    counts, edges = budget_histogram(np.array([2, 9, 2, 5]))
    assert dict(zip(edges[:-1] + 0.5, counts, strict=True)) == {2: 2, 3: 0, 4: 0, 5: 1, 6: 0, 7: 0, 8: 0, 9: 1}


@given(budget_lists, st.randoms(use_true_random=False))
def test_every_prompt_is_counted_once_in_its_range(budgets, random):
    rates = np.array([random.choice([np.nan, 0.0, 1.0, random.random()]) for _ in budgets])
    counts, ranges = count_budgets_by_success_rate(rates, np.array(budgets))
    assert counts.sum() == len(budgets)
    for column, (low, high) in enumerate(ranges):
        assert counts[:, column].sum() == sum(low <= budget <= high for budget in budgets)
    assert counts[0].sum() == np.isnan(rates).sum()
    assert counts[1].sum() == (rates == 0).sum() and counts[-1].sum() == (rates == 1).sum()


@pytest.mark.parametrize(
    ("rate", "named"),
    [
        (np.nan, "unseen"),
        (0.0, "0"),
        (1e-9, "0.0-0.1"),
        (0.1, "0.1-0.2"),
        (0.3, "0.3-0.4"),
        (0.999999, "0.9-1.0"),
        (1.0, "1"),
    ],
)
def test_classes_of_success_rates(rate, named):
    counts, _ = count_budgets_by_success_rate(np.array([rate]), np.array([4]))
    assert SUCCESS_RATE_CLASSES[int(counts[:, 0].argmax())] == named


@pytest.mark.parametrize(
    ("rates", "budgets", "said"),
    [
        ([0.5, 0.5], [4], "one rate for each budget"),
        ([], [], "one rate for each budget"),
        ([1.5], [4], "1.5"),
        ([0.5], [0], "budgets from 0"),
    ],
)
def test_refuses_what_no_allocation_gives(rates, budgets, said):
    with pytest.raises(ValueError, match=said):
        count_budgets_by_success_rate(np.array(rates), np.array(budgets, dtype=int))


@pytest.mark.parametrize(("budgets", "max_bins"), [([], 4), ([3], 0)])
def test_a_histogram_of_nothing_is_refused(budgets, max_bins):
    with pytest.raises(ValueError, match="at least one budget and one bin"):
        budget_histogram(np.array(budgets, dtype=int), max_bins)


def test_the_heat_map_shows_where_the_budgets_went():
    rates = np.array([np.nan, 0.0, 0.5, 1.0])
    to_unsolved = draw_budgets_by_success_rate(rates, np.array([4, 32, 4, 4]))
    to_mixed = draw_budgets_by_success_rate(rates, np.array([4, 4, 32, 4]))
    assert to_unsolved.dtype == np.uint8 and to_unsolved.shape[2] == 3
    assert (to_unsolved != to_mixed).any()


def test_wandb_gets_the_counts_and_the_picture():
    rates, budgets = np.array([0.0, 0.5, 1.0]), np.array([2, 4, 2])
    charts = wandb_charts(rates, budgets)
    assert list(charts) == [BUDGET_HISTOGRAM, BUDGETS_BY_SUCCESS_RATE]
    assert charts[BUDGET_HISTOGRAM].histogram == [2, 0, 1]
    picture = draw_budgets_by_success_rate(rates, budgets)
    assert np.array_equal(np.asarray(charts[BUDGETS_BY_SUCCESS_RATE].image), picture)
