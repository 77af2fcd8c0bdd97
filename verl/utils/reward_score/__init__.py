"""Overlay of ``verl.utils.reward_score``: the data sets of the paper are scored here, all others as in verl 0.5.

What is not here comes from the installed verl.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import Any

__path__ = extend_path(__path__, __name__)

from verl.upstream import keep_upstream_names  # noqa: E402
from verl.upstream.utils.reward_score import (  # noqa: E402  (needs __path__)
    default_compute_score as upstream_compute_score,
)
from verl.utils.reward_score import math_reward  # noqa: E402


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
            result is ``{"score": 0.0 or 1.0, "acc": the same, "pred": str}``; any other goes to verl's own function.
        solution_str: the decoded response.
        ground_truth: the answer.
        extra_info: passed on to verl's own function, as are the arguments behind it, which run programs in a sandbox.

    Raises:
        NotImplementedError: neither knows the data source.
    """
    if math_reward.is_supported(data_source):
        return math_reward.compute_score(data_source, solution_str, ground_truth)
    return upstream_compute_score(
        data_source,
        solution_str,
        ground_truth,
        extra_info,
        sandbox_fusion_url,
        concurrent_semaphore,
        memory_limit_mb,
    )


_default_compute_score = default_compute_score
"""The deprecated name that verl 0.5 still has for it."""

__all__ = ["_default_compute_score", "default_compute_score", "math_reward"]


keep_upstream_names(globals())
