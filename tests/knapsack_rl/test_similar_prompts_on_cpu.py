"""What seen prompts tell of similar ones: labels of columns, means, how they reach plans, how they are kept."""

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, TaskStatus
from knapsack_rl.similar_columns import labels_of_batch
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


@pytest.mark.parametrize("estimator", ["previous_epoch", "window"])
def test_what_was_counted_of_a_prompt_stands_before_the_mean_of_similar_ones(estimator):
    np.testing.assert_allclose(status_of_levels(estimator).success_rates(["e1", "h1"], epoch=1), [0.5, 0.0])


def test_to_beta_the_mean_of_similar_prompts_is_the_prior_mean():
    status = status_of_levels("beta", prior_strength=2.0)
    np.testing.assert_allclose(status.success_rates(["e1", "h1"], epoch=1), [(2 + 2 * EASY) / 6, 2 * HARD / 6])
    status.observe(["easy"] * 2, [1, 1], epoch=0, step=2)
    assert status.success_rates(["easy"], epoch=0)[0] > EASY, "an estimate does not fall where all is solved"


def test_a_prior_of_its_own_stands_before_what_similar_prompts_tell():
    status = status_of_levels("previous_epoch")
    status.add_priors(["easy"], [0.125])
    assert status.success_rates(["easy"], epoch=1)[0] == 0.125


def test_labels_are_kept_with_the_status(tmp_path):
    status = status_of_levels()
    status.save(tmp_path / "status.npz")
    resumed = TaskStatus.load(tmp_path / "status.npz")
    for either in (status, resumed):
        either.add_similar(["easy", "hard"], labels_of_batch(BY["similar_by"], batch([1, 5])))
    np.testing.assert_array_equal(
        resumed.success_rates(["easy", "hard"], epoch=1), status.success_rates(["easy", "hard"], epoch=1)
    )
    resumed.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "status.npz").read_bytes()


def test_a_prompt_that_was_planned_before_a_resume_and_observed_after_it_has_its_label():
    status = status_of_levels()
    resumed = TaskStatus("beta")
    resumed.load_state_dict(status.state_dict())
    for either in (status, resumed):
        either.observe(["odd"] * 4, [1, 1, 1, 0], epoch=0, step=2)
        either.add_similar(["odd2"], labels_of_batch(BY["similar_by"], batch([9])))
    np.testing.assert_array_equal(resumed.success_rates(["odd2"], epoch=0), status.success_rates(["odd2"], epoch=0))
    assert not np.isnan(resumed.success_rates(["odd2"], epoch=0)[0])


def test_a_run_that_compares_nothing_makes_no_use_of_saved_labels():
    saved = status_of_levels("beta", min_rollouts=8).state_dict()
    without, with_labels = (TaskStatus("beta", min_rollouts=8) for _ in range(2))
    without.load_state_dict({name: value for name, value in saved.items() if name != "similar"})
    with_labels.load_state_dict(saved)
    np.testing.assert_array_equal(with_labels.success_rates(["e1", "easy"], epoch=1), [np.nan, np.nan])
    np.testing.assert_array_equal(with_labels.beliefs(["e1"], epoch=1), without.beliefs(["e1"], epoch=1))
    assert "similar" in with_labels.state_dict(), "a later run may compare again"


def test_values_of_other_columns_are_other_labels():
    status = TaskStatus("beta")
    status.add_similar(["a"], labels_of_batch("level", {"level": [1]}))
    status.observe(["a"] * 4, [1] * 4, epoch=0, step=1)
    status.add_similar(["b"], labels_of_batch("difficulty", {"difficulty": [1]}))
    assert np.isnan(status.success_rates(["b"], epoch=0)[0])


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b"{}", b'{"labels": ["x"], "prompts": {"a": 1}}', b'{"labels": 3, "prompts": {}}', b"\xff"]
)
def test_labels_that_cannot_be_read_are_refused_and_change_nothing(damaged):
    status = status_of_levels()
    state = status.state_dict()
    with pytest.raises(TaskStatusError, match="labels of similar prompts cannot be read"):
        status.load_state_dict({**state, "similar": np.frombuffer(damaged, dtype=np.uint8)})
    np.testing.assert_array_equal(status.state_dict()["similar"], state["similar"])


@pytest.mark.parametrize("labels", [["x"], "xy", ["x", 3], ["x", "y", "z"]])
def test_labels_that_do_not_fit_the_prompts_are_refused(labels):
    with pytest.raises(ValueError, match="similar must hold a label|a label of similar prompts must be text"):
        Explorer(ExplorationConfig()).plan(["a", "b"], epoch=0, step=1, similar=labels)


def test_a_prompt_without_a_label_is_like_no_other():
    status = TaskStatus("beta")
    status.add_similar(["a", "b"], [None, None])
    status.observe(["a"] * 4, [1] * 4, epoch=0, step=1)
    assert np.isnan(status.success_rates(["b"], epoch=0)[0])


@pytest.mark.parametrize("label", ["", "nul\0", "\ud800", "x" * 100_000])
def test_any_text_is_a_label(tmp_path, label):
    status = TaskStatus("beta")
    status.add_similar(["a", "b"], [label, label])
    status.observe(["a"] * 4, [1] * 4, epoch=0, step=1)
    status.save(tmp_path / "status.npz")
    resumed = TaskStatus.load(tmp_path / "status.npz")
    resumed.add_similar(["b"], [label])
    assert resumed.success_rates(["b"], epoch=0)[0] > 0.9


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
