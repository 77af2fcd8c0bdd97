"""Commands that start processes: what they said is kept, and none outlives the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from training_process import ROOT

from recipe.knapsack.processes.child_processes import run_logged

# A child that says who it is and sleeps, under a program that is about to be ended.
PROGRAM = """
import os, sys
from pathlib import Path
from recipe.knapsack.processes.child_processes import ended_by_sigterm, run_logged
child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
with ended_by_sigterm():
    run_logged([sys.executable, "-c", child], os.environ, Path(sys.argv[1]), "sleeping")
"""


def test_output_is_appended_and_the_status_returned(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    child = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run_logged([sys.executable, "-c", child], os.environ, log, "failing") == 3
    assert sorted(log.read_text().split()) == ["before", "err", "out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_with_the_program(tmp_path, number):
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(log)], env=environment, stderr=subprocess.PIPE)
    child = int(_wait_for_text(log))
    program.send_signal(number)
    program.communicate(timeout=60)
    assert program.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def _wait_for_text(log):
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline, "the child said nothing"
        time.sleep(0.05)
    return log.read_text()
