"""The pinned requirements: whole, free of contradictions, and resolvable where a resolver and the network are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PINS = ROOT / "requirements"
FILES = [ROOT / "requirements.txt", *sorted(PINS.glob("*.txt"))]
PIN = re.compile(r"(?P<name>[\w.-]+)(\[\w+\])?==(?P<version>\S+)")


def lines_of(path: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pins_of(path: Path) -> dict[str, str]:
    matches = [PIN.fullmatch(line) for line in lines_of(path) if not line.startswith("-")]
    return {re.sub(r"[-_.]+", "-", match["name"]).lower(): match["version"] for match in matches}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_every_file_named_exists(path):
    for line in lines_of(path):
        if line.startswith("-"):
            option, named = line.split()
            assert option in ("-r", "-c") and (path.parent / named).is_file(), line
        else:
            assert PIN.fullmatch(line), line


@pytest.mark.parametrize("environment", ["requirements.txt", "requirements/vllm.txt"])
def test_no_package_has_two_versions_in_one_environment(environment):
    versions: dict[str, set[str]] = {}
    waiting = [ROOT / environment]
    while waiting:
        path = waiting.pop()
        waiting += [path.parent / line.split()[1] for line in lines_of(path) if line.startswith("-")]
        for name, version in pins_of(path).items():
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
    assert versions["verl"] == {"0.5.0"}


def test_the_gpu_environment_has_vllm_its_torch_and_what_builds_flash_attn_in_a_step_of_its_own():
    pins = pins_of(PINS / "vllm.txt")
    assert pins == {"torch": "2.8.0", "vllm": "0.10.2", "setuptools": "79.0.1", "wheel": "0.45.1"}
    step = next(line for line in (PINS / "vllm.txt").read_text().splitlines() if "flash-attn==" in line)
    assert step.startswith("#") and "--no-build-isolation" in step
    assert step.split("pip install ")[1] in (ROOT / "examples" / "docker" / "Dockerfile").read_text()


def is_index_reachable() -> bool:
    try:
        with urllib.request.urlopen("https://pypi.org/simple/verl/", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(find_spec("uv") is None, reason="needs uv, which resolves in seconds: pip install uv")
@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.12"])
def test_uv_resolves_the_pins_of_the_gpu_environment_together(python_version):
    if not is_index_reachable():
        pytest.skip("needs the network")
    result = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--quiet", str(PINS / "vllm.txt")]
        # The certificates that `is_index_reachable` trusts; uv brings its own, which know no company's proxy.
        + ["--python-version", python_version, "--python-platform", "x86_64-manylinux_2_28", "--system-certs"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    resolved = dict(line.split("==") for line in result.stdout.splitlines() if re.match(r"\w\S*==\S+$", line))
    expected = {**pins_of(PINS / "core.txt"), **pins_of(PINS / "vllm.txt")}
    assert {name: resolved.get(name) for name in expected} == expected


@pytest.mark.skipif("TEST_PIP_RESOLVER" not in os.environ, reason="takes minutes; set TEST_PIP_RESOLVER=1 to run it")
def test_pip_resolves_the_pins_of_the_gpu_environment_together():
    if not is_index_reachable():
        pytest.skip("needs the network")
    # Wheels only, so that nothing is built; antlr4's runtime of this version is published as source alone.
    options = [
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--only-binary=:all:",
        "--no-binary=antlr4-python3-runtime",
    ]
    command = [sys.executable, "-m", "pip", "install", *options, "-r", str(PINS / "vllm.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
