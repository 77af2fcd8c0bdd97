"""Validation metrics against upstream's, whose bootstrap they replace by closed forms."""

import numpy as np
import pytest

from verl.trainer.ppo.validation_metrics import extreme_of_resamples, majority_of_resamples, process_validation_metrics
from verl.upstream.trainer.ppo.metric_utils import process_validation_metrics as process_by_bootstrap


@pytest.mark.parametrize("largest", [True, False])
def test_extremes_of_all_possible_resamples(largest):
    values = np.array([0.2, 1.0, 0.5])
    resamples = np.stack(np.meshgrid(values, values, values, values), axis=-1).reshape(-1, 4)
    extremes = resamples.max(axis=1) if largest else resamples.min(axis=1)
    assert extreme_of_resamples(values, 4, largest) == pytest.approx((extremes.mean(), extremes.std()))


def test_the_majority_decides_and_the_first_drawn_wins_a_tie():
    mean, std = majority_of_resamples(np.array([1.0, 1.0, 0.0]), ["a", "a", "b"], size=1, seed=0)
    assert mean == pytest.approx(2 / 3, abs=0.05) and std == pytest.approx(2**0.5 / 3, abs=0.05)
    mean, _ = majority_of_resamples(np.array([1.0, 1.0, 0.0]), ["a", "a", "b"], size=25, seed=0)
    assert mean > 0.9
    assert majority_of_resamples(np.array([1.0, 1.0]), [None, None], size=2, seed=0) == (1.0, 0.0)


def test_same_keys_and_values_as_upstream():
    rng = np.random.default_rng(0)
    prompts, responses = 12, 6
    sources = ["algebra"] * (prompts * responses // 2) + ["geometry"] * (prompts * responses // 2)
    inputs = [f"question {row // responses}" for row in range(prompts * responses)]
    infos = {
        "acc": rng.integers(0, 2, prompts * responses).astype(float).tolist(),
        "reward": rng.normal(size=prompts * responses).tolist(),
        "pred": rng.choice(["1", "2", "3"], prompts * responses).tolist(),
    }
    ours, upstreams = process_validation_metrics(sources, inputs, infos), process_by_bootstrap(sources, inputs, infos)
    assert ours.keys() == upstreams.keys()
    for source, variables in upstreams.items():
        assert ours[source].keys() == variables.keys()
        for name, metrics in variables.items():
            assert ours[source][name].keys() == metrics.keys()
            for metric, value in metrics.items():
                assert ours[source][name][metric] == pytest.approx(value, abs=0.05), (source, name, metric)


def metrics_of(prompts, scores, sources=None, **settings):
    sources = sources or ["math"] * len(prompts)
    return process_validation_metrics(sources, prompts, {"acc": scores, "reward": scores}, **settings)


@pytest.mark.parametrize("settings", [{}, {"responses_per_prompt": 1}])
@pytest.mark.parametrize("prompts", ["abca", "aabc", "abac", "abcc"])
def test_a_prompt_counts_as_often_as_it_is_there(prompts, settings):
    metrics = metrics_of(list(prompts), [1.0, 0.0, 0.0, 1.0], **settings)
    assert metrics["math"]["acc"] == {"mean@1": 0.5}


@pytest.mark.parametrize("settings", [{}, {"responses_per_prompt": 2}])
def test_duplicates_of_prompts_with_several_responses(settings):
    metrics = metrics_of(list("aabbaaccaa"), [1, 1, 0, 0, 1, 0, 0, 0, 0, 0], **settings)["math"]["acc"]
    assert metrics["mean@2"] == pytest.approx(0.3) and metrics["best@2/mean"] == pytest.approx((1 + 0.75) / 5)
    assert {name.split("@")[1].split("/")[0] for name in metrics} == {"2"}


def test_prompts_that_are_all_there_twice_in_a_row_are_told_apart_when_the_number_of_responses_is_given():
    assert metrics_of(list("aabb"), [1, 0, 0, 0], responses_per_prompt=1)["math"]["acc"] == {"mean@1": 0.25}
    assert metrics_of(list("aaaabbbb"), [1.0] * 8, responses_per_prompt=2)["math"]["acc"]["mean@2"] == 1.0


def test_equal_prompts_of_two_data_sources_are_two_prompts():
    metrics = metrics_of(["a", "a", "a", "b"], [1.0, 0.0, 0.0, 0.0], sources=["x", "x", "y", "y"])
    assert metrics["x"]["acc"]["mean@2"] == 0.5 and metrics["y"]["acc"] == {"mean@1": 0.0}


def test_responses_that_do_not_fit_the_number_per_prompt_are_refused():
    with pytest.raises(ValueError, match="3 responses to the prompt 'b' follow each other.*the 2 responses per prompt"):
        metrics_of(list("aabbb"), [1.0] * 5, responses_per_prompt=2)


def test_variables_that_are_no_numbers_are_left_out():
    infos = {
        "acc": [True, np.bool_(False)],
        "text": ["a", "b"],
        "none_first": [None, 1.0],
        "text_later": [1.0, ""],
        "lists": [[1], [2]],
        "empty": [],
    }
    metrics = process_validation_metrics(["math", "math"], ["a", "b"], infos)
    assert metrics == {"math": {"acc": {"mean@1": 0.5}}}
