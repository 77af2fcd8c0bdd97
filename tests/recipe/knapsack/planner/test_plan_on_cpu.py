"""Budget planner: what it predicts, what it reads, what it prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from knapsack_rl import knapsack_allocate
from knapsack_rl.task_status import TaskStatus
from recipe.knapsack.planner.budget_plan import (
    LARGEST_UNIFORM_ROLLOUTS,
    budget_histogram,
    make_plan,
    uniform_ratio,
    uniform_rollouts_to_match,
)
from recipe.knapsack.planner.plan import main
from recipe.knapsack.planner.population import PlanError, Population, beliefs_from_counts, load_population


def synthetic_rates(num_prompts=1_000, seed=0):
    """True success rates, and those observed in 8 rollouts each."""
    generator = np.random.default_rng(seed)
    true_rates = generator.beta(0.5, 0.5, num_prompts)
    return true_rates, generator.binomial(8, true_rates) / 8


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "rates.csv"
    pd.DataFrame({"id": range(300), "pass_rate": synthetic_rates(300)[1], "tries": 8}).to_csv(path, index=False)
    return path


# --- Predictions ------------------------------------------------------------------------------------------------------


def test_one_batch_is_the_allocation_itself():
    rates = np.array([0.0, 0.9, *[1.0] * 6])
    plan = make_plan(Population(rates), batch_size=8, total_budget=64)
    allocation = knapsack_allocate(rates, 64)
    assert plan.knapsack_ratio == pytest.approx(allocation.expected_effective_ratio)
    assert plan.homogeneous_ratio == pytest.approx((1 - 0.9**8 - 0.1**8) / 8)
    assert plan.rollouts_by_rule == {"minimum": 16, "unseen": 0, "knapsack": 21, "fallback": 27, "remainder": 0}
    assert plan.rollouts_per_unsolved_prompt == 29
    assert plan.rollouts_per_unsolved_prompt_without_fallback == 2
    assert plan.largest_budget == 29
    assert plan.histogram["2-3"] == 6 and plan.histogram["16-31"] == 2


def test_every_prompt_of_the_full_batches_is_counted_once():
    plan = make_plan(Population(synthetic_rates(1_000)[1]), batch_size=300, total_budget=2_400)
    assert sum(plan.histogram.values()) == 900
    assert sum(plan.rollouts_by_rule.values()) == pytest.approx(2_400)


def test_prediction_from_beliefs_is_what_the_true_success_rates_give():
    true_rates, observed = synthetic_rates(8_192)
    beliefs = beliefs_from_counts(observed, np.full(len(observed), 8.0))
    plan = make_plan(Population(observed, beliefs), batch_size=len(observed), total_budget=8 * len(observed))

    def realised(budgets):
        uniform = binom.pmf(0, budgets, true_rates) + binom.pmf(budgets, budgets, true_rates)
        return budgets @ (1 - uniform) / budgets.sum()

    order = np.random.default_rng(0).permutation(len(observed))
    budgets = np.empty(len(observed), dtype=np.int64)
    budgets[order] = knapsack_allocate(observed[order], 8 * len(observed)).budgets
    assert plan.knapsack_ratio == pytest.approx(realised(budgets), abs=0.01)
    assert plan.homogeneous_ratio == pytest.approx(realised(np.full(len(observed), 8)), abs=0.01)


def test_matching_uniform_rollouts_are_the_smallest_that_reach_the_ratio():
    population = Population(synthetic_rates()[1])
    needed = uniform_rollouts_to_match(population, 0.5)
    assert uniform_ratio(population, needed) >= 0.5 > uniform_ratio(population, needed - 1)


def test_a_ratio_beyond_all_uniform_allocations_has_no_match():
    population = Population(np.array([0.0, 1.0, 0.5]))
    assert uniform_ratio(population, LARGEST_UNIFORM_ROLLOUTS) == pytest.approx(1 / 3)
    assert uniform_rollouts_to_match(population, 0.34) is None
    plan = make_plan(population, batch_size=3, total_budget=24, fallback=False)
    assert plan.knapsack_ratio > 1 / 3 and plan.matching_uniform_rollouts is None


def test_without_fallback_unsolved_prompts_keep_their_minimum():
    plan = make_plan(Population(np.array([0.0, 0.9, 1.0])), batch_size=3, total_budget=60, fallback=False)
    assert plan.rollouts_by_rule["fallback"] == 0
    assert plan.rollouts_per_unsolved_prompt > plan.rollouts_per_unsolved_prompt_without_fallback == 2


def test_unseen_prompts_alone_give_no_ratio():
    plan = make_plan(Population(np.full(4, np.nan)), batch_size=4, total_budget=32)
    assert np.isnan(plan.knapsack_ratio) and np.isnan(plan.homogeneous_ratio)
    assert plan.matching_uniform_rollouts is None
    assert plan.rollouts_per_unsolved_prompt is None


def test_batches_depend_on_the_seed_only():
    population = Population(synthetic_rates()[1])
    plans = [make_plan(population, batch_size=64, total_budget=512, seed=seed) for seed in (3, 3, 4)]
    assert plans[0] == plans[1] != plans[2]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(PlanError, match="batch size 5 is not possible with 4 prompts"):
        make_plan(Population(np.full(4, 0.5)), batch_size=5, total_budget=40)


@pytest.mark.parametrize("budget, label", [(1, "1"), (2, "2-3"), (4, "4-7"), (127, "64-127"), (128, "128-255")])
def test_histogram_bins(budget, label):
    histogram = budget_histogram(np.array([budget]))
    assert histogram[label] == 1 and sum(histogram.values()) == 1


# --- Input ------------------------------------------------------------------------------------------------------------


def test_csv_and_parquet_read_the_same(csv_file, tmp_path):
    parquet_file = tmp_path / "rates.parquet"
    pd.read_csv(csv_file).to_parquet(parquet_file)
    from_csv, from_parquet = (load_population(path, column="pass_rate") for path in (csv_file, parquet_file))
    np.testing.assert_array_equal(from_csv.success_rates, from_parquet.success_rates)
    assert from_csv.beliefs is None


def test_empty_cells_are_unseen_prompts(tmp_path):
    path = tmp_path / "rates.csv"
    path.write_text("name,success_rate\na,0.5\nb,\nc,1\n")
    population = load_population(path, observed_rollouts="4")
    assert population.counts() == {"prompts": 3, "unseen": 1, "rate_zero": 0, "rate_between": 1, "rate_one": 1}
    # One prior rollout at the mean of 0.5 and 1.
    np.testing.assert_allclose(population.beliefs[0], [2.75, 0.75, 4.75])
    np.testing.assert_allclose(population.beliefs[1], [2.25, 0.25, 0.25])


def test_observed_rollouts_from_a_column(csv_file):
    by_number = load_population(csv_file, column="pass_rate", observed_rollouts="8")
    by_column = load_population(csv_file, column="pass_rate", observed_rollouts="tries")
    np.testing.assert_array_equal(by_number.beliefs, by_column.beliefs)


@pytest.fixture
def status_file(tmp_path):
    status = TaskStatus("previous_epoch")
    prompts = [f"prompt {i}" for i in range(4) for _ in range(8)]
    successes = np.concatenate([np.arange(8) < solved for solved in (0, 3, 6, 8)])
    status.observe(prompts, successes, epoch=0, step=1, greedy_successes=np.repeat([0, 0, 1, 1], 8))
    path = tmp_path / "task_status.npz"
    status.save(path)
    return path


def test_a_task_status_gives_the_rates_of_its_next_epoch(status_file):
    population = load_population(status_file)
    np.testing.assert_allclose(population.success_rates, [0, 3 / 8, 6 / 8, 1])
    np.testing.assert_allclose(population.greedy_match_rates, [1, 5 / 8, 6 / 8, 1])
    np.testing.assert_allclose(np.sum(population.beliefs, axis=0), 9)


def test_a_task_status_can_be_read_with_another_estimator(status_file):
    rates = load_population(status_file, estimator="beta").success_rates
    assert 0 < rates[0] < 0.1 and 0.9 < rates[3] < 1


@pytest.mark.parametrize("value", ["grpo", "rloo", "reinforce", "remax", "expected"])
def test_every_value_can_be_planned_from_a_task_status(status_file, value, capsys):
    assert main([str(status_file), "--value", value, "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert [plan["total_budget"] for plan in plans] == [16, 32, 64]
    assert all(0 < plan["knapsack_ratio"] <= 1 for plan in plans)


# --- Command line -----------------------------------------------------------------------------------------------------


def test_json_lists_every_combination(csv_file, capsys):
    arguments = ["--column", "pass_rate", "--batch-size", "100", "--total-budget", "800", "1600"]
    assert main([str(csv_file), *arguments, "--n-low", "2", "4", "--n-up", "16", "64", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["population"]["prompts"] == 300
    choices = [(plan["total_budget"], plan["n_low"], plan["n_up"]) for plan in document["plans"]]
    assert choices == [(b, low, up) for b in (800, 1600) for low in (2, 4) for up in (16, 64)]


def test_json_has_null_where_nothing_is_known(tmp_path, capsys):
    path = tmp_path / "rates.csv"
    path.write_text("name,success_rate\na,\nb,\n")
    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"][0]["knapsack_ratio"] is None


def test_table_shows_ratios_and_histogram(csv_file, capsys):
    assert main([str(csv_file), "--column", "pass_rate", "--batch-size", "100", "--total-budget", "800"]) == 0
    printed = capsys.readouterr().out
    plan = make_plan(load_population(csv_file, column="pass_rate"), batch_size=100, total_budget=800)
    assert "300 prompts" in printed and "face value" in printed
    assert f"{plan.homogeneous_ratio:.1%}" in printed and f"{plan.knapsack_ratio:.1%}" in printed
    assert f"fallback {plan.rollouts_by_rule['fallback']:.0f}" in printed or plan.rollouts_by_rule["fallback"] == 0
    assert "8-15 rollouts" in printed


@pytest.mark.parametrize(
    "estimator, counts",
    [
        ("previous_epoch", "1 with p = 0, 2 with 0 < p < 1, 1 with p = 1, 0 unseen\n"),
        ("beta", "0 with p = 0, 4 with 0 < p < 1, 0 with p = 1, 0 unseen; beta estimates are never 0 or 1\n"),
    ],
)
def test_the_table_counts_prompts_by_estimate_and_not_by_what_was_solved(status_file, estimator, counts, capsys):
    assert main([str(status_file), "--estimator", estimator]) == 0
    printed = capsys.readouterr().out
    assert f"4 prompts by estimated success rate: {counts}" in printed
    assert "never solved" not in printed


def test_picture_is_written(csv_file, tmp_path):
    picture = tmp_path / "new folder" / "plan.png"
    assert main([str(csv_file), "--column", "pass_rate", "--n-up", "32", "128", "--picture", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["missing.csv"], "missing.csv"),
        (["rates.txt"], "expected a file named .npz .task status., .csv or .parquet, got '.txt'"),
        (["rates.csv"], "no column 'success_rate'; it has id, pass_rate, tries"),
        (["rates.csv", "--column", "tries"], "must hold success rates between 0 and 1, found 8.0 in row 0"),
        (["rates.csv", "--column", "pass_rate", "--value", "expected"], "--value expected needs --observed-rollouts"),
        (["rates.csv", "--column", "pass_rate", "--value", "remax"], "needs greedy_match_rates"),
        (["rates.csv", "--column", "pass_rate", "--observed-rollouts", "0"], "must be above 0"),
        (["rates.csv", "--column", "pass_rate", "--batch-size", "301"], "batch size 301 is not possible"),
        (["rates.csv", "--column", "pass_rate", "--batch-size", "0"], "expected --batch-size from 1 to 300"),
        (["rates.csv", "--column", "pass_rate", "--estimator", "beta"], "--estimator beta .* rates.csv is a table"),
        (["empty.csv"], "empty.csv cannot be read"),
        (["rates.csv", "--column", "pass_rate", "--total-budget", "5"], "total_budget=5 cannot be placed"),
        (["rates.csv", "--column", "pass_rate", "--n-low", "1"], "n_low=1 is too small"),
    ],
)
def test_errors_are_one_line_and_name_what_is_wrong(csv_file, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.txt").write_text("0.5\n")
    (tmp_path / "empty.csv").touch()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err


def test_an_empty_cell_is_an_untried_prompt_also_where_it_is_the_whole_line(tmp_path):
    file = tmp_path / "rates.csv"
    file.write_text("success_rate\n0.5\n\n0.25\n")
    population = load_population(file)
    assert len(population) == 3 and population.estimates()["success_rates"].tolist()[::2] == [0.5, 0.25]
    assert np.isnan(population.estimates()["success_rates"][1])


def test_runs_as_a_module_and_explains_itself():
    run = subprocess.run(
        [sys.executable, "-m", "recipe.knapsack.plan", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("task_status.npz", "--total-budget", "--n-up", "--json", "--picture", "effective-gradient ratio"):
        assert word in run.stdout
