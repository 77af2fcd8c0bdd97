"""A run of the trainer with all the processes that it starts, which are to end with it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
from training_process import SCRIPTS, TrainingProcess

SCRIPT = SCRIPTS / "run_tiny_vllm_cpu.sh"
SECONDS_TO_END = 60
SECONDS_BETWEEN_LOOKS = 0.5


class Family:
    """All processes that a run has started so far, also those whose parents have ended since."""

    def __init__(self, driver: psutil.Process) -> None:
        self._driver = driver
        self._seen: set[psutil.Process] = {driver}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self._driver.is_running():
            parents = {process.pid for process in self._seen}
            for process in psutil.process_iter():  # ascending, so that mostly a child comes after its parent
                with suppress(psutil.NoSuchProcess):
                    if process.ppid() in parents:
                        parents.add(process.pid)
                        self._seen.add(process)
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def alive(self) -> list[psutil.Process]:
        """Those that run; a process that only waits to be reaped does not."""
        return [process for process in list(self._seen) if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class WatchedTraining(TrainingProcess):
    """A small run with vLLM on a task, and its family."""

    def __init__(self, task: Path, run_folder: Path, overrides: tuple[str, ...], script: Path = SCRIPT) -> None:
        super().__init__(script, task, run_folder, overrides)
        self.family = Family(psutil.Process(self.process.pid))

    def assert_it_ends_and_nothing_is_left(self) -> None:
        """Fail unless the run and all of its processes end within a minute by themselves."""
        deadline = time.monotonic() + SECONDS_TO_END
        self.process.wait(timeout=SECONDS_TO_END)
        while self.family.alive() and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        assert [(process.pid, process.name()) for process in self.family.alive()] == []

    def kill_all(self) -> None:
        """Kill whatever is left."""
        for process in self.family.alive():
            process.kill()
