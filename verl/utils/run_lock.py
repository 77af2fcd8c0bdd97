"""A lock on the folder of a run: two runs in one folder would destroy each other's records.

The lock is the kernel's (``flock``), so that it ends with its holder, however that ends. The file says who holds it. On
file systems that do not share such locks between machines, a beat of the holder tells whether it is alive.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

LOCK_FILE = "run.lock"
BEAT_SECONDS = 30.0
"""Seconds between two beats of a holder, which touch the file."""
SILENCE_SECONDS = 4 * BEAT_SECONDS
"""A holder on another machine that was silent for so long counts as dead."""


class RunFolderInUse(RuntimeError):
    """Another run holds the folder; the message names it and says what to do."""


@dataclass(frozen=True)
class Holder:
    """Who holds a run's folder: a process, and since when (UTC, ISO 8601)."""

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """Return this process as a holder from now on."""
        return cls(socket.gethostname(), os.getpid(), datetime.now(timezone.utc).isoformat(timespec="seconds"))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def check_free(folder: Path) -> None:
    """Raise if another run holds ``folder``; nothing is written.

    Raises:
        RunFolderInUse: a run that is alive, or may be, holds it.
    """
    try:
        file = (folder / LOCK_FILE).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        if _lock(file, folder, fcntl.LOCK_SH):
            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def hold_run_folder(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for a run within the context; it is made if it is not there.

    Raises:
        RunFolderInUse: another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        _lock(file, folder, fcntl.LOCK_EX)
        _write_holder(file, Holder.this_process())
        ended = threading.Event()
        threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            file.truncate(0)  # no one holds it: what a crash leaves is a name


def _lock(file: BinaryIO, folder: Path, kind: int) -> bool:
    """Take the kernel's lock if the file system has it; return whether it has.

    Raises:
        RunFolderInUse: another run holds the folder.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        is_shared = True
    except BlockingIOError:
        raise RunFolderInUse(_refusal(folder, _read_holder(file))) from None
    except OSError:  # the file system has no such locks
        is_shared = False
    holder = _read_holder(file)
    if holder is not None and _may_be_alive(holder, file, is_shared):
        raise RunFolderInUse(_refusal(folder, holder))
    return is_shared


def _may_be_alive(holder: Holder, file: BinaryIO, has_lock: bool) -> bool:
    """Whether a holder that is named, but does not keep us from locking, may be alive all the same."""
    if holder.host == socket.gethostname():
        return not has_lock and _is_running(holder.pid)
    return time.time() - os.fstat(file.fileno()).st_mtime < SILENCE_SECONDS


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except OSError:
            return  # the folder was removed, or is out of reach: another machine may take it


def _write_holder(file: BinaryIO, holder: Holder) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps(asdict(holder)).encode())
    file.flush()
    os.fsync(file.fileno())


def _read_holder(file: BinaryIO) -> Holder | None:
    file.seek(0)
    try:
        content = json.loads(file.read())
        return Holder(str(content["host"]), int(content["pid"]), str(content["since"]))
    except (ValueError, KeyError, TypeError):
        return None  # free, or written this moment


def _refusal(folder: Path, holder: Holder | None) -> str:
    remedy = "wait for its end, end it, or set another trainer.default_local_dir"
    if holder is not None and holder.host != socket.gethostname():
        remedy += (
            f" (if it has died: its name is forgotten after {SILENCE_SECONDS:.0f} s of silence, or delete "
            f"{folder / LOCK_FILE})"
        )
    return f"trainer.default_local_dir={folder} is in use by another run ({holder or 'unknown'}): {remedy}."
