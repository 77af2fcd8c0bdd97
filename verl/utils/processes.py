"""Processes that end with the run, however that ends.

Run as a program, this file waits for the end of the process that started it: see `end_cluster_with_this_process`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil

__all__ = ["end_cluster_with_this_process", "end_with_parent"]

_SECONDS_TO_END_BY_THEMSELVES = 5.0
# Held for as long as this process lives: without its object a pipe would be closed.
_watchers: list[subprocess.Popen] = []


def end_with_parent(seconds_between_looks: float = 1.0) -> None:
    """End this process soon after the one that started it is gone, however that ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds_between_looks)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


def end_cluster_with_this_process(session_folder: str) -> None:
    """End what is left of the Ray cluster that this process started, soon after this process is gone.

    A killed driver takes Ray's server and workers with it, but not the agents of the node, which Ray 2.48 leaves behind
    for a minute or more.

    Args:
        session_folder: the cluster's, ``ray.init(...).address_info["session_dir"]``; its processes name it.
    """
    # The pipe is closed by whatever ends this process, and by nothing else: no other process inherits its end.
    watcher = subprocess.Popen(
        [sys.executable, __file__, session_folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _watchers.append(watcher)


def _processes_of_cluster(session_folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(session_folder in argument for argument in arguments):
            found.append(process)
    return found


def _end_cluster_after_parent(session_folder: str) -> None:
    sys.stdin.read()
    deadline = time.monotonic() + _SECONDS_TO_END_BY_THEMSELVES
    while _processes_of_cluster(session_folder) and time.monotonic() < deadline:
        time.sleep(0.5)
    for process in _processes_of_cluster(session_folder):
        process.kill()


if __name__ == "__main__":
    _end_cluster_after_parent(sys.argv[1])
