"""What came of rollouts, and which of them are trained on."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knapsack_rl.outcomes import Outcomes, choose_rows


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


def make_outcomes(**changes):
    columns = {
        "prompt_index": np.array([1, 0, 1, 0]),
        "scores": np.array([1.0, 0.0, 1.0, 1.0]),
        "successes": np.array([True, False, True, True]),
        "effective": np.array([False, True, False, True]),
        "response_tokens": np.array([1, 2, 3, 4]),
    }
    return Outcomes(**{**columns, **changes})


def test_sums_by_prompt():
    outcomes = make_outcomes()
    assert outcomes.rollouts_by_prompt(3).tolist() == [2, 2, 0]
    assert outcomes.successes_by_prompt(3).tolist() == [1, 2, 0]
    assert outcomes.response_tokens_by_prompt(3).tolist() == [6, 4, 0]


def test_outcomes_cannot_be_filled_in_later():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_outcomes().scores = np.zeros(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros(3)}, r"scores must have one entry per rollout \(4\), got \(3,\)"),
        ({"greedy_successes": np.zeros(5)}, "greedy_successes must have one entry per rollout"),
        ({"prompt_index": np.array([0, -1, 0, 0])}, "of prompts numbered from 0"),
        (
            {name: np.array([]) for name in ("prompt_index", "scores", "successes", "effective", "response_tokens")},
            "at least one rollout",
        ),
    ],
)
def test_outcomes_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_outcomes(**changes)
