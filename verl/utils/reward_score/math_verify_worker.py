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
import sys
import traceback
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

_WARM_UP = [("0.25", r"\\frac{1}{4}"), ("x^2-1", "(x-1)(x+1)"), ("(1,2]", "1<x<2"), ("2,3", r"\\{3,2\\}")]
SMALL = 1e-3
# A right answer must not turn wrong because other processes have the processor: the limit is one of processor time, and
# wall time only ends what waits for something that does not come.
WALL_TIME_FACTOR = 10
_TIMER_SIGNALS = (signal.SIGPROF, signal.SIGALRM)


def answers_match(answer: str, ground_truth: str) -> bool:
    r"""Whether math-verify finds two normalised answers equal.

    It differs from plain math-verify in three cases: percentages inside of an answer are understood, an inequality
    matches the interval it describes, and numbers below 0.001 must agree in six significant digits, where math-verify
    takes any two below 1e-15 for equal.

    >>> answers_match(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), answers_match("-1 < x < 2", "(-1, 2)")
    (True, True)
    >>> answers_match(r"\pi \times 10^{-19}", r"2\pi \times 10^{-21}")
    False
    """
    from math_verify import verify

    gold = _parsed(ground_truth.replace("%", ""))
    if not gold:
        return False
    readings = [answer.replace("%", "")]
    if ("%" in answer) != ("%" in ground_truth):
        readings.append(rf"\frac{{{readings[0]}}}{{100}}" if "%" in answer else rf"100({readings[0]})")
    return any(
        not _differ_at_a_point(gold, prediction)
        and verify(gold, prediction, allow_set_relation_comp=True, timeout_seconds=None)
        and not _differ_in_magnitude(gold, prediction)
        for prediction in map(_parsed, readings)
    )


@lru_cache(maxsize=256)
def _parsed(latex: str) -> list[Any]:
    """The expression that ``latex`` as a whole is, in a list; [] when it is none.

    Many responses are compared with the same ground truth, and parsing is most of the work.
    """
    from math_verify import LatexExtractionConfig, parse

    return parse(
        f"${latex}$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        extraction_mode="first_match",  # the whole answer, or nothing: never a fraction inside of garbage
        parsing_timeout=None,
    )


def _differ_at_a_point(gold: list[Any], prediction: list[Any]) -> bool:
    """Whether two expressions in the same variables have different values at a point of positive numbers.

    This spares math-verify the simplification of a difference that is not zero, its dearest operation.
    """
    from sympy import Expr, Rational

    if not (len(gold) == len(prediction) == 1 and isinstance(gold[0], Expr) and isinstance(prediction[0], Expr)):
        return False
    variables = gold[0].free_symbols
    if not variables or variables != prediction[0].free_symbols:
        return False
    point = {variable: Rational(137 + 61 * number, 100) for number, variable in enumerate(sorted(variables, key=str))}
    try:
        truth, guess = (complex(one.subs(point).evalf()) for one in (gold[0], prediction[0]))
    except (TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError):
        return False  # no numeric value there, so math-verify decides
    return abs(truth - guess) > 1e-6 * (1 + abs(truth))


def _differ_in_magnitude(gold: list[Any], prediction: list[Any]) -> bool:
    """Whether both are small real numbers more than one millionth of ``gold`` apart."""
    from sympy import Expr, Float

    if not (len(gold) == len(prediction) == 1):
        return False
    truth, guess = gold[0], prediction[0]
    if not all(isinstance(one, Expr) and one.is_number and one.is_real for one in (truth, guess)):
        return False
    truth, guess = Float(truth.doit().evalf(30)), Float(guess.doit().evalf(30))
    return min(abs(truth), abs(guess)) < SMALL and abs(truth - guess) > abs(truth) * 1e-6


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


if __name__ == "__main__":
    descriptor, seconds, limit = sys.argv[1:]
    serve(Connection(int(descriptor)), float(seconds), int(limit))
