"""A process that is to end with its parent does so, however the parent ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

SECONDS = 10


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_process_ends_soon_after_its_parent(tmp_path, how):
    child = f"""
        import os, time
        from pathlib import Path
        from verl.utils.processes import end_with_parent
        end_with_parent(0.1)
        Path({str(tmp_path / "child")!r}).write_text(str(os.getpid()))
        time.sleep(3600)
    """
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {textwrap.dedent(child)!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text(), 120)
    pid = int((tmp_path / "child").read_text())
    process.send_signal(how)
    process.wait()
    wait_until(lambda: not is_running(pid), SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_nothing_is_left_of_a_cluster_whose_driver_ended(tmp_path, how):
    driver = f"""
        import time
        from pathlib import Path
        import ray
        from verl.utils.processes import end_cluster_with_this_process
        cluster = ray.init(address="local", num_cpus=1, num_gpus=0, include_dashboard=False)
        end_cluster_with_this_process(cluster.address_info["session_dir"])
        Path({str(tmp_path / "session")!r}).write_text(cluster.address_info["session_dir"])
        time.sleep(3600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(driver)], stderr=subprocess.DEVNULL)
    wait_until(lambda: (tmp_path / "session").exists() and (tmp_path / "session").read_text(), 120)
    session = (tmp_path / "session").read_text()
    time.sleep(7)  # longer than a cluster is given to end by itself
    assert len(processes_that_name(session)) > 3
    process.send_signal(how)
    process.wait()
    wait_until(lambda: not processes_that_name(session), 3 * SECONDS)


def processes_that_name(folder: str) -> list[str]:
    """The command lines with ``folder`` in them of the processes that run."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if folder in line]


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
