"""How much a prompt counts in the update: the powers, the normalisation, the pull of uneven groups."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from knapsack_rl import weighting
from knapsack_rl.weighting import PROMPT_WEIGHTS, expected_pull, prompt_weights

UNEVEN = np.array([2, 3, 2, 128, 17, 2, 40])


def test_docstring_examples_hold():
    assert doctest.testmod(weighting).failed == 0


@pytest.mark.parametrize("name", PROMPT_WEIGHTS)
def test_the_weights_add_up_to_the_rollouts_over_all_rows(name):
    assert UNEVEN @ prompt_weights(UNEVEN, name) == pytest.approx(UNEVEN.sum(), rel=1e-12)


@pytest.mark.parametrize("name", PROMPT_WEIGHTS)
@pytest.mark.parametrize("rollouts", [1, 3, 7, 8, 10])
def test_equal_budgets_have_weights_of_exactly_one(name, rollouts):
    assert prompt_weights(np.full(13, rollouts), name).tolist() == [1.0] * 13


@pytest.mark.parametrize(("name", "power"), [("rows", 1), ("sqrt", 0.5), ("equal", 0)])
def test_the_rows_of_a_prompt_count_by_the_power_of_their_number(name, power):
    together = UNEVEN * prompt_weights(UNEVEN, name)
    np.testing.assert_allclose(together / together[0], (UNEVEN / UNEVEN[0]) ** power, rtol=1e-12)


def test_rows_leave_every_advantage_as_it_is():
    assert prompt_weights(UNEVEN, "rows").tolist() == [1.0] * len(UNEVEN)


@pytest.mark.parametrize(
    ("budgets", "name", "message"),
    [
        ([2, 2], "root", "one of rows, sqrt, equal, got 'root'"),
        ([], "sqrt", r"at least one prompt, got shape \(0,\)"),
        (5, "sqrt", r"got shape \(\)"),
        ([2, 0], "equal", "above 0, got 0.0"),
        ([2, np.nan], "equal", "above 0, got nan"),
        ([2, -3], "rows", "above 0, got -3.0"),
        ([2, np.inf], "rows", "above 0, got inf"),
    ],
)
def test_what_has_no_weights_is_refused(budgets, name, message):
    with pytest.raises(ValueError, match=message):
        prompt_weights(budgets, name)


@pytest.mark.parametrize(("n", "p"), [(2, 0.5), (8, 0.1), (5, 0.9)])
def test_the_expected_pull_is_that_of_sampled_groups(n, p):
    """Oracle: sampled groups, their advantages as GRPO has them, and the gradient of a softmax policy's log-odds."""
    rewards = (np.random.default_rng(0).random((200_000, n)) < p).astype(float)
    deviation = rewards.std(axis=1, ddof=1, keepdims=True)
    advantages = (rewards - rewards.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    pulls = (advantages * (rewards - p)).sum(axis=1)
    assert expected_pull(n, p) == pytest.approx(pulls.mean(), abs=4 * pulls.std() / np.sqrt(len(pulls)))
