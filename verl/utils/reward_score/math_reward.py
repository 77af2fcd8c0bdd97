r"""Rewards for mathematics with a final answer and for multiple choice: the data sets of the paper, and NuminaMath.

A response scores 1 when the answer it marks as final equals the ground truth, else 0. The steps, from cheap to dear:
:mod:`.answer_extraction` finds the answer, :mod:`.answer_normalization` gives it one spelling,
:mod:`.answer_equivalence` settles what structure, spelling and arithmetic can settle, and :mod:`.verifier_pool` leaves
the rest to computer algebra (:mod:`.symbolic_equality`), in parallel and under a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from verl.utils.reward_score.answer_equivalence import quick_verdict
from verl.utils.reward_score.answer_extraction import extract_answer
from verl.utils.reward_score.answer_normalization import normalize_answer
from verl.utils.reward_score.choice_extraction import extract_choice
from verl.utils.reward_score.verifier_pool import VerifierPool, shared_verifier_pool

CHOICE_DATA_SOURCES = frozenset({"gpqa_diamond"})
NUMINA_DATA_SOURCES = frozenset(
    f"numina_{part}" for part in ("aops_forum", "synthetic_math", "amc_aime", "synthetic_amc", "cn_k12", "olympiads")
)
"""PRIME's mathematics, whose grader in verl 0.5 calls ``eval`` on the response."""

MATH_DATA_SOURCES = NUMINA_DATA_SOURCES | {
    "dapo_math_17k", "aime_2024_2025", "amc", "math_500", "minerva_math", "olympiad_bench",
}  # fmt: skip
LONGEST_PREDICTION = 256


class Score(TypedDict):
    """``score`` and ``acc`` are 0.0 or 1.0; ``pred`` is the normalised answer, "" when the response marks none."""

    score: float
    acc: float
    pred: str


def is_supported(data_source: str) -> bool:
    """Whether this module scores ``data_source``."""
    return data_source in MATH_DATA_SOURCES or data_source in CHOICE_DATA_SOURCES


def compute_scores(
    data_sources: Sequence[str],
    responses: Sequence[str],
    ground_truths: Sequence[str],
    pool: VerifierPool | None = None,
) -> list[Score]:
    r"""Score a batch of responses.

    Args:
        data_sources: one of ``MATH_DATA_SOURCES`` or ``CHOICE_DATA_SOURCES`` for each response.
        responses: decoded responses, any strings.
        ground_truths: the answers; the letter for multiple choice.
        pool: the processes that run math-verify. Default: the one that this process shares.

    Returns:
        A score for each response, in order.

    Raises:
        ValueError: the lengths differ, or a data source is not one of those above.
        RuntimeError: math-verify is needed and cannot be started.

    >>> compute_scores(["math_500", "gpqa_diamond"], [r"Thus \boxed{0.5}", "The answer is (C)."], [r"\frac12", "B"])
    [{'score': 1.0, 'acc': 1.0, 'pred': '0.5'}, {'score': 0.0, 'acc': 0.0, 'pred': 'C'}]
    """
    if not len(data_sources) == len(responses) == len(ground_truths):
        raise ValueError(
            "one data source and one ground truth for each response are needed, got "
            f"{len(data_sources)} data sources, {len(responses)} responses, {len(ground_truths)} ground truths"
        )
    predictions = [_prediction(*row) for row in zip(data_sources, responses, strict=True)]
    truths = [normalize_answer(str(ground_truth)) for ground_truth in ground_truths]
    verdicts = _verdicts(data_sources, predictions, truths, pool)
    return [
        Score(score=float(verdict), acc=float(verdict), pred=prediction[:LONGEST_PREDICTION])
        for verdict, prediction in zip(verdicts, predictions, strict=True)
    ]


def compute_score(data_source: str, response: str, ground_truth: str, pool: VerifierPool | None = None) -> Score:
    """Score one response; see :func:`compute_scores`, which is much faster for many."""
    return compute_scores([data_source], [response], [ground_truth], pool)[0]


def _prediction(data_source: str, response: str) -> str:
    if data_source in CHOICE_DATA_SOURCES:
        return extract_choice(response) or ""
    if data_source in MATH_DATA_SOURCES:
        return normalize_answer(extract_answer(response) or "")
    known = ", ".join(sorted(MATH_DATA_SOURCES | CHOICE_DATA_SOURCES))
    raise ValueError(f"math_reward does not score the data source {data_source!r}; it scores {known}")


def _verdicts(
    data_sources: Sequence[str], predictions: list[str], truths: list[str], pool: VerifierPool | None
) -> list[bool]:
    verdicts: list[bool | None] = [
        prediction == truth.strip("()").upper() if source in CHOICE_DATA_SOURCES else quick_verdict(prediction, truth)
        for source, prediction, truth in zip(data_sources, predictions, truths, strict=True)
    ]
    undecided = [row for row, verdict in enumerate(verdicts) if verdict is None]
    if undecided:
        pairs = [(predictions[row], truths[row]) for row in undecided]
        for row, verdict in zip(undecided, (pool or shared_verifier_pool()).verify(pairs), strict=True):
            verdicts[row] = verdict
    return [bool(verdict) for verdict in verdicts]
