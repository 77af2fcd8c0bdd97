"""Processes that run math-verify under a time limit, from any thread and inside any Ray worker.

math-verify limits its time with ``signal.alarm``, which works in main threads only and cannot interrupt a long
computation in C; Ray actors run in other threads. Here it runs in processes of its own, which import neither verl nor
torch, start when first needed, and end with the process that started them.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

logger = logging.getLogger(__name__)

MATH_VERIFY_REQUIREMENT = "math-verify==0.9.0"
WORKER_FILE = Path(__file__).with_name("math_verify_worker.py")
RUN_WORKER = """
import importlib, sys, types
package = types.ModuleType("grading")
package.__path__ = [sys.argv[1]]
sys.modules["grading"] = package
importlib.import_module("grading." + sys.argv[2]).main(sys.argv[3:])
"""
"""Runs a module of this folder as one of a package of its own, so that its relative imports need not import verl."""
MOST_WORKERS = 16
MEMORY_LIMIT = 4 * 2**30
REMEMBERED_CHARACTERS = 2**24
"""Of the pairs whose verdicts are remembered; about as many bytes."""

LARGEST_CHUNK = 16
TIME_LIMIT = 3.0

Pair = tuple[str, str]


class VerifierPool:
    """Compares pairs of answers with math-verify in several processes.

    Every distinct pair is verified once and remembered, the ones that ran into the time limit included. One whose
    process breaks is verified once more, in another process; breaking that one too, it counts as unequal.

    Args:
        num_workers: processes at most; they start as the number of pairs asks for them. Default: the CPUs available
            to this process, 16 at most.
        time_limit: seconds of processor time for one verification (on a busy machine it may take ten times as long). A
            pair that takes longer counts as unequal.

    Raises:
        ValueError: ``num_workers`` or ``time_limit`` is not positive.
    """

    def __init__(self, num_workers: int | None = None, time_limit: float = TIME_LIMIT) -> None:
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.time_limit = time_limit
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        if not time_limit > 0:
            raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit}")
        self.num_time_limits = 0
        self.num_crashes = 0
        self._workers: list[_Worker] = []
        self._verdicts: OrderedDict[Pair, bool] = OrderedDict()
        self._remembered_characters = 0
        self._lock = threading.Lock()

    def verify(self, pairs: Sequence[Pair]) -> list[bool]:
        """Say for each (answer, ground truth), both normalised, whether the two are mathematically equal.

        Raises:
            RuntimeError: the worker processes cannot start, for instance because math-verify is not installed.
        """
        with self._lock:
            unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._verdicts]
            before = self.num_time_limits, self.num_crashes
            known = {pair: self._verdicts[pair] for pair in pairs if pair in self._verdicts}
            known.update(self._verify_all(unknown))
            self._remember(known)
            self._report(len(unknown), *before)
        return [known[pair] for pair in pairs]

    @property
    def process_ids(self) -> list[int]:
        """The running worker processes, each the leader of a process group."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End the worker processes; the next ``verify`` starts new ones."""
        with self._lock:
            for worker in self._workers:
                worker.stop()
            self._workers.clear()

    def _verify_all(self, pairs: list[Pair]) -> dict[Pair, bool]:
        batch = _Batch(deque(pairs))
        try:
            while len(batch.verdicts) < len(pairs):
                self._hand_out(batch.waiting)
                busy = {worker.connection: worker for worker in self._workers if worker.assigned}
                for connection in wait(list(busy)):
                    self._take_in(busy[connection], batch)
        except BaseException:
            self._abandon_workers()
            raise
        return batch.verdicts

    def _hand_out(self, waiting: deque[Pair]) -> None:
        """Give every idle worker its next chunk, starting workers while there is more to do than they can take."""
        if waiting:
            self._drop_workers_that_broke_while_idle()
        while len(self._workers) < min(self.num_workers, len(waiting)):
            self._workers.append(_Worker(self.time_limit))
        chunk_size = max(1, min(LARGEST_CHUNK, len(waiting) // (4 * len(self._workers) or 1)))
        for worker in self._workers:
            if waiting and not worker.assigned:
                worker.assign([waiting.popleft() for _ in range(min(chunk_size, len(waiting)))])

    def _drop_workers_that_broke_while_idle(self) -> None:
        """Keep the next pairs from workers whose process or child has ended: a pair has two chances only."""
        for worker in [worker for worker in self._workers if not worker.assigned and worker.has_message()]:
            self._drop(worker)

    def _drop_workers_that_are_idle(self) -> None:
        for worker in [worker for worker in self._workers if not worker.assigned]:
            self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.stop()

    def _take_in(self, worker: _Worker, batch: _Batch) -> None:
        kind, content = worker.receive()
        if kind == "verdict":
            batch.verdicts[worker.assigned.popleft()] = bool(content)
        elif kind == "died" and content:
            self._fail_first(worker, batch, hit_time_limit=True)
        elif kind in ("died", "gone"):
            # Its child may have died while idle: the answers still to come would be taken for those of other pairs.
            self._drop(worker)
            if worker.assigned[0] in batch.suspects:
                self._fail_first(worker, batch, hit_time_limit=False)
            else:  # something outside may have ended the process or its child, so the pair gets a second chance
                batch.suspects.add(worker.assigned[0])
                batch.take_back(worker)
                # What ended this one may be ending the others, and must not cost the pair its second chance.
                self._drop_workers_that_are_idle()

    def _fail_first(self, worker: _Worker, batch: _Batch, hit_time_limit: bool) -> None:
        batch.verdicts[worker.assigned.popleft()] = False
        batch.take_back(worker)
        self.num_time_limits += hit_time_limit
        self.num_crashes += not hit_time_limit

    def _abandon_workers(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def _remember(self, verdicts: dict[Pair, bool]) -> None:
        for pair, verdict in verdicts.items():
            if pair not in self._verdicts:
                self._remembered_characters += len(pair[0]) + len(pair[1])
            self._verdicts[pair] = verdict
            self._verdicts.move_to_end(pair)
        while self._remembered_characters > REMEMBERED_CHARACTERS:
            forgotten, _ = self._verdicts.popitem(last=False)
            self._remembered_characters -= len(forgotten[0]) + len(forgotten[1])

    def _report(self, num_verified: int, time_limits_before: int, crashes_before: int) -> None:
        time_limits = self.num_time_limits - time_limits_before
        crashes = self.num_crashes - crashes_before
        if time_limits or crashes:
            logger.warning(
                "Of %d verifications, %d took longer than %g s and %d crashed; they count as wrong answers.",
                num_verified,
                time_limits,
                self.time_limit,
                crashes,
            )


@dataclass
class _Batch:
    """The state of one ``verify`` call: pairs not handed out, verdicts, and pairs on which a worker broke once."""

    waiting: deque[Pair]
    verdicts: dict[Pair, bool] = field(default_factory=dict)
    suspects: set[Pair] = field(default_factory=set)

    def take_back(self, worker: _Worker) -> None:
        self.waiting.extendleft(reversed(worker.assigned))
        worker.assigned.clear()


class _Worker:
    """One worker process and the pairs that it has not answered yet."""

    def __init__(self, time_limit: float) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise RuntimeError(f"math-verify is not installed: pip install '{MATH_VERIFY_REQUIREMENT}'")
        self.connection, theirs = multiprocessing.Pipe()
        location = [str(WORKER_FILE.parent), WORKER_FILE.stem]
        arguments = [*location, str(theirs.fileno()), str(time_limit), str(MEMORY_LIMIT)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN_WORKER, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is this process's to handle
        )
        theirs.close()
        self.owner = os.getpid()
        self.is_ready = False
        self.assigned: deque[Pair] = deque()

    def assign(self, pairs: list[Pair]) -> None:
        self.assigned.extend(pairs)
        try:
            self.connection.send(pairs)
        except OSError:
            logger.debug("worker %d is gone; receive() will say so", self.process.pid)

    def receive(self) -> tuple[str, object]:
        """The worker's next message, or ``("gone", None)``.

        Raises:
            RuntimeError: the worker ended before it was ready.
        """
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            kind, content = "gone", None
        self.is_ready = self.is_ready or kind == "ready"
        if not self.is_ready:
            reason = content or f"it ended with exit code {self.process.wait()}"
            raise RuntimeError(f"A verifier process cannot start ({sys.executable} {WORKER_FILE}): {reason}")
        return kind, content

    def has_message(self) -> bool:
        """Whether ``receive`` would return at once; of a worker without pairs, whether it or its child has ended."""
        return self.connection.poll()

    def stop(self) -> None:
        """End the process and its child. In a process forked from the one that started it, only let go of it."""
        self.connection.close()
        if os.getpid() != self.owner:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            logger.debug("worker %d had ended already", self.process.pid)
        self.process.wait()


def default_num_workers() -> int:
    """The CPUs available to this process, ``MOST_WORKERS`` at most."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, MOST_WORKERS)


_shared_pools: dict[tuple[int, int, float], VerifierPool] = {}
_shared_pools_lock = threading.Lock()


def shared_verifier_pool(num_workers: int | None = None, time_limit: float = TIME_LIMIT) -> VerifierPool:
    """The pool of this process with these settings; it is made when first asked for and closed at exit."""
    key = (os.getpid(), num_workers or default_num_workers(), time_limit)
    with _shared_pools_lock:
        if key not in _shared_pools:
            _shared_pools[key] = VerifierPool(num_workers, time_limit)
            atexit.register(_shared_pools[key].close)
        return _shared_pools[key]
