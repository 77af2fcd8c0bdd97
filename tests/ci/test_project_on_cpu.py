"""What the project says of itself in several files agrees: its version, its tools, its landing check."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from knapsack_rl.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", [__version__, "9.8.7"])
def test_the_package_takes_its_version_from_the_one_place(tmp_path, version):
    for name in ("setup.py", "requirements", "knapsack_rl", "verl"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    place = tmp_path / "knapsack_rl" / "version.py"
    place.write_text(place.read_text().replace(__version__, version))
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == version, result.stderr


def test_the_changelog_begins_with_this_version():
    versions = re.findall(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0][0] == __version__
    for number, when in versions:
        assert re.fullmatch(r"\d+\.\d+\.\d+", number)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d|not released", when)


def test_commits_are_checked_by_the_ruff_of_the_landing_check():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (ruff,) = config["repos"]
    assert [hook["id"] for hook in ruff["hooks"]] == ["ruff-check", "ruff-format"]
    assert f"ruff=={ruff['rev'].removeprefix('v')}" in (ROOT / "requirements" / "dev.txt").read_text().splitlines()


def test_the_hosted_ci_runs_the_landing_check_and_nothing_else():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_landing_check_lints_checks_types_and_tests_with_a_browser_where_there_is_one():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    steps = ["make lint", "make typecheck", "bash .ci/install_browser.sh", "make test"]
    assert [line for line in lines if line in steps] == steps
