"""Processes that a command starts: their output goes to a log, their time is shown, none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

_TERMINATED = 128 + signal.SIGTERM
_POLL_SECONDS = 0.5


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an interruption does: what is to be cleaned up is."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_logged(command: Sequence[str], environment: Mapping[str, str], log_path: Path, what: str) -> int:
    """Run a command to its end; a terminal shows ``what`` it does and for how long. It ends with this program.

    Args:
        command: program and arguments.
        environment: its variables, all of them.
        log_path: file to which its output is appended.
        what: a few words for the terminal.

    Returns:
        Its exit status.
    """
    with (
        log_path.open("a") as log,
        tqdm(desc=what, bar_format="{desc}: {elapsed}", leave=False, disable=None) as clock,
    ):
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(_POLL_SECONDS)
                clock.refresh()
        finally:
            end(process)
    return process.returncode


def end(process: subprocess.Popen) -> None:
    """End a process, if it runs, and wait for it."""
    if process.poll() is None:
        process.terminate()
        process.wait()
