"""Scores programs in a sandbox; a sandbox that fails stops the run instead of giving a reward of 0.

verl's client answers every failure with the score 0, also where no program was run: the sandbox is down, its answer is
no answer, the test cases of the data cannot be read. A policy would learn from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl.utils.reward_score import sandbox_fusion

__all__ = ["PROGRAM_DATA_SOURCES", "SandboxError", "compute_score"]

PROGRAM_DATA_SOURCES = frozenset({"codecontests", "apps", "codeforces", "taco"})

_NOT_THE_PROGRAMS_FAULT = ("api_error", "sandbox_error", "internal_error")
# The one failure without a status that is the response's own.
_NO_PROGRAM = "Invalid completion (missing code block)"


class SandboxError(RuntimeError):
    """The sandbox, or the data's test cases, failed; the message says how."""


def compute_score(
    url: str, semaphore: Any, memory_limit_mb: int | None, response: str, test_cases: str | Mapping[str, Any]
) -> float:
    """Share of the test cases, of the first ten at most, that the program in a response passes.

    Args:
        url: the sandbox's address.
        semaphore: limits how many programs run at once; None = no limit.
        memory_limit_mb: of each program, in MB.
        response: text with the program in a code block; without one it scores 0.
        test_cases: ``inputs`` and ``outputs``, as a dictionary or its JSON.

    Raises:
        SandboxError: a test case was not run, for a reason that is not the program's.
    """
    score, outcomes = sandbox_fusion.compute_score(
        url, semaphore, memory_limit_mb, response, test_cases, continuous=True
    )
    problem = _failure(outcomes)
    if problem is not None:
        raise SandboxError(f"the sandbox at {url} did not run a program: {problem}")
    return float(score)


def _failure(outcomes: Sequence[Mapping[str, Any]]) -> str | None:
    for outcome in outcomes:
        error = outcome.get("error")
        if error is not None and error != _NO_PROGRAM:
            return str(error)
        status = str(outcome.get("status", ""))
        if status in _NOT_THE_PROGRAMS_FAULT or status.startswith("unknown"):
            details = outcome.get("api_request_error") or outcome.get("stderr") or outcome.get("api_status")
            return status if not details else f"{status}: {details}"
    return None
