"""The reward of the scripts in this folder: mathematical answers in ``\\boxed{}``, compared by math-verify."""

from __future__ import annotations

from typing import Any

from verl.utils.reward_score.math_verify import compute_score as verify


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Score a response: 1 if its answer equals the ground truth, else 0.

    Returns:
        ``score`` (1.0 or 0.0) and ``acc`` (bool).
    """
    score = float(verify(solution_str, str(ground_truth)))
    return {"score": score, "acc": score > 0}
