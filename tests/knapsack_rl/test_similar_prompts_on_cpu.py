"""What seen prompts tell of similar ones: labels of columns, means, how they reach plans, how they are kept."""

import numpy as np
import pytest

from knapsack_rl import ConfigError, ExplorationConfig, Explorer, Outcomes, TaskStatus
from knapsack_rl.similar_prompts import SimilarPromptsError, check_columns, labels_of_batch
from knapsack_rl.status_file import TaskStatusError

BY = {"similar_by": ["data_source", "extra_info.level"]}


def batch(levels, source="math"):
    return {"data_source": np.array([source] * len(levels), dtype=object), "extra_info": [{"level": x} for x in levels]}


def status_of_levels(estimator="beta", **options):
    """Four easy prompts with mean 0.75 and two hard ones with mean 0.25 in epoch 0; the mean of all is 7/12."""
    status = TaskStatus(estimator, **options)
    ids, levels = ["e1", "e2", "e3", "e4", "h1", "h2"], [1, 1, 1, 1, 5, 5]
    status.add_similar(ids, labels_of_batch(BY["similar_by"], batch(levels)))
    rates = [0.5, 0.5, 1.0, 1.0, 0.0, 0.5]
    rollouts = [(identity, at < 4 * rate) for identity, rate in zip(ids, rates, strict=True) for at in range(4)]
    status.observe(*map(list, zip(*rollouts, strict=True)), epoch=0, step=1)
    status.add_similar(["easy", "hard", "odd"], labels_of_batch(BY["similar_by"], batch([1, 5, 9])))
    return status


MEAN = 3.5 / 6
EASY, HARD = (3.0 + MEAN) / 5, (0.5 + MEAN) / 3


@pytest.mark.parametrize("estimator", ["previous_epoch", "window", "beta"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_an_unseen_prompt_has_the_mean_of_those_like_it(estimator, epoch):
    status = status_of_levels(estimator)
    rates = status.success_rates(["easy", "hard", "odd", "unlabelled"], epoch=epoch)
    np.testing.assert_allclose(rates, [EASY, HARD, np.nan, np.nan])
    alpha, beta = status.beliefs(["easy", "hard", "odd"], epoch=epoch)
    np.testing.assert_allclose(alpha, [EASY, HARD, MEAN])
    np.testing.assert_allclose(alpha + beta, 1.0)


def test_a_seen_prompt_keeps_its_own_estimate():
    status, without = status_of_levels(), TaskStatus("beta")
    without.load_state_dict({name: value for name, value in status.state_dict().items() if name != "similar"})
    for ask in ("success_rates", "beliefs"):
        np.testing.assert_array_equal(
            getattr(status, ask)(["e1", "h1"], epoch=1), getattr(without, ask)(["e1", "h1"], epoch=1)
        )


def test_a_prior_of_its_own_stands_before_what_similar_prompts_tell():
    status = status_of_levels("previous_epoch")
    status.add_priors(["easy"], [0.125])
    assert status.success_rates(["easy"], epoch=1)[0] == 0.125


def test_labels_of_observed_prompts_are_kept(tmp_path):
    status = status_of_levels()
    status.save(tmp_path / "status.npz")
    resumed = TaskStatus.load(tmp_path / "status.npz")
    assert np.isnan(resumed.success_rates(["easy"], epoch=1)[0]), "what was not observed comes with its batch"
    for either in (status, resumed):
        either.add_similar(["easy", "hard"], labels_of_batch(BY["similar_by"], batch([1, 5])))
    np.testing.assert_array_equal(
        resumed.success_rates(["easy", "hard"], epoch=1), status.success_rates(["easy", "hard"], epoch=1)
    )
    resumed.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "status.npz").read_bytes()


def test_labels_that_do_not_fit_the_prompts_are_refused():
    status = status_of_levels()
    state = status.state_dict()
    with pytest.raises(TaskStatusError, match="5 labels of prompts for 6 records"):
        status.load_state_dict({**state, "similar": state["similar"][1:]})


def test_the_first_epoch_is_planned_by_what_its_earlier_steps_told():
    """Prompts of a level that was always solved get fewer rollouts when they are first sampled."""
    explorer = Explorer(ExplorationConfig(), rollouts_per_prompt=8)
    ids, levels = [f"{level}{number}" for level in ("solved", "mixed") for number in range(40)], [1] * 40 + [2] * 40
    first = explorer.plan(ids, epoch=0, step=1, similar=labels_of_batch("level", {"level": levels}))
    assert set(first.budgets) == {8}
    successes = first.order < 40
    successes[first.order >= 40] = np.arange(40 * 8) % 2
    explorer.observe(first, Outcomes(first.order, successes * 1.0, successes, successes, np.ones(640)))
    plan = explorer.plan(["c", "d"], epoch=0, step=2, similar=labels_of_batch("level", {"level": [1, 2]}))
    assert plan.budgets.tolist() == [2, 14]
    assert not np.isnan(plan.success_rates).any() and not np.isnan(plan.predicted_shares).any()


def test_labels_are_equal_where_values_are():
    numbers = labels_of_batch("level", {"level": [1, np.int64(1), 1.0, "1", None, float("nan"), True]})
    assert numbers[0] == numbers[1] == numbers[6] and numbers[4] == numbers[5]
    assert len({*numbers}) == 4
    assert labels_of_batch(None, {}) is None


@pytest.mark.parametrize(
    ("similar_by", "said"),
    [
        ("nope", "similar_by=nope: the rows have no column 'nope' but data_source, extra_info"),
        ("data_source.level", "column 'data_source' holds no dictionaries"),
        ("extra_info", "holds {'level': 1}: expected text or a number"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(similar_by, said):
    with pytest.raises(SimilarPromptsError, match=said):
        labels_of_batch(similar_by, batch([1, 2]))


@pytest.mark.parametrize("value", ["", [], [""], 3, [3], {"a": 1}])
def test_what_names_no_column_is_refused(value):
    with pytest.raises(ConfigError, match="similar_by=.* is not accepted: expected null, the name of a column"):
        ExplorationConfig.from_mapping({"success_rate": {"similar_by": value}})


@pytest.mark.parametrize(
    ("similar_by", "said"),
    [
        ("nope", "train.parquet has no column 'nope' but data_source, extra_info"),
        ("extra_info.nope", "has no 'extra_info.nope': column 'extra_info' has entries level"),
        ("data_source.level", "column 'data_source' has no entries"),
        (["data_source", "extra_info"], "has dictionaries in column 'extra_info': name an entry, as extra_info.level"),
    ],
)
def test_columns_that_the_data_do_not_have_are_refused(tmp_path, similar_by, said):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    data = batch([1, 2])
    table = pyarrow.table({"data_source": list(data["data_source"]), "extra_info": data["extra_info"]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    check_columns(BY["similar_by"], [tmp_path / "train.parquet"])
    with pytest.raises(SimilarPromptsError, match=said):
        check_columns(similar_by, [tmp_path / "train.parquet"])
