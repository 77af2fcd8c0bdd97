"""Columns by which prompts are similar: labels of a batch, and what is refused before training."""

from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from knapsack_rl import ConfigError, ExplorationConfig
from knapsack_rl.similar_columns import SimilarColumnsError, check_similar_columns, labels_of_batch

BATCH = {
    "data_source": np.array(["math", "math"], dtype=object),
    "extra_info": [{"level": 1}, {"level": 2}],
    "a.b": [1, 2],
}


def test_labels_are_equal_where_values_are():
    numbers = labels_of_batch("level", {"level": [1, np.int64(1), 1.0, True, -0.0, 0, "1", 1.5, np.float32(1.5)]})
    assert len({*numbers[:4]}) == len({*numbers[4:6]}) == len({*numbers[7:]}) == 1
    assert len({*numbers}) == 4
    assert labels_of_batch(None, {}) is None


def test_a_prompt_of_which_a_value_is_missing_has_no_label():
    values = [None, float("nan"), "x"]
    assert [label is None for label in labels_of_batch("level", {"level": values})] == [True, True, False]
    rows = [None, {}, {"level": None}, {"level": 1}]
    assert [label is None for label in labels_of_batch("extra_info.level", {"extra_info": rows})] == [True] * 3 + [
        False
    ]


def test_a_column_may_have_a_dot_in_its_name():
    assert len({*labels_of_batch(["a.b", "extra_info.level"], BATCH)}) == 2


@pytest.mark.parametrize(
    ("similar_by", "said"),
    [
        ("nope", "similar_by=nope: the rows have no column 'nope' but data_source, extra_info, a.b"),
        ("data_source.level", "column 'data_source' holds no dictionaries"),
        ("extra_info", "holds {'level': 1}: expected text or a number"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(similar_by, said):
    with pytest.raises(SimilarColumnsError, match=said):
        labels_of_batch(similar_by, BATCH)


@pytest.mark.parametrize("value", ["", [], [""], 3, [3], {"a": 1}, "level.", ".level"])
def test_what_names_no_column_is_refused(value):
    with pytest.raises(ConfigError, match="similar_by=.* is not accepted: expected null, the name of a column"):
        ExplorationConfig.from_mapping({"success_rate": {"similar_by": value}})


@pytest.fixture
def data(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    columns = {
        "prompt": ["1 + 1", "2 + 2"],
        "data_source": ["math", "math"],
        "extra_info": [{"level": 1, "tags": ["a"], "deep": {"x": 1}}, {"level": None, "tags": [], "deep": {"x": 2}}],
        "a.b": [1, 2],
        "tags": [["a"], []],
        "day": [date(2026, 1, 1)] * 2,
        "price": [Decimal("1.5")] * 2,
        "raw": [b"a", b"b"],
        "none": [None, None],
        "kind": pyarrow.array(["a", "b"]).dictionary_encode(),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


@pytest.mark.parametrize("similar_by", [None, "data_source", "a.b", "kind", ["data_source", "extra_info.level"]])
def test_columns_of_text_and_numbers_are_accepted(data, similar_by):
    check_similar_columns(similar_by, [data], "prompt")


@pytest.mark.parametrize(
    ("similar_by", "said"),
    [
        ("nope", "train.parquet has no column 'nope' but prompt, data_source"),
        ("extra_info.nope", "has no 'extra_info.nope': column 'extra_info' has entries deep, level, tags"),
        ("data_source.level", "column 'data_source' has no entries"),
        (["data_source", "extra_info"], "has dictionaries in column 'extra_info': name an entry, as extra_info.deep"),
        ("prompt", "column 'prompt' holds the prompts themselves"),
        *((name, "expected text or numbers") for name in ("tags", "day", "price", "raw", "none", "extra_info.tags")),
        ("extra_info.deep", "expected text or numbers"),
    ],
)
def test_columns_by_which_prompts_cannot_be_compared_are_refused(data, similar_by, said):
    with pytest.raises(SimilarColumnsError, match=said):
        check_similar_columns(similar_by, [data], "prompt")
