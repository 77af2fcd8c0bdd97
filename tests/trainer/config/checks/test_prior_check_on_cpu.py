"""Prior success rates are refused before Ray starts where they cannot be used."""

import numpy as np
import pandas as pd
import pytest
from verl_rows import row

from knapsack_rl import prompt_id
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.prior import check_prior, check_similar_by

KEY = "exploration.success_rate.prior"


@pytest.fixture
def data(tmp_path):
    def write(**columns):
        rows = [row(number, **{name: values[number] for name, values in columns.items()}) for number in range(4)]
        pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
        return {"data.train_files": str(tmp_path / "train.parquet"), "data.val_files": str(tmp_path / "train.parquet")}

    return write


def prior_file(tmp_path, rates, ids=None):
    ids = [prompt_id("sums", row(number)["prompt"]) for number in range(len(rates))] if ids is None else ids
    pd.DataFrame({"prompt_id": ids, "success_rate": rates}).to_csv(tmp_path / "prior.csv", index=False)
    return {KEY: str(tmp_path / "prior.csv")}


def test_a_file_and_a_column_that_can_be_used_pass(refusal, data, tmp_path):
    assert refusal(check_prior, {**data(), **prior_file(tmp_path, [0.0, 0.5])}) == ""
    assert refusal(check_prior, {**data(pass_rate=[0.0, 0.5, 1, 1]), KEY: "pass_rate"}) == ""
    assert refusal(check_prior, data()) == ""


@pytest.mark.parametrize(
    ("rates", "ids", "said"),
    [
        ([0.5, 1.5], None, "holds 1.5 in row 1"),
        ([0.5, np.nan], None, "holds None in row 1"),
        ([0.5, 0.5], ["a", "a"], "has prompt a in row 0 and in row 1"),
        ([0.5], ["0" * 32], "has 1 of 1 prompts that are not in the training data, the first of them 00000"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(refusal, data, tmp_path, rates, ids, said):
    message = refusal(check_prior, {**data(), **prior_file(tmp_path, rates, ids)})
    assert KEY in message and said in message


def test_a_file_that_is_missing_is_refused_where_training_starts(refusal, data, tmp_path):
    settings = {**data(), KEY: str(tmp_path / "no.parquet")}
    assert "no.parquet does not exist" in refusal(check_prior, settings)
    assert refusal(check_prior, settings, Facts(trains_here=False)) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5, 2.0, 0.5, 0.5], "holds 2.0 in row 1"),
        ([0.5, 0.5, None, 0.5], "in row 2: expected a success rate"),
        (["0.5"] * 4, "holds '0.5' in row 0"),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(refusal, data, values, said):
    message = refusal(check_prior, {**data(pass_rate=values), KEY: "pass_rate"})
    assert KEY in message and said in message


def test_a_column_that_is_not_there_is_refused_with_those_that_are(refusal, data):
    message = refusal(check_prior, {**data(), KEY: "pas_rate"})
    assert "no column 'pas_rate' but data_source, prompt" in message


def test_equal_prompts_with_different_rates_are_refused(refusal, data):
    same = [row(0)["prompt"]] * 4
    message = refusal(check_prior, {**data(prompt=same, pass_rate=[0.5, 0.5, 0.5, 0.25]), KEY: "pass_rate"})
    assert "holds 0.25 in row 3 for a prompt that an earlier row gives 0.5" in message


@pytest.mark.parametrize(
    ("similar_by", "said"),
    [
        ("data_source", ""),
        (["data_source", "level"], ""),
        ("nope", "train.parquet has no column 'nope' but data_source, prompt"),
        ("prompt", "column 'prompt' holds the prompts themselves"),
        ("data_source.role", "has no 'data_source.role': column 'data_source' has no entries"),
    ],
)
def test_columns_by_which_prompts_are_similar_are_those_of_the_data(refusal, data, similar_by, said):
    key = "exploration.success_rate.similar_by"
    message = refusal(check_similar_by, {**data(level=[1, 2, 1, 2]), key: similar_by})
    assert said in message and (key in message) == bool(said)


def test_similar_prompts_and_remax_do_not_go_together(refusal, data):
    settings = {**data(), "exploration.success_rate.similar_by": "data_source", "algorithm.adv_estimator": "remax"}
    assert "is not accepted with algorithm.adv_estimator=remax" in refusal(check_similar_by, settings)
