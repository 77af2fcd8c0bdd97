"""The package by itself: what it loads, its examples, and its tests where nothing but NumPy and SciPy is installed."""

from __future__ import annotations

import doctest
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import knapsack_rl

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(module.name for module in pkgutil.walk_packages(knapsack_rl.__path__, "knapsack_rl."))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_the_import_loads_no_trainer():
    loaded = subprocess.run(
        [sys.executable, "-c", "import knapsack_rl, sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(knapsack_rl.__file__).parents[1],
    ).stdout.split()
    roots = {name.partition(".")[0] for name in loaded}
    heavy = {"torch", "ray", "transformers", "verl", "numba", "pyarrow", "matplotlib", "wandb", "pandas", "omegaconf"}
    assert roots & heavy == set()
    assert "scipy.special" not in loaded, "a fifth of a second, which only who allocates needs"


def test_the_doors_of_verl_lead_here():
    pytest.importorskip("verl")
    from verl.trainer.ppo import exploration_utils, ray_trainer, task_status

    assert exploration_utils.knapsack_allocate is knapsack_rl.knapsack_allocate is ray_trainer.knapsack_allocate
    assert task_status.TaskStatus is knapsack_rl.TaskStatus


@pytest.mark.slow
@pytest.mark.skipif(bool(os.environ.get("KNAPSACK_RL_BARE")), reason="this is the bare environment")
@pytest.mark.parametrize("numpy_version", ["1.26", "2"])
def test_the_package_alone_passes_its_tests(numpy_version, tmp_path):
    """``pip install .`` into an empty environment, and the package's own tests in it."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"KNAPSACK_RL_BARE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    needs = [f"numpy=={numpy_version}.*", "scipy", "pytest", "hypothesis"]
    fetched = subprocess.run([*install, *needs], capture_output=True, text=True, timeout=300, env=environment)
    if fetched.returncode:
        pytest.skip(f"packages cannot be had here: {fetched.stderr.strip().splitlines()[-1]}")
    subprocess.run([*install, "--no-deps", ROOT], check=True, timeout=300, env=environment)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, env=environment).stdout
    assert not {"torch", "ray", "verl", "pyarrow", "numba"} & {line.split()[0] for line in listed.splitlines()}
    own_tests = shutil.copytree(Path(__file__).parent, tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (own_tests / "pytest.ini").write_text("[pytest]\n")
    tests = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        cwd=own_tests,
    )
    assert tests.returncode == 0, tests.stdout[-3000:] + tests.stderr[-1000:]
    assert " passed" in tests.stdout
