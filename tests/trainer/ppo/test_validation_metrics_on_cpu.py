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
