"""The script that makes the environment: it refuses a Python that the pinned requirements do not support."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "make_environment.sh"
REFUSAL = "error: Python 3.10, 3.11 or 3.12 is needed and none was found; name one with BASE_PYTHON=/path/to/python\n"


def make_environment(folder: Path, base_python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), str(folder)],
        env={**os.environ, "BASE_PYTHON": base_python},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("base_python", ["/bin/false", "/no/python", "/no/python /bin/false"])
def test_without_a_supported_python_it_says_so_and_makes_nothing(tmp_path, base_python):
    result = make_environment(tmp_path / "environment", base_python)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", REFUSAL)
    assert list(tmp_path.iterdir()) == []


def test_without_a_supported_python_an_environment_that_is_there_stays(tmp_path):
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n")
    assert make_environment(tmp_path, "/bin/false").returncode == 2
    assert [file.read_text() for file in tmp_path.iterdir()] == ["home = /usr/bin\n"]


@pytest.mark.parametrize(
    ("version", "is_supported"), [((3, 9), False), ((3, 10), True), ((3, 12), True), ((3, 13), False)]
)
def test_the_version_decides(tmp_path, version, is_supported):
    """A stand-in that answers the script's question as a Python of that version would, and can make no environment."""
    stand_in = tmp_path / "python"
    stand_in.write_text(
        "#!/usr/bin/env bash\n"
        f'[ "$1" = -c ] && exec {sys.executable} -c "import sys; sys.version_info = {(*version, 0)}; $2"\n'
        '[ "$1" = --version ] && echo "a stand-in" && exit\n'
        "exit 7\n"
    )
    stand_in.chmod(0o755)
    result = make_environment(tmp_path / "environment", str(stand_in))
    assert result.returncode == (7 if is_supported else 2)
    assert result.stdout.startswith("Making the environment") == is_supported
