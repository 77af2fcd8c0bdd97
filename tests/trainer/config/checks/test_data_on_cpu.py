"""Data files that verl's data set or the rewards could not read are refused, naming column and row."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from verl_rows import row

from verl.trainer.config.checks.data import check_columns, check_files_agree, check_row_counts, check_rows

TRAIN, VAL = "data.train_files", "data.val_files"


@pytest.fixture
def said_of(refusal, write):
    """What a check says of a training file with these rows."""

    def said(check, rows, **settings):
        file = str(write(rows))
        return refusal(check, {TRAIN: file, VAL: file, "custom_reward_function.path": "reward.py", **settings})

    return said


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": "1+1="}, ["column 'prompt' of type string", "list of messages"]),
        ({"prompt": ["1+1="]}, ["column 'prompt' of type list", "list of messages"]),
        ({"prompt": [{"from": "user", "value": "1+1="}]}, ["messages of from, value", "'role'"]),
        ({"data_source": ...}, ["no column 'data_source' (data.reward_fn_key)"]),
        ({"reward_model": ...}, ["no column 'reward_model'", "ground_truth"]),
        ({"reward_model": "2"}, ["column 'reward_model' of type string", "ground_truth"]),
        ({"reward_model": {"style": "rule"}}, ["column 'reward_model' of type struct", "ground_truth"]),
        ({"extra_info": "none"}, ["column extra_info of type string"]),
        ({"extra_info": None}, ["column extra_info of type null"]),
        ({"uid": "a"}, ["column 'uid'", "rename it"]),
        ({"prompt_id": "a"}, ["column 'prompt_id'"]),
        ({"prompt_index": 1}, ["column 'prompt_index'"]),
    ],
)
def test_columns_that_verl_cannot_read_are_refused(said_of, columns, said):
    message = said_of(check_columns, [row(0, **columns), row(1, **columns)])
    assert message.startswith("data.train_files=") and all(part in message for part in said), message


def test_what_is_not_read_need_not_be_there(said_of):
    bare = [row(0, extra_info=...), row(1, extra_info=...)]
    assert said_of(check_columns, bare) == "" and said_of(check_rows, bare) == ""
    unscored = [row(0, data_source=..., reward_model=...)]
    assert said_of(check_columns, unscored, **{"reward_model.enable": True}) == ""
    assert said_of(check_rows, unscored, **{"reward_model.enable": True}) == ""
    other = [row(0, prompt=..., question="1+1=")]
    assert said_of(check_columns, other, **{"data.custom_cls.path": "data.py"}) == ""
    dotted = [row(0, extra_info={"a.b": 1, "index": 0})]
    assert said_of(check_columns, dotted) == "" and said_of(check_rows, dotted) == ""
    renamed = [row(0, data_source=..., origin="sums")]
    assert said_of(check_columns, renamed, **{"data.reward_fn_key": "origin"}) == ""


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt": []}, "no prompt in row 1"),
        ({"prompt": None}, "no prompt in row 1"),
        ({"extra_info": None}, "extra_info null in row 1"),
        ({"reward_model": None}, "no reward_model.ground_truth in row 1"),
        ({"reward_model": {"style": "rule", "ground_truth": None}}, "no reward_model.ground_truth in row 1"),
        ({"data_source": None}, "no data_source in row 1"),
    ],
)
def test_a_row_that_lacks_something_is_named(said_of, columns, said):
    rows = [row(0), row(1, **columns), row(2, **columns)]
    assert f"{said} (and 1 more)" in said_of(check_rows, rows)
    assert said_of(check_rows, [row(0), row(2)]) == ""


def test_a_data_source_without_a_reward_function_is_named(said_of):
    message = said_of(check_rows, [row(0, data_source="math_dapo"), row(1)], **{"custom_reward_function.path": None})
    assert "data_source='sums'" in message and "custom_reward_function.path" in message
    known = [row(0, data_source="math_dapo"), row(1, data_source="openai/gsm8k"), row(2, data_source="codecontests")]
    assert said_of(check_rows, known, **{"custom_reward_function.path": None}) == ""


def files_of(write, *tables):
    return [str(write(rows, f"{number}.parquet")) for number, rows in enumerate(tables)]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"extra_info": {"index": 1}}, {"extra_info": {"index": "1"}}, "column 'extra_info' is struct<index: int64>"),
        ({"level": 1}, {"level": 1.5}, "column 'level' is int64"),
        ({"level": "1"}, {"level": 1}, "column 'level' is string"),
        ({}, {"extra_info": ...}, "1.parquet has no column extra_info"),
        ({"extra_info": ...}, {}, "0.parquet has no column extra_info"),
    ],
)
def test_files_that_cannot_be_concatenated_are_refused(refusal, write, first, second, said):
    files = files_of(write, [row(0, **first)], [row(1, **second)])
    assert said in refusal(check_files_agree, {TRAIN: files, VAL: files[0]})
    # Training and validation files are not concatenated with each other.
    assert refusal(check_files_agree, {TRAIN: files[0], VAL: files[1]}) == ""


def test_files_with_further_columns_or_nulls_can_be_concatenated(refusal, write):
    files = files_of(write, [row(0)], [row(1, level=3)], [row(1, level=None)])
    assert refusal(check_files_agree, {TRAIN: files, VAL: files[0]}) == ""


def test_an_empty_validation_set_is_refused_also_if_nothing_is_validated(refusal, write):
    train, empty = write([row(0)]), write([row(0)], "empty.parquet")
    pd.read_parquet(empty).head(0).to_parquet(empty)
    assert "holds no prompt" in refusal(check_row_counts, {TRAIN: str(train), VAL: str(empty), "trainer.test_freq": -1})
    assert refusal(check_row_counts, {TRAIN: str(train), VAL: [str(empty), str(train)]}) == ""


@pytest.mark.parametrize("folder", ["a=b", "(one)", "für", "数据", "a b"])
def test_paths_with_odd_characters_are_accepted(refusal, write, folder):
    file = str(write([row(0)], f"{folder}/train.parquet"))
    assert refusal(check_columns, {TRAIN: file, VAL: file}) == ""


@pytest.mark.parametrize("name", ["run[1].parquet", "what?.parquet", "all*.parquet"])
def test_paths_that_would_be_taken_for_patterns_are_refused(refusal, write, name):
    file = str(write([row(0)], name))
    assert "reads as a pattern" in refusal(check_columns, {TRAIN: file, VAL: file})


def test_a_million_rows_are_checked_in_seconds(refusal, tmp_path):
    count = 1_000_000
    numbers = pyarrow.array(np.arange(count))
    texts = numbers.cast(pyarrow.string())
    messages = pyarrow.StructArray.from_arrays([pyarrow.array(["user"] * count), texts], ["role", "content"])
    columns = {
        "data_source": pyarrow.array(["sums"] * count),
        "prompt": pyarrow.ListArray.from_arrays(pyarrow.array(np.arange(count + 1, dtype=np.int32)), messages),
        "reward_model": pyarrow.StructArray.from_arrays([texts], ["ground_truth"]),
        "extra_info": pyarrow.StructArray.from_arrays([numbers], ["index"]),
    }
    file = tmp_path / "large.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    settings = {TRAIN: str(file), VAL: str(file), "custom_reward_function.path": "reward.py"}
    before = time.process_time()
    assert refusal(check_columns, settings) == "" and refusal(check_rows, settings) == ""
    assert time.process_time() - before < 10  # about one second for both keys on a quiet core
