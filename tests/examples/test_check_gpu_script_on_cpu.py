"""What check_gpu.sh starts is accepted by the start-up checks of a machine with GPUs; no run of it is made here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from packaging.version import Version

from recipe.knapsack.dry_run.step_plan import compose
from verl.trainer.config.checks import Facts, find_config_errors

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "knapsack_trainer" / "check_gpu.sh"
GPU_MACHINE = Facts(has_gpu=True, vllm=Version("0.10.2"))
# Stands in for Python on a machine with six GPUs: notes what a training is started with, leaves all else to Python.
NOTE_TRAININGS = """#!/bin/sh
[ "$*" != "-m recipe.knapsack.gpu_check gpus" ] || exec echo 6
[ "$2" = verl.trainer.main_ppo ] || exec {python} "$@"
shift 2
printf "%s\\t" "$@" >>"$OUT/trainings"
printf "\\n" >>"$OUT/trainings"
"""


@pytest.fixture(scope="module")
def trainings(warm_start: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """The overrides of every training that the script starts on a machine with six GPUs."""
    folder = tmp_path_factory.mktemp("check_gpu")
    python = folder / "python"
    python.write_text(NOTE_TRAININGS.format(python=sys.executable))
    python.chmod(0o755)
    (folder / "warm_start").symlink_to(warm_start)
    kept = {name: value for name, value in os.environ.items() if name not in ("RUNS", "DEVICE", "NGPUS_PER_NODE")}
    machine = {"PYTHON": str(python), "PYTHONPATH": str(ROOT), "OUT": str(folder)}
    result = subprocess.run(["bash", str(SCRIPT)], env={**kept, **machine}, capture_output=True, text=True, timeout=300)
    assert "report.md" in result.stdout, result.stdout + result.stderr
    return [line.rstrip("\t").split("\t") for line in (folder / "trainings").read_text().splitlines()]


def test_every_training_is_accepted_where_there_are_gpus(trainings):
    assert len(trainings) == 4
    for overrides in trainings:
        assert [str(error) for error in find_config_errors(*compose(overrides), GPU_MACHINE)] == []


def test_all_gpus_are_as_many_as_can_share_the_rollouts_of_a_step(trainings):
    assert [compose(overrides)[0].trainer.n_gpus_per_node for overrides in trainings] == [1, 1, 4, 4]


def test_two_steps_are_an_epoch_so_that_the_third_has_budgets_of_its_own(trainings):
    config, _ = compose(trainings[0])
    assert len(pd.read_parquet(config.data.train_files)) == 2 * config.data.train_batch_size
    assert config.trainer.total_training_steps > 2
