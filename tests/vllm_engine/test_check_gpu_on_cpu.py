"""The script for the first hour on GPUs, on the test platform: one worker, then resumed.

Its asynchronous run would take two minutes more; ``tests/examples`` checks its configuration, and
``test_training_as_on_gpus_on_cpu.py`` trains asynchronously.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from training_process import SCRIPTS

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.slow,
    pytest.mark.needs_gpu_pins,
    pytest.mark.xdist_group("check_gpu"),
]

SECONDS = 900
# A C++ compiler for the actor's entropy would take a minute.
OVERRIDE = "actor_rollout_ref.actor.use_torch_compile=false"


@pytest.fixture(scope="module")
def checked(warm_start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("check_gpu")
    shutil.copytree(warm_start, folder / "warm_start")
    machine = {"PYTHON": sys.executable, "OUT": str(folder), "DEVICE": "cpu", "RUNS": "one_gpu resumed"}
    result = subprocess.run(
        ["bash", str(SCRIPTS / "check_gpu.sh"), OVERRIDE],
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return folder, result


def test_all_checks_pass_and_the_report_is_written(checked):
    folder, result = checked
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert "all checks passed" in result.stdout
    report = (folder / "report.md").read_text()
    assert "## one_gpu" in report and "## async" not in report and "## all_gpus" not in report
    assert "vllm 0.10.2" in report and "FAILED" not in report


def test_the_second_run_was_resumed(checked):
    folder, _ = checked
    assert (folder / "one_gpu" / "global_step_4").exists() and (folder / "one_gpu" / "global_step_8").exists()
