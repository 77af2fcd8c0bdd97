"""The Makefile's targets that need no environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from make_environment import environment_without_make

ROOT = Path(__file__).parents[2]
BUILT = ("build/lib/verl/__init__.py", "dist/knapsack_rl-0.1.0.tar.gz", "knapsack_rl.egg-info/PKG-INFO")
KEPT = (
    "runs/quickstart/knapsack/global_step_200/actor/model.pt",
    "results/knapsack/task_status.npz",
    "outputs/2026-11-25/main_ppo.log",
    "checkpoints/global_step_10/complete",
    "wandb/run-1/files/config.yaml",
    "tensorboard_log/events",
    "data/train.parquet",
    "models/config.json",
    ".venv/.complete",
    "requirements.txt",
)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
@pytest.mark.parametrize("settings", [[], ["RUNS=results"], ["RUNS=."]], ids=["default", "results", "here"])
def test_clean_removes_build_products_and_no_training_result(tmp_path, settings):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*BUILT, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    command = ["make", "clean", *settings]
    environment = environment_without_make("RUNS")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60, env=environment)
    assert [name for name in KEPT if not (tmp_path / name).exists()] == []
    assert [name for name in BUILT if (tmp_path / name.split("/")[0]).exists()] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
@pytest.mark.parametrize(
    ("target", "commands"),
    [
        ("format", ["python -m ruff check --fix .", "python -m ruff format ."]),
        ("typecheck", ["python -m mypy --strict knapsack_rl"]),
    ],
)
def test_what_a_target_runs(target, commands):
    command = ["make", "--dry-run", target, "PYTHON=python"]
    environment = environment_without_make()
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60, env=environment)
    assert result.stdout.splitlines() == commands
