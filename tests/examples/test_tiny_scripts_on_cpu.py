"""The tiny scripts' own settings, read from the command they would run; the end-to-end tests run it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from recipe.knapsack.dry_run.preflight import find_unknown_keys
from recipe.knapsack.dry_run.step_plan import compose

FOLDER = Path(__file__).parents[2] / "examples" / "knapsack_trainer"


@pytest.fixture
def composed(tmp_path):
    """The configuration that a script trains with, and the defaults."""
    (tmp_path / "warm_start.json").touch()

    def read(script: str, *overrides: str, **environment: str) -> tuple[DictConfig, DictConfig]:
        kept = {name: value for name, value in os.environ.items() if name != "RUN_FOLDER"}
        result = subprocess.run(
            ["bash", str(FOLDER / script), *overrides],
            env={**kept, "PYTHON": "echo", "WARM_START": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return compose(result.stdout.split()[2:])

    return read


@pytest.fixture
def run_folder(composed):
    """The folder that a script's run gets."""

    def read(script: str, *overrides: str, **environment: str) -> str:
        config, _ = composed(script, *overrides, **environment)
        OmegaConf.resolve(config)
        return config.trainer.default_local_dir

    return read


@pytest.mark.parametrize(("script", "suffix"), [("run_tiny_cpu.sh", ""), ("run_tiny_vllm_cpu.sh", "_vllm")])
def test_each_allocator_and_engine_has_a_folder_of_its_own(run_folder, script, suffix):
    assert run_folder(script) == f"runs/tiny/knapsack{suffix}"
    assert run_folder(script, "exploration.allocator=homogeneous") == f"runs/tiny/homogeneous{suffix}"


@pytest.mark.parametrize("script", ["run_tiny_cpu.sh", "run_tiny_vllm_cpu.sh"])
def test_the_folder_can_be_given(run_folder, script):
    assert run_folder(script, RUN_FOLDER="elsewhere/run") == "elsewhere/run"


@pytest.mark.parametrize("script", ["run_tiny_cpu.sh", "run_tiny_vllm_cpu.sh"])
def test_no_script_sets_a_key_that_nothing_reads(composed, script):
    assert find_unknown_keys(*composed(script)) == []
    assert find_unknown_keys(*composed(script, "+trainer.bogus=1")) == ["trainer.bogus"]
