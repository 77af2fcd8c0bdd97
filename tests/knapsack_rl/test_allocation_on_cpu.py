"""Allocation: the rules, the paper's tables and theorems, the defects of the original, and every error."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution
from scipy.stats import binom

import knapsack_rl as exploration_utils
from knapsack_rl import (
    ADVANTAGE_ESTIMATORS,
    expected_effective_ratio,
    expected_prob_nonzero_gradient,
    expected_rollouts_until_nonzero_gradient,
    expected_value,
    grpo_value,
    homogeneous_allocate,
    info_gain,
    knapsack_allocate,
    prob_nonzero_gradient,
    reinforce_value,
    remax_value,
    resolve_value_function,
    rollouts_for_confidence,
    value_for_adv_estimator,
)

NAN = float("nan")


def budgets(success_rates, total_budget, **options):
    return knapsack_allocate(success_rates, total_budget, **options).budgets.tolist()


def needs_ten(n, p):
    """A value that is not concave: nothing below 10 rollouts."""
    return np.where(n >= 10, p, 0.0)


def capped(n, p):
    """A value that is concave with long plateaus."""
    return p * min(n, 5)


# --- Published numbers ------------------------------------------------------------------------------------------------


def test_table_3_with_fallback():
    assert budgets([0.0, 0.9, *[1.0] * 6], 64) == [29, 23, 2, 2, 2, 2, 2, 2]


def test_table_3_without_fallback():
    assert budgets([0.0, 0.9, *[1.0] * 6], 64, fallback=False) == [2, 50, 2, 2, 2, 2, 2, 2]


def test_table_3_costs():
    assert np.ceil(rollouts_for_confidence(0.9)) == 22
    assert np.all(np.isinf(rollouts_for_confidence([0.0, 1.0])))


def test_theorem_1_published_numbers():
    assert expected_rollouts_until_nonzero_gradient(0.5) == pytest.approx(3.0)
    assert expected_rollouts_until_nonzero_gradient(0.01) == pytest.approx(100.0, abs=0.02)
    assert math.floor(rollouts_for_confidence(0.01, 0.9)) == 229


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.85, 0.99])
def test_theorem_1_mean_is_the_sum_of_tail_probabilities(p):
    rollouts = np.arange(1, 10_000)
    mean = 1.0 + np.sum(1.0 - prob_nonzero_gradient(rollouts, p))
    assert expected_rollouts_until_nonzero_gradient(p) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("p", [0.001, 0.01, 0.3, 0.8, 0.99])
def test_theorem_1_is_close_to_the_smallest_sufficient_group(p, confidence):
    cost = float(rollouts_for_confidence(p, confidence))
    rollouts = np.arange(1, 20_000)
    smallest = rollouts[np.argmax(prob_nonzero_gradient(rollouts, p) >= confidence)]
    # The theorem leaves out the less likely way to get a uniform group, which matters only for small groups.
    assert cost <= smallest <= cost + 2.0


def test_figure_4_highlighted_points_have_the_same_value():
    values = [float(grpo_value(n, p)) for n, p in ((4, 0.35), (16, 0.19), (8, 0.52))]
    assert max(values) - min(values) < 0.002
    assert values[0] == pytest.approx((1 - 0.35**4 - 0.65**4) * 0.35 * 0.65**2, rel=1e-12)


def softmax_success_rate_change(p, learning_rate, num_actions=100):
    """Change of the rewarded action's probability through one exact policy-gradient update (paper, equation 8)."""
    logits = np.zeros(num_actions)
    logits[0] = np.log(p / (1 - p) * (num_actions - 1))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    logits += learning_rate * (np.eye(num_actions)[0] - probabilities)
    return (np.exp(logits) / np.exp(logits).sum())[0] - probabilities[0]


def test_proposition_1_against_small_exact_updates_with_100_actions():
    success_rates = np.linspace(0.01, 0.99, 99)
    slopes = [softmax_success_rate_change(p, 1e-6) / 1e-6 for p in success_rates]
    # The proposition drops p * sum of the squared probabilities of the 99 others, which is 1/99 of what it keeps.
    np.testing.assert_allclose(slopes, info_gain(success_rates) * (1 + 1 / 99), rtol=1e-4)


