"""The example trains, learns more with the knapsack, is restored exactly, and needs the package alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "explorer_without_verl.py"
RUN = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
others = {"torch", "ray", "transformers", "verl", "recipe", "pandas", "pyarrow", "numba", "matplotlib"}
heavy = others & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
LINE = re.compile(r"seed (\d)  (\w+) +mean success rate (0\.\d{3})")


@pytest.fixture(scope="module")
def example():
    spec = spec_from_file_location("explorer_without_verl", EXAMPLE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(text: str) -> dict[tuple[str, str], float]:
    return {(seed, allocator): float(rate) for seed, allocator, rate in LINE.findall(text)}


def test_it_prints_what_the_documentation_shows():
    printed = subprocess.run(
        [sys.executable, "-c", RUN, EXAMPLE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert printed.returncode == 0, printed.stderr
    measured = results(printed.stdout)
    shown = re.search(
        r"<!-- explorer: begin -->(.*?)<!-- explorer: end -->", (ROOT / "docs/extending.md").read_text(), re.S
    )
    # Processors differ in the last bit of an exponential, which may change a draw, and what follows from it.
    assert measured == pytest.approx(results(shown[1]), abs=0.01) and len(measured) == 8
    for seed in "0123":
        assert measured[seed, "knapsack"] > measured[seed, "homogeneous"] + 0.03


def test_it_is_at_most_100_lines_long():
    assert len(EXAMPLE.read_text().splitlines()) <= 100


def test_a_restored_training_goes_on_as_if_it_had_not_been_interrupted(example, tmp_path):
    steps = 2 * example.STEPS_PER_EPOCH + 3
    straight, interrupted, restored = (example.Training("knapsack", seed=7) for _ in range(3))
    straight.train(2 * steps)
    interrupted.train(steps)
    interrupted.save(tmp_path / "state.npz")
    restored.restore(tmp_path / "state.npz")
    restored.train(steps)
    np.testing.assert_array_equal(restored.logits, straight.logits)
    again = restored.train_step()
    assert again == straight.train_step() and again["allocation/unseen_ratio"] == 0.0


def test_restoring_the_policy_without_the_status_is_not_enough(example, tmp_path):
    """The test above would pass without a status if budgets did not depend on it."""
    straight, forgetful = (example.Training("knapsack", seed=7) for _ in range(2))
    straight.train(example.STEPS_PER_EPOCH)
    forgetful.logits, forgetful.steps_done = straight.logits.copy(), straight.steps_done
    assert forgetful.train_step()["allocation/max_budget"] != straight.train_step()["allocation/max_budget"]


def test_its_steps_spend_the_total_budget_and_log_every_metric(example):
    training = example.Training("knapsack", seed=1)
    for _ in range(example.STEPS_PER_EPOCH + 1):
        metrics = training.train_step()
    assert metrics["allocation/mean_budget"] == example.ROLLOUTS_PER_QUESTION
    assert metrics["allocation/max_budget"] > 2 * example.ROLLOUTS_PER_QUESTION
    assert metrics["training/effective_gradient_ratio"] > 0


def test_its_advantages_are_grpos(example):
    rewards, group = np.array([1.0, 0, 0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    advantages = example.grpo_advantages(rewards, group)
    # One success among N has advantage (N - 1) / sqrt(N).
    assert advantages[0] == pytest.approx(1.5, abs=1e-4) and advantages[4:6].tolist() == [0, 0]
    assert advantages[6:].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-4)
