"""What the quickstart says at its end: the table and the picture, from runs that were not trained."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from synthetic_run import SyntheticRun, build_run

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics
from recipe.knapsack.report.run_data import load_run, summarize
from recipe.knapsack.tiny.quickstart import METHODS, draw, table
from recipe.knapsack.tiny.tiny_runs import ACCURACY, EFFECTIVE_RATIO

SIZES = {"num_prompts": 64, "prompts_per_step": 16, "steps": 24, "validate_every": 8}
HELD_OUT = ACCURACY.split("/")[1]


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory):
    """A run of each method, by method."""
    return {
        method: build_run(
            tmp_path_factory.mktemp(method.folder),
            SyntheticRun(
                allocator="homogeneous" if method.folder == "grpo" else "knapsack",
                held_out=(HELD_OUT,),
                seed=seed,
                **SIZES,
            ),
        )
        for seed, method in enumerate(METHODS)
    }


def expected_cells(folder) -> list[str]:
    """The five values of a run, straight from its files."""
    metrics, history = read_metrics(folder), read_history(folder / "history").to_pandas()
    accuracies = [record[ACCURACY] for record in metrics if ACCURACY in record]
    ratios = [record[EFFECTIVE_RATIO] for record in metrics if EFFECTIVE_RATIO in record]
    return [
        f"{accuracies[-1]:.3f}",
        f"{np.mean(ratios[-SIZES['steps'] // 4 :]):.3f}",
        str(sum(history.groupby("prompt_id")["successes"].sum() == 0)),
        str(history["budget"].max()),
        f"{sum(record.get('timing_s/step', 0.0) for record in metrics):.0f} s",
    ]


def test_the_table_has_each_method_with_its_five_values(run_folders):
    text = table({method.name: summarize(load_run(folder)) for method, folder in run_folders.items()})
    header, *rows = text.splitlines()[: 1 + len(METHODS)]
    columns = ["held-out accuracy", "effective ratio", "never solved", "largest budget", "wall time"]
    assert re.split(r"\s{2,}", header.strip()) == columns
    for row, (method, folder) in zip(rows, run_folders.items(), strict=True):
        assert re.split(r"\s{2,}", row) == [method.name, *expected_cells(folder)]
        assert len(row) == len(header)
    homogeneous, knapsack, _ = (expected_cells(folder) for folder in run_folders.values())
    assert homogeneous != knapsack and homogeneous[3] == "8"


def test_the_table_explains_its_two_unusual_columns(run_folders):
    text = table({method.name: summarize(load_run(folder)) for method, folder in run_folders.items()})
    assert [line.split(":")[0] for line in text.splitlines()[1 + len(METHODS) :]] == ["effective ratio", "never solved"]


def test_the_picture_shows_each_method_in_each_of_its_three_charts(run_folders, tmp_path):
    picture = tmp_path / "quickstart.png"
    draw(run_folders, picture)
    pixels = imread(picture)[..., :3]
    assert pixels.shape[:2] == (462, 1650)
    for method in METHODS:
        is_drawn = np.abs(pixels - to_rgb(method.color)).max(axis=-1) < 0.02
        assert all(third.sum() > 100 for third in np.array_split(is_drawn, 3, axis=1)), method.name
