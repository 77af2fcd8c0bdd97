"""How prompts fared: statuses, transitions and estimates against hand-made histories and counting by hand."""

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knapsack_rl.classes import DIFFICULTIES, SUCCESS_RATE_CLASSES, difficulty_of, success_rate_class
from knapsack_rl.metrics import outcome_metrics
from recipe.knapsack.report import prompt_dynamics
from recipe.knapsack.report.prompt_dynamics import (
    budgets_by_estimate,
    choose_prompts,
    final_statuses,
    first_and_last_statuses,
    never_solved,
    next_statuses,
    prompt_epochs,
    reliability,
    transition_counts,
)

HARDEST, HARD, MEDIUM, EASY, EASIEST = range(5)


def history(*rows):
    """Rows (epoch, prompt, estimate, budget, successes), one step each."""
    table = pd.DataFrame(rows, columns=["epoch", "prompt_id", "estimate", "budget", "successes"])
    return table.assign(step=np.arange(len(table)) + 1, response_tokens=table["budget"] * 10)


def random_history(seed, num_prompts=30, num_epochs=6):
    rng = np.random.default_rng(seed)
    rows = []
    for epoch in range(num_epochs):
        for prompt in rng.permutation(num_prompts)[: rng.integers(5, num_prompts)]:
            budget = int(rng.integers(1, 12))
            estimate = rng.choice([np.nan, 0.0, 1.0, rng.random()])
            rows.append((epoch, f"p{prompt}", estimate, budget, int(rng.binomial(budget, rng.random()))))
    return history(*rows)


def test_doctests():
    assert doctest.testmod(prompt_dynamics).failed == 0


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_statuses_are_those_of_the_training_metrics(successes):
    rollouts = 20
    prompt_index = np.repeat(np.arange(len(successes)), rollouts)
    outcomes = np.concatenate([np.arange(rollouts) < count for count in successes])
    metrics = outcome_metrics(prompt_index, outcomes, outcomes.astype(float), len(successes))
    counts = np.bincount(difficulty_of(np.array(successes) / rollouts), minlength=5)
    assert counts.tolist() == [metrics[f"prompt/{difficulty.name}_count"] for difficulty in DIFFICULTIES]


@pytest.mark.parametrize("rate", [np.nan, -0.1, 1.1])
def test_a_status_needs_a_rate(rate):
    with pytest.raises(ValueError, match=f"{rate}"):
        difficulty_of(np.array([0.5, rate]))


def test_every_estimate_falls_into_the_bin_that_names_it():
    for rate in np.random.default_rng(0).random(200):
        low, high = SUCCESS_RATE_CLASSES[success_rate_class(np.array([rate]))[0]].split("-")
        assert float(low) <= rate < float(high)


def test_rollouts_of_a_prompt_that_an_epoch_holds_twice_are_added_up():
    visits = prompt_epochs(history((0, "a", np.nan, 4, 0), (0, "a", np.nan, 4, 4), (1, "a", 0.5, 2, 2)))
    assert visits["budget"].tolist() == [8, 2]
    assert visits["success_rate"].tolist() == [0.5, 1.0]
    assert visits["status"].tolist() == [MEDIUM, EASIEST]


def test_transitions_of_a_small_history():
    visits = prompt_epochs(
        history(
            (0, "a", np.nan, 8, 0),
            (0, "b", np.nan, 10, 9),
            (0, "c", np.nan, 8, 8),
            (1, "a", 0.0, 10, 1),
            (3, "a", 0.1, 8, 8),  # the prompt was not tried in epoch 2
            (3, "b", 0.9, 8, 0),
        )
    )
    counts = transition_counts(next_statuses(visits))
    assert {(int(i), int(j)): int(counts[i, j]) for i, j in zip(*np.nonzero(counts), strict=True)} == {
        (HARDEST, HARD): 1,
        (HARD, EASIEST): 1,
        (EASY, HARDEST): 1,
    }
    whole_run = transition_counts(first_and_last_statuses(visits))
    assert whole_run.sum() == 2  # c was tried once only
    assert whole_run[HARDEST, EASIEST] == whole_run[EASY, HARDEST] == 1
    assert final_statuses(visits).tolist() == [1, 0, 0, 0, 2]


@pytest.mark.parametrize("seed", range(5))
def test_transitions_are_those_found_prompt_by_prompt(seed):
    visits = prompt_epochs(random_history(seed))
    expected, whole_run = np.zeros((5, 5), int), np.zeros((5, 5), int)
    for _, own in visits.groupby("prompt_id"):
        statuses = own.sort_values("epoch")["status"].tolist()
        for before, after in zip(statuses, statuses[1:], strict=False):
            expected[before, after] += 1
        if len(statuses) > 1:
            whole_run[statuses[0], statuses[-1]] += 1
    assert np.array_equal(transition_counts(next_statuses(visits)), expected)
    assert np.array_equal(transition_counts(first_and_last_statuses(visits)), whole_run)
    assert final_statuses(visits).sum() == visits["prompt_id"].nunique()


def test_never_solved_counts_prompts_not_rows():
    table = history((0, "a", np.nan, 8, 0), (1, "a", 0.0, 8, 0), (0, "b", np.nan, 8, 0), (1, "b", 0.0, 8, 1))
    assert never_solved(table) == 1


def test_budgets_by_estimate():
    rows = [(0, f"p{budget}", 0.05, budget, 0) for budget in range(1, 102)]
    table = budgets_by_estimate(history(*rows, (0, "u", np.nan, 8, 0)))
    assert [SUCCESS_RATE_CLASSES[index] for index in table.index] == ["unseen", "0.0-0.1"]
    assert table.iloc[1].to_dict() == {"lower": 11, "median": 51, "upper": 91, "largest": 101, "count": 101}


def test_reliability_counts_prompts_alike_whatever_their_budgets():
    table = reliability(history((1, "a", 0.5, 100, 0), (1, "b", 0.5, 2, 2), (1, "c", np.nan, 8, 8)))
    assert len(table) == 1
    row = table.iloc[0]
    assert (row["estimated"], row["observed"], row["count"]) == (0.5, 0.5, 2)
    assert row["standard_error"] == pytest.approx(0.5)


class TestChoosePrompts:
    def visits(self, **rates):
        return prompt_epochs(
            history(
                *((epoch, name, np.nan, 4, int(4 * r)) for name, own in rates.items() for epoch, r in enumerate(own))
            )
        )

    def test_only_prompts_that_changed_and_those_of_all_runs_first(self):
        one = self.visits(still=[0, 0], solved=[1, 1], shared=[0, 1], mine=[0, 0.5])
        other = self.visits(still=[0, 0], solved=[1, 1], shared=[0, 0])
        assert choose_prompts([one, other], 10, seed=0) == ["shared", "mine"]

    def test_the_seed_decides(self):
        visits = prompt_epochs(random_history(1))
        chosen = [choose_prompts([visits], 6, seed) for seed in (0, 0, 1)]
        assert chosen[0] == chosen[1] != chosen[2]
        assert len(set(chosen[0])) == 6

    def test_none_where_nothing_changed(self):
        assert choose_prompts([self.visits(still=[0, 0])], 5, seed=0) == []
