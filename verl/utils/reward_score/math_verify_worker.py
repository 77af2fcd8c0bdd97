"""The process that runs math-verify for :mod:`verl.utils.reward_score.verifier_pool`.

It is started by its file name, so that it imports neither verl nor torch, and forks once: the child verifies and the
parent, which holds the imported libraries, forks another whenever a child has died. A child sets kernel timers
before every verification, whose signals end it even inside a computation that never returns to the interpreter.

Messages to the worker are lists of (answer, ground truth), normalised. It sends ``("ready", None)`` once,
``("failed", why)`` if it cannot start, ``("verdict", bool)`` for every pair in order, and ``("died", hit_time_limit)``
when the child died, on the first unanswered pair or while idle; the pairs behind that one have to be sent again.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import traceback
from multiprocessing.connection import Connection

from .symbolic_equality import answers_match

_WARM_UP = [("0.25", r"\\frac{1}{4}"), ("x^2-1", "(x-1)(x+1)"), ("(1,2]", "1<x<2"), ("2,3", r"\\{3,2\\}")]
# A right answer must not turn wrong because other processes have the processor: the limit is one of processor time, and
# wall time only ends what waits for something that does not come.
WALL_TIME_FACTOR = 10
_TIMER_SIGNALS = (signal.SIGPROF, signal.SIGALRM)


def serve(connection: Connection, time_limit: float, memory_limit: int) -> None:
    """Verify what arrives on ``connection`` until it is closed.

    Args:
        connection: the worker's end.
        time_limit: seconds of processor time for one verification; of wall time `WALL_TIME_FACTOR` times as many.
        memory_limit: bytes of address space; a verification that needs more fails and counts as unequal.
    """
    try:
        _prepare(memory_limit)
    except Exception:
        connection.send(("failed", traceback.format_exc()))
        return
    connection.send(("ready", None))
    while True:
        child = os.fork()
        if child == 0:
            _verify_until_closed(connection, time_limit)
            os._exit(0)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if exit_code == 0:
            return
        connection.send(("died", -exit_code in _TIMER_SIGNALS))


def _prepare(memory_limit: int) -> None:
    """Import and warm up everything that the forked children share."""
    logging.disable(logging.CRITICAL)  # math-verify logs every expression it cannot parse
    for timer_signal in _TIMER_SIGNALS:
        signal.signal(timer_signal, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TIMER_SIGNALS)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    if soft_limit == resource.RLIM_INFINITY or soft_limit > memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, hard_limit))
    for answer, ground_truth in _WARM_UP:
        answers_match(answer, ground_truth)


def _verify_until_closed(connection: Connection, time_limit: float) -> None:
    while True:
        try:
            pairs = connection.recv()
        except EOFError:
            return
        for answer, ground_truth in pairs:
            _set_time_limit(time_limit)
            try:
                verdict = bool(answers_match(answer, ground_truth))
            except Exception:  # what math-verify cannot digest is not an equal answer
                verdict = False
            _set_time_limit(0)
            connection.send(("verdict", verdict))


def _set_time_limit(seconds: float) -> None:
    """End this process after ``seconds``; 0 lifts the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_TIME_FACTOR * seconds)


def main(arguments: list[str]) -> None:
    """Serve the connection with the file descriptor, time limit and memory limit that ``arguments`` hold."""
    descriptor, seconds, limit = arguments
    serve(Connection(int(descriptor)), float(seconds), int(limit))
