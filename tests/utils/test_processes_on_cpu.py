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


def wait_until(condition: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