def test_figure_10_unit_updates_follow_the_approximation():
    success_rates = np.linspace(0.01, 0.99, 99)
    exact = np.array([softmax_success_rate_change(p, 1.0) for p in success_rates])
    assert np.corrcoef(exact, info_gain(success_rates))[0, 1] > 0.97
    assert np.abs(exact - info_gain(success_rates)).max() < 0.04


def test_info_gain_is_largest_at_one_third_and_favours_hard_prompts():
    success_rates = np.linspace(0.0, 1.0, 3001)
    assert success_rates[np.argmax(info_gain(success_rates))] == pytest.approx(1 / 3)
    hard = np.linspace(0.01, 0.49)
    assert np.all(info_gain(hard) > info_gain(1 - hard))


# --- Value functions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 8, 128])
@pytest.mark.parametrize("p", [Fraction(1, 10**9), Fraction(1, 8), Fraction(1, 2), Fraction(9, 10)])
def test_values_equal_exact_rational_arithmetic(n, p):
    gain = p * (1 - p) ** 2
    assert float(grpo_value(n, float(p))) == pytest.approx(float((1 - p**n - (1 - p) ** n) * gain), rel=1e-12)
    assert float(reinforce_value(n, float(p))) == pytest.approx(float((1 - (1 - p) ** n) * gain), rel=1e-12)
    for a in (Fraction(0), Fraction(1, 7), Fraction(1)):
        assert float(remax_value(n, float(p), float(a))) == pytest.approx(float((1 - a**n) * gain), rel=1e-12, abs=0)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_extreme_success_rates_have_no_value(p):
    rollouts = np.arange(1, 129)
    assert np.all(prob_nonzero_gradient(rollouts, p) == 0.0)
    assert np.all(grpo_value(rollouts, p) == 0.0)
    assert np.all(reinforce_value(rollouts, p) == 0.0)


def exact_expected_value(n, alpha, beta):
    """E[Value(n, p)] under Beta(alpha, beta) with integer counts, in rational arithmetic."""

    def moment(successes, failures):
        product = Fraction(1)
        for j in range(successes):
            product *= Fraction(alpha + j, alpha + beta + j)
        for j in range(failures):
            product *= Fraction(beta + j, alpha + beta + successes + j)
        return product

    return moment(1, 2) - moment(n + 1, 2) - moment(1, n + 2)


@pytest.mark.parametrize("n", [1, 2, 8, 128])
@pytest.mark.parametrize("alpha, beta", [(1, 1), (1, 9), (9, 1), (3, 5), (10**6, 3), (10**9, 10**9), (1, 10**12)])
def test_expected_value_equals_exact_rational_arithmetic(n, alpha, beta):
    exact = float(exact_expected_value(n, alpha, beta))
    assert float(expected_value(n, alpha, beta)) == pytest.approx(exact, rel=1e-11, abs=0)


@pytest.mark.parametrize("n", [2, 5, 16, 128])
@pytest.mark.parametrize("alpha, beta", [(0.3, 8.7), (0.5, 0.5), (1.2, 1.8), (8.3, 0.7), (40.5, 60.25)])
def test_expectations_equal_numerical_integration(n, alpha, beta):
    density = beta_distribution(alpha, beta)
    # u = F(p) maps the belief to the unit interval, which takes the poles of the density at 0 and 1 out of the way.
    for expectation, function in (
        (expected_value, grpo_value),
        (expected_prob_nonzero_gradient, prob_nonzero_gradient),
    ):
        integral, _ = quad(lambda u, f=function: float(f(n, density.ppf(u))), 0, 1, epsabs=1e-11, limit=500)
        assert float(expectation(n, alpha, beta)) == pytest.approx(integral, abs=1e-9)


def test_expected_value_approaches_the_value_as_the_belief_sharpens():
    assert float(expected_value(8, 3e9, 7e9)) == pytest.approx(float(grpo_value(8, 0.3)), rel=1e-8)


def test_expectations_broadcast():
    rollouts = np.array([[1], [2], [30]])
    table = expected_value(rollouts, np.array([0.5, 4.0]), np.array([8.5, 4.0]))
    assert table.shape == (3, 2)
    assert np.all(table[0] == 0.0)
    assert table[2, 1] == expected_value(30, 4.0, 4.0)


# --- The rules --------------------------------------------------------------------------------------------------------


def test_unseen_prompts_get_the_homogeneous_share():
    assert budgets([NAN, 0.5, 0.1, 1.0], 32)[0] == 8


