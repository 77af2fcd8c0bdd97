"""A run holds its folder: a second one is refused and told by whom; what a crash leaves does not hold it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verl.utils import run_lock
from verl.utils.run_lock import LOCK_FILE, SILENCE_SECONDS, RunFolderInUse, check_free, hold_run_folder

HOLD = "import sys, time, pathlib\nfrom verl.utils.run_lock import hold_run_folder\n"
HOLD += "with hold_run_folder(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


def leave_holder(folder: Path, host: str, pid: int, seconds_ago: float = 0.0) -> None:
    """Leave a file as a holder that ended without releasing it would."""
    file = folder / LOCK_FILE
    file.write_text(json.dumps({"host": host, "pid": pid, "since": "2026-01-02T03:04:05+00:00"}))
    then = time.time() - seconds_ago
    os.utime(file, (then, then))


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has no locks."""

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path):
    with hold_run_folder(tmp_path / "run"):
        for take in (hold_run_folder(tmp_path / "run").__enter__, lambda: check_free(tmp_path / "run")):
            with pytest.raises(RunFolderInUse) as refusal:
                take()
            assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in str(refusal.value)
            assert "\n" not in str(refusal.value)
    with hold_run_folder(tmp_path / "run"):
        pass


def test_looking_writes_nothing(tmp_path):
    check_free(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_free_again_when_its_run_fails(tmp_path):
    with pytest.raises(ValueError, match="reward"), hold_run_folder(tmp_path):
        raise ValueError("reward")
    check_free(tmp_path)


def test_a_folder_is_free_again_when_its_run_is_killed(tmp_path, repository):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=repository)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(RunFolderInUse, match=f"process {process.pid} on"):
        check_free(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == process.pid
    with hold_run_folder(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_holder_on_another_machine_holds_until_it_is_silent(tmp_path):
    leave_holder(tmp_path, "node-7", 4711)
    with pytest.raises(RunFolderInUse, match="process 4711 on node-7, since 2026.*of silence, or delete"):
        check_free(tmp_path)
    leave_holder(tmp_path, "node-7", 4711, seconds_ago=SILENCE_SECONDS + 1)
    check_free(tmp_path)


def test_a_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.01)
    with hold_run_folder(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK_FILE).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK_FILE).stat().st_mtime < SILENCE_SECONDS


def test_without_locks_a_process_that_runs_holds_the_folder(tmp_path, without_locks):
    with hold_run_folder(tmp_path):
        with pytest.raises(RunFolderInUse, match=f"process {os.getpid()}"):
            check_free(tmp_path)
    check_free(tmp_path)
    leave_holder(tmp_path, socket.gethostname(), dead_pid())
    check_free(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}'])
def test_a_file_that_names_no_one_holds_nothing(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    check_free(tmp_path)
    with hold_run_folder(tmp_path):
        pass
