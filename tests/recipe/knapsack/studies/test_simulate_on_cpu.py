"""Simulation against a clairvoyant allocator: the population it claims, the bound, reproducibility, output."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import expit

from recipe.knapsack.studies.simulate import main, simulate, summarise
from recipe.knapsack.studies.simulated_prompts import PHASES, Population, StandingFilter, fit_mean_and_spread

SMALL = {"num_prompts": 640, "batch_size": 64, "num_steps": 60}


@pytest.fixture(scope="module")
def result():
    return simulate(**SMALL)


@pytest.mark.parametrize("progress, all_failed, all_solved", PHASES)
def test_population_shows_the_papers_shares(progress, all_failed, all_solved):
    population = Population(200_000, 1_000, 0.95, np.random.default_rng(0))
    rates = population.success_rates(round(progress * 1_000))
    assert np.mean((1 - rates) ** 8) == pytest.approx(all_failed, abs=0.01)
    assert np.mean(rates**8) == pytest.approx(all_solved, abs=0.01)


def test_homogeneous_ratio_has_the_papers_three_phases():
    """Figure 2: next to nothing at first, 40 to 60 % in the middle, falling at the end."""
    ratios = [1 - all_failed - all_solved for _, all_failed, all_solved in PHASES]
    assert ratios[0] < 0.05
    assert all(0.4 <= ratio < 0.6 for ratio in ratios[1:4])
    assert 0.2 <= ratios[4] < 0.35


def test_fit_recovers_a_known_population():
    rates = expit(-1.0 + 2.0 * np.random.default_rng(1).standard_normal(2_000_000))
    mean, spread = fit_mean_and_spread(float(np.mean((1 - rates) ** 8)), float(np.mean(rates**8)))
    assert (mean, spread) == pytest.approx((-1.0, 2.0), abs=0.02)


def test_standing_keeps_its_spread_and_the_given_correlation():
    population = Population(100_000, 10, 0.8, np.random.default_rng(2))
    before = np.log(population.success_rates(5) / (1 - population.success_rates(5)))
    population.end_epoch()
    after = np.log(population.success_rates(5) / (1 - population.success_rates(5)))
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(0.8, abs=0.01)
    assert np.std(after) == pytest.approx(np.std(before), rel=0.02)


def test_the_filter_has_the_posterior_of_the_integrals():
    """Oracle: logit p = -1 + 2 z with z standard normal, 3 of 10 rollouts right, numerical integration."""
    standings = StandingFilter(2, 0.95)
    rates = expit(-1.0 + 2.0 * standings.grid)
    standings.observe(np.array([1]), np.array([3]), np.array([10]), rates)

    def joint(z: float) -> float:
        p = expit(-1.0 + 2.0 * z)
        return p**3 * (1 - p) ** 7 * np.exp(-(z**2) / 2)

    mean = quad(lambda z: z * joint(z), -8, 8)[0] / quad(joint, -8, 8)[0]
    square = quad(lambda z: z**2 * joint(z), -8, 8)[0] / quad(joint, -8, 8)[0]
    assert standings.weights[1] @ standings.grid == pytest.approx(mean, abs=1e-6)
    assert standings.weights[1] @ standings.grid**2 == pytest.approx(square, abs=1e-6)
    assert standings.weights[0] @ standings.grid == pytest.approx(0.0, abs=1e-9)  # nothing was observed of it

    standings.end_epoch()
    assert standings.weights.sum(axis=1) == pytest.approx(1.0)
    assert standings.weights[1] @ standings.grid == pytest.approx(0.95 * mean, abs=1e-3)
    assert standings.weights[1] @ standings.grid**2 == pytest.approx(0.95**2 * square + 1 - 0.95**2, abs=1e-3)


def test_the_filter_expects_no_drift_where_there_is_none():
    standings = StandingFilter(1, 1.0)
    standings.observe(np.array([0]), np.array([2]), np.array([2]), expit(standings.grid))
    before = standings.weights.copy()
    standings.end_epoch()
    np.testing.assert_allclose(standings.weights, before, atol=1e-12)


def test_no_estimator_reaches_the_value_of_the_exact_posterior(result):
    summary = summarise(result)
    values = {name: summary[name]["value / clairvoyant"] for name in result.names}
    assert values.pop("clairvoyant") == 1.0
    assert max(values, key=values.get) == "exact posterior"


def test_nobody_beats_the_value_of_the_clairvoyant_allocator_at_any_step(result):
    bound = result.values[result.names.index("clairvoyant")]
    assert np.all(result.values <= bound * (1 + 1e-12))


def test_first_epoch_is_homogeneous_for_the_papers_estimator(result):
    homogeneous, previous = (result.names.index(name) for name in ("homogeneous", "previous_epoch"))
    first_epoch = slice(0, SMALL["num_prompts"] // SMALL["batch_size"])
    np.testing.assert_array_equal(result.values[previous, first_epoch], result.values[homogeneous, first_epoch])
    assert not np.array_equal(result.values[previous], result.values[homogeneous])


def test_knapsack_raises_the_effective_ratio(result):
    summary = summarise(result)
    for name in ("previous_epoch", "window", "beta", "beta, expected value"):
        assert summary["homogeneous"]["ratio"] < summary[name]["ratio"]
    assert summary["clairvoyant"]["ratio / clairvoyant"] == 1.0


def test_same_seed_same_result(result):
    again, other = simulate(**SMALL), simulate(**SMALL, seed=1)
    np.testing.assert_array_equal(again.ratios, result.ratios)
    assert not np.array_equal(other.ratios, result.ratios)


def test_command_line_prints_json_and_draws(tmp_path, capsys):
    picture = tmp_path / "bound.png"
    arguments = ["--num-prompts", "320", "--batch-size", "32", "--num-steps", "30"]
    assert main([*arguments, "--json", "--picture", str(picture)]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"homogeneous", "previous_epoch", "clairvoyant"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_command_line_can_switch_the_fallback_off(result, capsys):
    """Without it rollouts move to prompts that are sure to give a gradient, away from hard ones of a high value."""
    sizes = [f"--{name.replace('_', '-')}={number}" for name, number in SMALL.items()]
    assert main([*sizes, "--json", "--no-fallback"]) == 0
    without, usual = json.loads(capsys.readouterr().out), summarise(result)
    for name in ("previous_epoch", "window"):
        assert without[name]["ratio"] > usual[name]["ratio"]
        assert without[name]["value / clairvoyant"] < usual[name]["value / clairvoyant"]
    # The mean of a Beta belief is never 0, and the other two estimate nothing.
    for name in ("homogeneous", "beta", "beta, expected value", "exact posterior", "clairvoyant"):
        assert without[name] == usual[name]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_prompts": 10, "batch_size": 11}, "batch_size=11 is not possible with num_prompts=10"),
        ({"epoch_correlation": 1.5}, r"epoch_correlation must lie in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(**options)


def test_command_line_reports_errors_in_one_line(capsys):
    assert main(["--num-prompts", "10"]) == 2
    assert capsys.readouterr().err == "error: batch_size=256 is not possible with num_prompts=10\n"