def test_all_unseen_is_the_homogeneous_allocation_with_its_remainder():
    allocation = knapsack_allocate([NAN] * 4, 34)
    assert allocation.budgets.tolist() == [9, 9, 8, 8]
    assert allocation.budgets.tolist() == homogeneous_allocate(4, 34).budgets.tolist()
    assert allocation.placed == {"minimum": 0, "unseen": 32, "knapsack": 0, "fallback": 0, "remainder": 2}
    assert np.isnan(allocation.expected_effective_ratio)
    assert allocation.total_value == 0.0


@pytest.mark.parametrize("num_prompts", [1, 2, 3, 7])
@pytest.mark.parametrize("n_low, n_up", [(2, 2), (2, 5), (3, 4)])
def test_unseen_share_lies_within_the_bounds_and_leaves_the_others_their_minimum(num_prompts, n_low, n_up):
    for total_budget in range(num_prompts * n_low, num_prompts * n_up + 1):
        for num_unseen in range(num_prompts + 1):
            share = total_budget // num_prompts
            assert n_low <= share <= n_up
            assert total_budget - num_unseen * share >= (num_prompts - num_unseen) * n_low
            given = budgets(
                [NAN] * num_unseen + [1.0] * (num_prompts - num_unseen), total_budget, n_low=n_low, n_up=n_up
            )
            assert sum(given) == total_budget
            assert n_low <= min(given) and max(given) <= n_up


def test_solved_prompts_get_the_minimum():
    assert budgets([1.0, 0.5, 1.0], 30, n_low=3) == [3, 24, 3]


def test_solved_prompts_take_what_fits_nowhere_else():
    assert budgets([1.0, 0.5, 0.0, 1.0], 41, n_up=16) == [5, 16, 16, 4]


def test_remainder_goes_to_unsolved_then_unseen_then_solved():
    rates, options = [1.0, NAN, 0.0, 0.5], {"n_up": 10, "fallback": False}
    assert budgets(rates, 20, **options) == [2, 5, 3, 10]
    assert budgets(rates, 28, **options) == [2, 7, 9, 10]
    assert budgets(rates, 33, **options) == [3, 10, 10, 10]
    assert budgets(rates, 40, **options) == [10, 10, 10, 10]


def test_fallback_shares_evenly_and_the_first_gets_the_odd_one():
    allocation = knapsack_allocate([0.0, 0.9, 0.0], 40)
    assert allocation.budgets.tolist() == [9, 23, 8]
    assert allocation.placed == {"minimum": 6, "unseen": 0, "knapsack": 21, "fallback": 13, "remainder": 0}


def test_fallback_waits_until_others_have_what_theorem_1_asks():
    assert budgets([0.0, 0.9], 25) == [2, 23]
    assert budgets([0.0, 0.9], 26) == [3, 23]


def test_fallback_confidence_moves_the_share():
    # ln(1 - 0.5) / ln(0.9) = 6.58 and ln(1 - 0.99) / ln(0.9) = 43.7
    assert budgets([0.0, 0.9], 100, fallback_confidence=0.5) == [92, 8]
    assert budgets([0.0, 0.9], 100, fallback_confidence=0.99) == [55, 45]


def test_fallback_of_full_unsolved_prompts_returns_the_rest_to_the_knapsack():
    allocation = knapsack_allocate([0.0, 0.5], 24, n_up=16)
    assert allocation.budgets.tolist() == [16, 8]
    assert sum(allocation.placed.values()) == 24


def test_cost_for_the_fallback_stops_at_the_upper_bound():
    # Theorem 1 asks for 229 rollouts at p = 0.01; only 30 beyond the minimum are allowed.
    assert budgets([0.0, 0.01], 60, n_up=32) == [28, 32]


@pytest.mark.parametrize("p", [5e-324, 1e-300, 1e-17, 1 - 1e-16])
def test_success_rates_next_to_0_and_1_are_handled(p):
    given = budgets([p, 0.0, 0.5], 60)
    assert sum(given) == 60 and min(given) >= 2


def test_tight_budget_gives_everybody_the_minimum():
    assert budgets([NAN, 0.0, 0.3, 1.0], 8) == [2, 2, 2, 2]


def test_loose_budget_gives_everybody_the_maximum():
    assert budgets([NAN, 0.0, 0.3, 1.0], 40, n_up=10) == [10] * 4


