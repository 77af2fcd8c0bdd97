"""The script that makes the GPU users' environment says in one line, with exit status 3, where it cannot be had."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "make_pins_environment.sh"
PLENTY = "Avail\\n 500"


def make_environment(folder: Path, **commands: str) -> subprocess.CompletedProcess[str]:
    """Run the script where some commands print what they are given, and no package index answers."""
    programs = folder.parent / "programs"
    programs.mkdir()
    for name, output in {"df": PLENTY, "uname": "Linux", **commands}.items():
        machine = '[ "$1" = -m ] && echo x86_64 && exit\n' if name == "uname" else ""
        (programs / name).write_text(f"#!/usr/bin/env bash\n{machine}printf '{output}\\n'\n")
        (programs / name).chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(folder.parent / "empty_cache"),
    }
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ({"uname": "Darwin"}, "they are pinned for Linux on x86-64, this is Darwin"),
        ({"df": "Avail\\n   7"}, "they take 12 GB, and 7 GB of disk are free"),
    ],
)
def test_where_it_cannot_be_had_it_says_so_and_leaves_an_environment_that_is_there(tmp_path, commands, reason):
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("home = /usr/bin\n")
    result = make_environment(folder, **commands)
    assert result.returncode == 3 and reason in result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("skipped: ")
    assert (folder / "pyvenv.cfg").exists()


def test_without_a_package_index_it_says_so(tmp_path):
    result = make_environment(tmp_path / "environment")
    assert result.returncode == 3
    (said,) = result.stderr.splitlines()
    assert said.startswith("skipped: ") and "no package index answers (ERROR: No matching distribution" in said
    assert not (tmp_path / "environment" / ".complete").exists()
