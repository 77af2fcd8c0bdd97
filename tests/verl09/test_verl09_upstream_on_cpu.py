"""verl 0.9's own CPU tests of what the plug-in touches, with the plug-in loaded in their process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = Path(distribution("verl").locate_file("tests"))
TOUCHED = (
    "trainer/test_multi_trajectories_advantage_on_cpu.py",
    "trainer/ppo/test_core_algos_on_cpu.py",
    "trainer/ppo/test_metric_utils_on_cpu.py",
)


def test_verls_own_tests_pass_with_the_plug_in_loaded(tmp_path):
    loaded = tmp_path / "loaded.py"
    loaded.write_text(
        "import verl.trainer.ppo.v1.trainer_base as base\n\n\n"
        "def pytest_sessionfinish():\n"
        "    assert 'knapsack_sync' in base.TRAINER_REGISTRY and 'knapsack_colocate_async' in base.TRAINER_REGISTRY\n"
        "    print('the plug-in is loaded')\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "loaded"]
        + [str(TESTS / file) for file in TOUCHED],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]),
            "VERL_USE_EXTERNAL_MODULES": "knapsack_verl09.plugin",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    assert "the plug-in is loaded" in result.stdout
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 60