def test_equal_bounds_leave_no_choice():
    assert budgets([NAN, 0.0, 0.3, 1.0], 20, n_low=5, n_up=5) == [5] * 4


def test_plateaus_of_a_value_function_are_shared_evenly():
    assert budgets([0.5, 0.5, 0.5], 25, value=capped) == [9, 8, 8]


def test_one_prompt():
    assert budgets([0.3], 17) == [17]


def test_budgets_are_int64_and_inputs_stay_untouched():
    rates = np.array([0.25, NAN, 0.0, 1.0])
    before = rates.copy()
    allocation = knapsack_allocate(rates, np.int32(40), n_low=np.int64(2))
    assert allocation.budgets.dtype == np.int64
    np.testing.assert_array_equal(rates, before)


def test_allocation_is_frozen():
    allocation = knapsack_allocate([0.5], 4)
    with pytest.raises(AttributeError):
        allocation.budgets = None


# --- The original's defects -------------------------------------------------------------------------------------------


def best_total_value(success_rates, total_budget, n_low=2, n_up=128):
    """The optimum of equation 5 by a dynamic programme in plain NumPy over Value(N), N_low <= N <= N_up."""
    best = np.zeros(1)
    for p in success_rates:
        values = (1 - p ** np.arange(n_low, n_up + 1) - (1 - p) ** np.arange(n_low, n_up + 1)) * p * (1 - p) ** 2
        padded = np.full(len(best) + len(values) - 1, -np.inf)
        for extra, value in enumerate(values):
            window = padded[extra : extra + len(best)]
            np.maximum(window, best + value, out=window)
        best = padded[: total_budget - n_low * len(success_rates) + 1]
    return best[total_budget - n_low * len(success_rates)]


@pytest.mark.parametrize("solver", ["greedy", "dp"])
def test_defect_1_the_minimum_has_its_value(solver):
    success_rates = np.random.default_rng(0).uniform(0.01, 0.99, 256)
    allocation = knapsack_allocate(success_rates, 700, solver=solver)
    assert allocation.total_value == pytest.approx(best_total_value(success_rates, 700), rel=1e-12)


def test_defect_2_the_fallback_respects_the_upper_bound():
    given = budgets([0.0, *[1.0] * 255], 2048)
    assert given[0] == 128
    assert max(given) <= 128 and sum(given) == 2048


def test_defect_3_unseen_is_not_unsolved():
    given = budgets([NAN] * 10 + [1.0] * 200 + [0.5] * 46, 2048)
    assert given[:10] == [8] * 10


def test_defect_4_equal_success_rates_can_be_allocated():
    for total_budget in (512, 513, 2047, 2048, 256 * 128):
        given = budgets([0.5] * 256, total_budget)
        assert sum(given) == total_budget
        assert max(given) - min(given) <= 1


# --- Value functions of other estimators ------------------------------------------------------------------------------


def test_rloo_allocates_as_grpo():
    rates = [0.1, 0.5, 0.9, NAN, 0.0]
    assert budgets(rates, 60, value="rloo") == budgets(rates, 60, value="grpo")


def test_reinforce_needs_fewer_rollouts_where_success_is_likely():
    assert budgets([0.1, 0.9], 40, value="reinforce", n_low=1)[1] < budgets([0.1, 0.9], 40)[1]


def test_remax_gives_rollouts_to_those_that_seldom_differ_from_the_greedy_response():
    often, seldom = budgets([0.5, 0.5], 20, value="remax", greedy_match_rates=[0.1, 0.95], n_low=1)
    assert seldom > often


def test_remax_prompt_without_greedy_outcome_is_unseen():
    assert budgets([0.5, 0.4, 0.2], 30, value="remax", greedy_match_rates=[NAN, 0.6, 0.8])[0] == 10


def test_remax_keeps_the_rules_of_solved_and_unsolved_prompts_without_greedy_outcome():
    given = budgets([0.0, 1.0, 0.4], 30, value="remax", greedy_match_rates=[NAN, NAN, 0.6])
    assert given[1] == 2 and given[0] > 2


def test_expected_value_needs_no_rule_for_extremes():
    alpha, beta = np.array([0.5, 8.5, 4.5, 0.5]), np.array([8.5, 0.5, 4.5, 0.5])  # 0/8, 8/8, 4/8, never seen
    allocation = knapsack_allocate(None, 40, value="expected", beliefs=(alpha, beta))
    assert allocation.placed == {"minimum": 8, "unseen": 0, "knapsack": 32, "fallback": 0, "remainder": 0}
    assert allocation.budgets[0] > allocation.budgets[1]
    assert allocation.total_value == pytest.approx(expected_value(allocation.budgets, alpha, beta).sum())


