"""Overlay of ``verl.utils.reward_score``: mathematics is scored here, all other data sources as in verl 0.5.

No text of a model is ever evaluated as Python. Three graders of verl 0.5 do that: ``prime_math`` (``eval``), ``geo3k``
(SymPy's ``parse_expr``, which is ``eval``) and ``prime_code`` without a sandbox (``exec``). The data sources of the
first two are scored here; programs need a sandbox. What is not here comes from the installed verl.
"""

from __future__ import annotations

import re
from pkgutil import extend_path
from typing import Any

__path__ = extend_path(__path__, __name__)

from verl.upstream import keep_upstream_names  # noqa: E402
from verl.upstream.utils.reward_score import (  # noqa: E402  (needs __path__)
    default_compute_score as upstream_compute_score,
)
from verl.utils.reward_score import math_reward, program_reward  # noqa: E402

GEOMETRY_DATA_SOURCE = "hiyouga/geometry3k"
_GEOMETRY_FORMAT = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)


def default_compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    sandbox_fusion_url: str | None = None,
    concurrent_semaphore: Any = None,
    memory_limit_mb: int | None = None,
) -> float | dict[str, Any]:
    """Score a response by the rule of its data source.

    Args:
        data_source: one of ``math_reward.MATH_DATA_SOURCES`` or ``math_reward.CHOICE_DATA_SOURCES``, for which the
            result is ``{"score": 0.0 or 1.0, "acc": the same, "pred": str}``; ``hiyouga/geometry3k``, whose score
            weighs the format by a tenth, as in verl; any other goes to verl's own function.
        solution_str: the decoded response.
        ground_truth: the answer.
        extra_info: passed on to verl's own function, as are the arguments behind it, which run programs in a sandbox.

    Raises:
        NotImplementedError: neither knows the data source.
        ValueError: the data source asks for programs, and there is no sandbox to run them in.
        SandboxError: there is one, and it did not run them.
    """
    if math_reward.is_supported(data_source):
        return math_reward.compute_score(data_source, solution_str, ground_truth)
    if data_source == GEOMETRY_DATA_SOURCE:
        return _geometry_score(solution_str, ground_truth)
    if data_source in program_reward.PROGRAM_DATA_SOURCES:
        if not sandbox_fusion_url:
            raise ValueError(
                f"data source {data_source!r} asks for programs, and without a sandbox they would run in the trainer's "
                "own process; set reward_model.sandbox_fusion.url to the address of a sandbox"
            )
        return program_reward.compute_score(
            sandbox_fusion_url, concurrent_semaphore, memory_limit_mb, solution_str, ground_truth
        )
    return upstream_compute_score(
        data_source,
        solution_str,
        ground_truth,
        extra_info,
        sandbox_fusion_url,
        concurrent_semaphore,
        memory_limit_mb,
    )


def _geometry_score(response: str, ground_truth: str) -> dict[str, Any]:
    """Nine tenths for the answer, one for the format, as in verl."""
    score = math_reward.compute_score("math_500", response, ground_truth)
    return {**score, "score": 0.9 * score["acc"] + 0.1 * bool(_GEOMETRY_FORMAT.fullmatch(response))}


_default_compute_score = default_compute_score
"""The deprecated name that verl 0.5 still has for it."""

__all__ = ["_default_compute_score", "default_compute_score", "math_reward", "program_reward"]


keep_upstream_names(globals())
