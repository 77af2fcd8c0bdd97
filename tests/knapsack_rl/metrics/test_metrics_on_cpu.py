"""Exploration metrics by hand-worked steps; every emitted key is explained, and every explained key is emitted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from knapsack_rl.metrics import (
    METRICS,
    allocation_metrics,
    belief_metrics,
    brier_score,
    calibration_error,
    compute_exploration_metrics,
    effective_gradient_metrics,
    gradient_share_metrics,
    imbalance,
    outcome_metrics,
    prediction_metrics,
    token_metrics,
)


def rollouts_of(success_counts, budgets):
    """(prompt_index, successes) of prompts with so many successes among so many rollouts."""
    prompt_index = np.repeat(np.arange(len(budgets)), budgets)
    successes = np.concatenate([np.arange(n) < s for s, n in zip(success_counts, budgets, strict=True)])
    return prompt_index, successes


def mixed_step():
    """Five prompts, one of each difficulty, as keyword arguments of compute_exploration_metrics."""
    budgets = np.array([4, 10, 4, 10, 2])
    prompt_index, successes = rollouts_of([0, 2, 2, 8, 2], budgets)
    return {
        "prompt_index": prompt_index,
        "successes": successes,
        "scores": np.where(successes, 1.0, -1.0),
        "effective": np.isin(prompt_index, [1, 2, 3]),
        "success_rates": np.array([0.0, 0.5, np.nan, 0.8, 1.0]),
        "budgets": budgets,
        "n_low": 2,
        "n_up": 10,
        "fallback_rollouts": 2,
        "predicted_shares": np.array([0.0, 1.0, np.nan, 1.0, 0.0]),
    }


def test_every_metric_is_explained_and_every_explanation_has_its_metric():
    step = mixed_step()
    emitted = compute_exploration_metrics(**step).keys() | (
        imbalance(step["prompt_index"], 2, np.ones(30), worker_seconds=np.ones(2)).keys()
        | token_metrics(step["budgets"], np.ones(len(step["budgets"])), np.ones(30), max_tokens=30.0).keys()
        | gradient_share_metrics(step["prompt_index"], np.ones(30)).keys()
    )
    assert emitted == METRICS.keys()
    for key, description in METRICS.items():
        assert all(description), f"{key} is not explained in full"


def test_metrics_are_plain_numbers():
    for key, value in compute_exploration_metrics(**mixed_step()).items():
        assert type(value) is float and np.isfinite(value), key


def test_effective_gradients_are_counted_by_rollout_and_by_prompt():
    step = mixed_step()
    assert effective_gradient_metrics(step["prompt_index"], step["effective"], 5) == {
        "training/effective_gradient_ratio": 24 / 30,
        "training/effective_prompt_ratio": 3 / 5,
        "training/num_effective_prompts": 3.0,
        "training/num_effective_samples": 24.0,
    }


def test_a_prompt_with_one_effective_rollout_is_effective():
    metrics = effective_gradient_metrics(np.array([0, 0, 1]), np.array([False, True, False]), 2)
    assert metrics["training/num_effective_prompts"] == 1.0
    assert metrics["training/num_effective_samples"] == 1.0


def test_outcomes_of_one_prompt_of_each_difficulty():
    step = mixed_step()
    metrics = outcome_metrics(step["prompt_index"], step["successes"], step["scores"], 5)
    for difficulty in ("extremely_hard", "hard", "medium", "easy", "extremely_easy"):
        assert metrics[f"prompt/{difficulty}_count"] == 1.0
        assert metrics[f"prompt/{difficulty}_ratio"] == 0.2
    assert metrics["prompt/all_negative_ratio"] == 0.2
    assert metrics["prompt/all_positive_ratio"] == 0.2
    assert metrics["prompt/positive_coverage_ratio"] == 0.8
    assert metrics["prompt/negative_coverage_ratio"] == 0.8


@pytest.mark.parametrize(
    ("successes", "rollouts", "difficulty"),
    [
        (0, 8, "extremely_hard"),
        (1, 128, "hard"),
        (3, 15, "hard"),
        (7, 34, "medium"),
        (27, 34, "medium"),
        (12, 15, "easy"),
        (127, 128, "easy"),
        (8, 8, "extremely_easy"),
    ],
)
def test_difficulty_bounds(successes, rollouts, difficulty):
    prompt_index, outcomes = rollouts_of([successes], [rollouts])
    metrics = outcome_metrics(prompt_index, outcomes, outcomes, 1)
    counts = {key: value for key, value in metrics.items() if key.endswith("_count")}
    assert counts.pop(f"prompt/{difficulty}_count") == 1.0
    assert set(counts.values()) == {0.0}


def test_the_prompt_mean_score_does_not_weight_by_budget():
    prompt_index, successes = rollouts_of([0, 2], [98, 2])
    metrics = outcome_metrics(prompt_index, successes, np.where(successes, 1.0, 0.0), 2)
    assert metrics["training/prompt_mean_score"] == 0.5


def test_prompts_without_rollouts_are_left_out():
    metrics = outcome_metrics(np.array([2, 2]), np.array([True, False]), np.array([1.0, 0.0]), 4)
    assert metrics["prompt/medium_count"] == 1.0
    assert metrics["prompt/medium_ratio"] == 1.0


def test_the_order_of_rollouts_does_not_matter():
    step = mixed_step()
    shuffle = np.random.default_rng(0).permutation(30)
    columns = ("prompt_index", "successes", "scores", "effective")
    shuffled = {**step, **{name: step[name][shuffle] for name in columns}}
    assert compute_exploration_metrics(**shuffled) == pytest.approx(compute_exploration_metrics(**step))


def test_allocation_of_the_papers_table_3():
    metrics = allocation_metrics(
        np.array([29, 23, 2, 2, 2, 2, 2, 2]), np.array([0, 0.9, 1, 1, 1, 1, 1, 1]), 2, 128, fallback_rollouts=27
    )
    assert metrics == {
        "allocation/max_budget": 29.0,
        "allocation/min_budget": 2.0,
        "allocation/mean_budget": 8.0,
        "allocation/covered_prompts": 1.0,
        "allocation/budget_fallback": 27.0,
        "allocation/unseen_ratio": 0.0,
        "allocation/at_n_low_ratio": 0.75,
        "allocation/at_n_up_ratio": 0.0,
        "allocation/mean_budget_unsolved": 29.0,
        "allocation/mean_budget_mixed": 23.0,
        "allocation/mean_budget_solved": 2.0,
    }


@pytest.mark.parametrize(
    ("rate", "budget", "covered"),
    [(0.9, 22, 1.0), (0.9, 21, 0.0), (0.01, 230, 1.0), (0.01, 229, 0.0), (0.0, 1000, 0.0), (1.0, 1000, 0.0)],
)
def test_covered_prompts_reach_the_cost_of_theorem_1(rate, budget, covered):
    metrics = allocation_metrics(np.array([budget]), np.array([rate]), 2, 1000)
    assert metrics["allocation/covered_prompts"] == covered


def test_unseen_prompts_are_counted_and_belong_to_no_class():
    metrics = allocation_metrics(np.array([8, 8]), np.array([np.nan, np.nan]), 2, 8)
    assert metrics["allocation/unseen_ratio"] == 1.0
    assert metrics["allocation/at_n_up_ratio"] == 1.0
    assert not any(key.startswith("allocation/mean_budget_") for key in metrics)


def test_the_forecast_is_compared_on_the_prompts_that_have_one():
    prompt_index, effective = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([True] * 4 + [False] * 2 + [True] * 2)
    metrics = prediction_metrics(prompt_index, effective, np.array([4, 2, 2]), np.array([0.75, 0.5, np.nan]))
    assert metrics == {
        "allocation/predicted_effective_gradient_ratio": pytest.approx(4 / 6),
        "allocation/observed_effective_gradient_ratio": pytest.approx(4 / 6),
        "allocation/effective_gradient_ratio_error": pytest.approx(0.0),
    }


def test_without_a_forecast_there_is_nothing_to_compare():
    assert prediction_metrics(np.array([0, 0]), np.array([True, True]), np.array([2]), np.array([np.nan])) == {}


def test_of_a_prompt_that_was_not_sampled_there_is_nothing_to_compare():
    assert prediction_metrics(np.array([0, 0]), np.array([True, True]), np.array([2, 2]), np.array([np.nan, 0.5])) == {}


def test_the_first_epoch_has_no_beliefs():
    step = {**mixed_step(), "success_rates": np.full(5, np.nan), "predicted_shares": np.full(5, np.nan)}
    metrics = compute_exploration_metrics(**step)
    assert not any(key.startswith("beliefs/") for key in metrics)
    assert all(np.isfinite(value) for value in metrics.values())


def test_beliefs_are_scored_on_seen_prompts_each_counted_once():
    prompt_index, successes = rollouts_of([10, 0, 3], [10, 2, 3])
    metrics = belief_metrics(prompt_index, successes, np.array([0.5, 0.1, np.nan]))
    assert metrics["beliefs/mean_estimate"] == pytest.approx(0.3)
    assert metrics["beliefs/mean_observed"] == 0.5
    assert metrics["beliefs/brier_score"] == pytest.approx((0.25 + 0.01) / 2)
    assert metrics["beliefs/calibration_error"] == pytest.approx((0.5 + 0.1) / 2)


def test_the_gradient_is_shared_out_by_the_rollouts_of_its_prompts():
    budgets = np.array([1, 2, 3, 8, 128, 300])
    prompt_index = np.repeat(np.arange(6), budgets)
    metrics = gradient_share_metrics(prompt_index, (1.0 / budgets)[prompt_index])
    shares = {key.removeprefix("gradient_share/budget_"): share for key, share in metrics.items() if "budget" in key}
    assert shares == pytest.approx(
        {"1": 1 / 6, "2_3": 2 / 6, "4_7": 0, "8_15": 1 / 6, "16_31": 0, "32_63": 0, "64_127": 0, "128_up": 2 / 6}
    )
    assert metrics["gradient_share/largest_prompt"] == pytest.approx(1 / 6)
    assert metrics["gradient_share/prompts"] == pytest.approx(6)


def test_prompts_without_a_gradient_count_by_nothing_but_have_their_range():
    metrics = gradient_share_metrics(np.array([0, 0, 3, 3, 3, 3]), np.array([2.0, 2.0, 0, 0, 0, 0]))
    assert metrics["gradient_share/budget_2_3"] == metrics["gradient_share/largest_prompt"] == 1.0
    assert metrics["gradient_share/budget_4_7"] == 0.0 and metrics["gradient_share/prompts"] == 1.0


def test_a_step_without_a_gradient_has_no_shares():
    assert gradient_share_metrics(np.array([0, 0]), np.zeros(2)) == {}


counted_prompts = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 8), st.integers(0, 8)).map(lambda row: (row[0], row[1], row[1] + row[2])),
    min_size=1,
    max_size=30,
)


@given(prompts=counted_prompts)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_brier_score_is_its_definition_over_single_outcomes(prompts):
    predicted, successes, rollouts = (np.array(column) for column in zip(*prompts, strict=True))
    per_prompt = [np.mean([(p - (k < s)) ** 2 for k in range(n)]) for p, s, n in prompts if n]
    expected = np.mean(per_prompt) if per_prompt else np.nan
    np.testing.assert_allclose(brier_score(predicted, successes, rollouts), expected, atol=1e-12)


@given(observed=st_numpy.arrays(np.int64, 12, elements=st.integers(0, 10)), other=st.floats(0, 1))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_no_prediction_beats_the_observed_rate(observed, other):
    rollouts = np.full(12, 10)
    assert brier_score(observed / 10, observed, rollouts) <= brier_score(np.full(12, other), observed, rollouts) + 1e-12


@given(prompts=counted_prompts, bins=st.integers(1, 20))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_calibration_error_is_its_definition_over_bins(prompts, bins):
    known = [(p, s / n) for p, s, n in prompts if n]
    error = 0.0
    for lower in range(bins):
        members = [(p, rate) for p, rate in known if min(int(p * bins), bins - 1) == lower]
        if members:
            error += abs(np.mean([p for p, _ in members]) - np.mean([rate for _, rate in members])) * len(members)
    predicted, successes, rollouts = (np.array(column) for column in zip(*prompts, strict=True))
    expected = error / len(known) if known else np.nan
    np.testing.assert_allclose(calibration_error(predicted, successes, rollouts, bins), expected, atol=1e-12)


def test_calibrated_predictions_have_little_error_and_biased_ones_their_bias():
    random = np.random.default_rng(0)
    predicted = random.random(20_000) * 0.8
    rollouts = np.full(20_000, 8)
    calibrated = calibration_error(predicted, random.binomial(rollouts, predicted), rollouts)
    biased = calibration_error(predicted, random.binomial(rollouts, predicted + 0.2), rollouts)
    assert calibrated < 0.01
    assert biased == pytest.approx(0.2, abs=0.01)


def test_certain_predictions_belong_to_the_last_bin():
    predicted, successes, rollouts = np.array([0.95, 1.0]), np.array([20, 19]), np.array([20, 20])
    assert calibration_error(predicted, successes, rollouts) == pytest.approx(0.0)


def test_unseen_and_unsampled_prompts_are_not_scored():
    predicted, successes, rollouts = np.array([np.nan, 0.5, 1.0]), np.array([3, 0, 2]), np.array([4, 0, 2])
    assert brier_score(predicted, successes, rollouts) == 0.0
    assert calibration_error(predicted, successes, rollouts) == 0.0
    assert np.isnan(brier_score(predicted[:2], successes[:2], rollouts[:2]))
    assert np.isnan(calibration_error(predicted[:2], successes[:2], rollouts[:2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: brier_score(np.array([0.5]), np.array([1, 1]), np.array([2, 2])), r"got \(1,\) and \(2,\)"),
        (lambda: brier_score(np.array([1.5]), np.array([1]), np.array([2])), r"in \[0, 1\], got 1.5"),
        (lambda: brier_score(np.array([0.5]), np.array([3]), np.array([2])), "3 successes among 2 rollouts"),
        (lambda: brier_score(np.array([0.5]), np.array([-1]), np.array([2])), "-1 successes among 2 rollouts"),
        (lambda: calibration_error(np.array([0.5]), np.array([1]), np.array([2]), bins=0), "at least 1, got 0"),
        (lambda: effective_gradient_metrics(np.array([0, 2]), np.array([True, True]), 2), r"\[0, 2\), got 0 to 2"),
        (lambda: effective_gradient_metrics(np.array([0, -1]), np.array([True, True]), 2), "got -1 to 0"),
        (lambda: effective_gradient_metrics(np.array([], dtype=int), np.array([]), 2), "at least one rollout"),
        (lambda: gradient_share_metrics(np.array([], dtype=int), np.array([])), "at least one rollout"),
        (lambda: gradient_share_metrics(np.array([0, 0]), np.array([1.0])), "prompt_index and pull"),
        (lambda: outcome_metrics(np.array([0, 0]), np.array([True]), np.array([1.0, 1.0]), 1), "successes"),
        (lambda: allocation_metrics(np.array([1, 2]), np.array([0.5]), 1, 8), "budgets and success_rates"),
    ],
)
def test_what_does_not_fit_together_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