def test_success_rates_do_not_matter_to_the_expected_value():
    beliefs = ([1.0, 2.0], [3.0, 1.0])
    given = budgets([0.0, NAN], 20, value="expected", beliefs=beliefs)
    assert given == budgets(None, 20, value="expected", beliefs=beliefs)


@pytest.mark.parametrize("value", ["grpo", "rloo", "expected"])
def test_groups_of_one_are_refused_where_a_group_is_compared(value):
    with pytest.raises(ValueError, match=f"n_low=1 is too small for value='{value}'.*at least 2.*group of one"):
        knapsack_allocate([0.5], 4, n_low=1, value=value, beliefs=([1.0], [1.0]))


def test_callable_and_dotted_path_equal_the_builtin():
    rates = np.random.default_rng(1).uniform(size=30)
    expected = budgets(rates, 300)
    assert budgets(rates, 300, value=lambda n, p: (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2) == expected
    assert budgets(rates, 300, value="knapsack_rl:grpo_value") == expected
    assert (
        budgets(rates, 300, value=np.vectorize(lambda n, p: (1 - p**n - (1 - p) ** n) * p * (1 - p) ** 2)) == expected
    )


def test_auto_solves_values_that_are_not_concave():
    allocation = knapsack_allocate([0.5, 0.6, 0.4], 24, value=needs_ten)
    assert allocation.total_value == pytest.approx(1.1)
    assert allocation.budgets[:2].min() >= 10


def test_equal_prompts_may_differ_where_the_value_is_not_concave():
    allocation = knapsack_allocate([0.5] * 3, 24, value=needs_ten)
    assert allocation.total_value == pytest.approx(1.0)
    assert allocation.budgets.tolist() == sorted(allocation.budgets, reverse=True)


def test_greedy_refuses_values_that_are_not_concave_and_names_the_first_point():
    with pytest.raises(ValueError, match=r"needs_ten gains more from rollout 10 than from rollout 9 at p=.*0\.25.*N=9"):
        knapsack_allocate([0.25, 1.0], 24, value=needs_ten, solver="greedy")


@pytest.mark.parametrize(
    "adv_estimator, value",
    [
        ("grpo", "grpo"),
        ("rloo", "rloo"),
        ("opo", "grpo"),
        ("gpg", "grpo"),
        ("reinforce_plus_plus_baseline", "grpo"),
        ("reinforce_plus_plus", "reinforce"),
        ("remax", "remax"),
    ],
)
def test_value_follows_the_advantage_estimator(adv_estimator, value):
    assert value_for_adv_estimator(adv_estimator) == value


def test_every_estimator_of_verl_has_a_value_or_is_refused():
    pytest.importorskip("verl")
    from verl.trainer.ppo.core_algos import AdvantageEstimator

    assert set(ADVANTAGE_ESTIMATORS) == {estimator.value for estimator in AdvantageEstimator}
    assert value_for_adv_estimator(AdvantageEstimator.RLOO) == "rloo"
    for estimator in (AdvantageEstimator.GAE, AdvantageEstimator.GRPO_PASSK, "unheard_of"):
        with pytest.raises(ValueError, match="has no value function; those that have one: grpo, rloo, opo"):
            value_for_adv_estimator(estimator)


# --- What an allocation says of itself --------------------------------------------------------------------------------


def test_effective_ratio_is_the_expected_share_of_rollouts_in_mixed_groups():
    rates = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    allocation = knapsack_allocate(rates, 60)
    given = allocation.budgets
    uniform = binom.pmf(0, given, rates) + binom.pmf(given, given, rates)
    assert allocation.expected_effective_ratio == pytest.approx(given @ (1 - uniform) / 60)


def test_effective_ratio_leaves_unseen_prompts_out():
    seen = knapsack_allocate([0.5, 0.5], 16).expected_effective_ratio
    assert knapsack_allocate([0.5, NAN, 0.5], 24).expected_effective_ratio == pytest.approx(seen)


def test_effective_ratio_of_other_estimators_is_that_of_their_gradients():
    rates = [0.2, 0.6]
    reinforce = knapsack_allocate(rates, 20, value="reinforce")
    assert reinforce.expected_effective_ratio == pytest.approx(reinforce.budgets @ np.array(rates) / 20)
    remax = knapsack_allocate(rates, 20, value="remax", greedy_match_rates=[0.8, 0.6])
    assert remax.expected_effective_ratio == pytest.approx(remax.budgets @ np.array([0.2, 0.4]) / 20)
    beliefs = ([1.0, 3.0], [4.0, 2.0])
    expected = knapsack_allocate(None, 20, value="expected", beliefs=beliefs)
    shares = expected_prob_nonzero_gradient(expected.budgets, *beliefs)
    assert expected.expected_effective_ratio == pytest.approx(expected.budgets @ shares / 20)


def test_total_value_is_that_of_the_budgets():
    rates = np.array([0.1, 0.5, NAN, 0.0, 0.9])
    allocation = knapsack_allocate(rates, 50)
    known = ~np.isnan(rates)
    assert allocation.total_value == pytest.approx(grpo_value(allocation.budgets[known], rates[known]).sum())


# --- Homogeneous allocation -------------------------------------------------------------------------------------------


def test_homogeneous_allocation_gives_the_remainder_to_the_first():
    allocation = homogeneous_allocate(3, 8)
    assert allocation.budgets.tolist() == [3, 3, 2]
    assert allocation.budgets.dtype == np.int64
    assert sum(allocation.placed.values()) == 8


def test_homogeneous_allocation_with_estimates_tells_its_ratio():
    rates = np.array([0.0, 0.5, 0.9])
    allocation = homogeneous_allocate(3, 24, success_rates=rates)
    assert allocation.expected_effective_ratio == pytest.approx(np.mean(prob_nonzero_gradient(8, rates)))
    assert allocation.total_value == pytest.approx(grpo_value(8, rates).sum())


def test_homogeneous_allocation_without_estimates_knows_nothing_of_its_ratio():
    assert np.isnan(homogeneous_allocate(3, 24).expected_effective_ratio)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, 3), "total_budget=3 is less than one rollout for each of the 4 prompts"),
        ((0, 3), "num_prompts must be at least 1, got 0"),
        ((2, 3.5), "total_budget must be an integer, got 3.5"),
    ],
)
def test_homogeneous_allocation_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        homogeneous_allocate(*arguments)


def test_homogeneous_allocation_checks_the_number_of_estimates():
    with pytest.raises(ValueError, match="estimates for 2 prompts were given, expected num_prompts=3"):
        homogeneous_allocate(3, 24, success_rates=[0.5, 0.5])


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (([0.5] * 4, 7), {}, "total_budget=7 cannot be placed on 4 prompts with n_low=2 and n_up=128; .* 8 and 512"),
        (([0.5] * 4, 513), {}, "total_budget=513 cannot be placed on 4 prompts .* between 8 and 512"),
        (([0.5], 4, 0), {}, "n_low must be at least 1, got 0"),
        (([0.5], 4, 3, 2), {}, "n_low=3 exceeds n_up=2"),
        (([0.5, 1.5], 8), {}, r"success_rates must lie in \[0, 1\].*prompt 1 has 1.5"),
        (([-0.1, 0.5], 8), {}, "prompt 0 has -0.1"),
        (([0.5, np.inf], 8), {}, "prompt 1 has inf"),
        (([], 8), {}, "at least one prompt; got shape \\(0,\\)"),
        (([[0.5]], 8), {}, "got shape \\(1, 1\\)"),
        ((0.5, 8), {}, "got shape \\(\\)"),
        ((["a"], 8), {}, "success_rates must be numbers"),
        ((None, 8), {}, "success_rates is needed"),
        (([0.5], 8.5), {}, "total_budget must be an integer, got 8.5"),
        (([0.5], True), {}, "total_budget must be an integer, got True"),
        (([0.5], 8, 2.0), {}, "n_low must be an integer, got 2.0"),
        (([0.5], 8, 2, "9"), {}, "n_up must be an integer, got '9'"),
        (([0.5], 8), {"fallback_confidence": 1.0}, "fallback_confidence must lie strictly between 0 and 1, got 1.0"),
        (([0.5], 8), {"fallback_confidence": 0.0}, "got 0.0"),
        (([0.5], 8), {"fallback_confidence": NAN}, "got nan"),
        (([0.5], 8), {"solver": "simplex"}, "solver must be one of auto, greedy, dp, got 'simplex'"),
        (
            ([0.5], 8),
            {"value": "gpro"},
            "unknown value function 'gpro'; expected one of grpo, rloo, reinforce, remax, exp",
        ),
        (([0.5], 8), {"value": 3}, "unknown value function 3"),
        (([0.5], 8), {"value": "no_such_module:f"}, "'no_such_module:f' cannot be imported: No module named"),
        (([0.5], 8), {"value": "math:no_such_function"}, "cannot be imported: .*no_such_function"),
        (([0.5], 8), {"value": "math:pi"}, "'math:pi' is a float, expected a callable"),
        (([0.5], 8), {"value": "remax"}, "value='remax' needs greedy_match_rates"),
        (([0.5], 8), {"value": "remax", "greedy_match_rates": [0.5, 0.5]}, "shape \\(2,\\), expected \\(1,\\)"),
        (([0.5], 8), {"value": "remax", "greedy_match_rates": [2.0]}, r"greedy_match_rates must lie in \[0, 1\]"),
        (([0.5], 8), {"value": "expected"}, r"value='expected' needs beliefs=\(alpha, beta\).*got None"),
        (([0.5], 8), {"value": "expected", "beliefs": ([1.0], [1.0, 2.0])}, r"shapes \(1,\) and \(2,\)"),
        (([0.5], 8), {"value": "expected", "beliefs": ([0.0], [1.0])}, "alpha .* above 0; prompt 0 has 0.0"),
        (([0.5], 8), {"value": "expected", "beliefs": ([1.0], [NAN])}, "beta .* prompt 0 has nan"),
    ],
)
def test_errors_name_the_value(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        knapsack_allocate(*arguments, **options)


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_with_its_p_and_n(bad):
    def value(n, p):
        return np.where((p == 0.25) & (n == 7), bad, p * np.log(n))

    with pytest.raises(ValueError, match=r"value gave (nan|inf|-inf) for p=.*0\.25.*, N=7"):
        knapsack_allocate([0.5, 0.25], 20, value=value, n_up=10)


def test_a_value_function_of_scalars_is_told_how_to_help_itself():
    with pytest.raises(ValueError, match="numpy.vectorize"):
        knapsack_allocate([0.5, 0.25], 20, value=lambda n, p: p if p < 0.5 else 0.0)
    with pytest.raises(ValueError, match="numpy.vectorize"):
        knapsack_allocate([0.5, 0.25], 20, value=lambda n, p: 1.0)


def test_a_dynamic_programme_beyond_the_memory_is_refused():
    with pytest.raises(ValueError, match="for 100000 prompts and 800000 rollouts needs 74.5 GiB.*solver='greedy'"):
        knapsack_allocate(np.full(100_000, 0.5), 1_000_000, value=needs_ten)


def test_budgets_beyond_255_choices_per_prompt():
    rates = [0.001, 0.002]
    exact, greedy = (budgets(rates, 1_000, n_up=700, solver=solver) for solver in ("dp", "greedy"))
    assert exact == greedy and max(exact) > 257


def test_effective_ratio_of_any_budgets():
    rates = [0.5, 1.0, NAN]
    assert expected_effective_ratio([2, 6, 9], success_rates=rates) == pytest.approx(2 * 0.5 / 8)
    with pytest.raises(ValueError, match=r"budgets has shape \(2,\), expected one for each of 3 estimates"):
        expected_effective_ratio([2, 6], success_rates=rates)


def test_resolved_value_functions_can_be_resolved_again_and_called():
    function = resolve_value_function("reinforce")
    assert resolve_value_function(function) is function
    assert function(3, 0.5) == reinforce_value(3, 0.5)


def test_the_file_works_alone_without_torch_ray_verl_or_numba():
    """Another trainer can use the file by itself; numba is needed for the dynamic programme only."""
    script = """
import importlib.util, sys
for blocked in ("torch", "ray", "verl", "numba"):
    sys.modules[blocked] = None
spec = importlib.util.spec_from_file_location("exploration_utils", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["exploration_utils"] = module
spec.loader.exec_module(module)
print(module.knapsack_allocate([0.0, 0.9] + [1.0] * 6, 64).budgets.tolist())
"""
    path = Path(exploration_utils.__file__)
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[29, 23, 2, 2, 2, 2, 2, 2]"
