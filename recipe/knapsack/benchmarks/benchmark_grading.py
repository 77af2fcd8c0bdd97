"""Verdicts on labelled cases: this grader, and what math-verify alone makes of them.

    python -m recipe.knapsack.benchmark_grading tests/utils/reward_score/grading_cases.jsonl

A line of a file is one case: ``response``, ``ground_truth``, ``expected`` (is it right?), ``data_source`` and ``kind``.
Three graders see the same cases: this one; math-verify on the answers that this one extracts; math-verify on whole
responses.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from verl.utils.reward_score.answer_extraction import extract_answer
from verl.utils.reward_score.math_reward import compute_scores
from verl.utils.reward_score.verifier_pool import VerifierPool

SECONDS_PER_VERDICT = 5
Case = dict[str, Any]


@dataclass(frozen=True)
class Tally:
    """How the verdicts of one grader compare with the labels."""

    right: int
    false_accepts: int
    false_rejects: int

    @classmethod
    def of(cls, verdicts: Sequence[bool], labels: Sequence[bool]) -> Tally:
        """Count; both are of the same length.

        >>> Tally.of([True, True, False], [True, False, True])
        Tally(right=1, false_accepts=1, false_rejects=1)
        """
        pairs = list(zip(verdicts, labels, strict=True))
        return cls(
            right=sum(verdict == label for verdict, label in pairs),
            false_accepts=sum(verdict and not label for verdict, label in pairs),
            false_rejects=sum(label and not verdict for verdict, label in pairs),
        )


def read_cases(path: Path) -> list[Case]:
    """Raises ``SystemExit`` in one line where the file is missing, empty, or no list of cases."""
    try:
        cases = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        lacking = {"response", "ground_truth", "expected", "data_source"} - set.intersection(*map(set, cases))
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"error: {path} holds no labelled cases: {error}") from None
    if lacking:
        raise SystemExit(f"error: {path} has cases without {', '.join(sorted(lacking))}")
    return cases


def verdicts_of_this_grader(cases: Sequence[Case], pool: VerifierPool) -> list[bool]:
    columns = ([case[name] for case in cases] for name in ("data_source", "response", "ground_truth"))
    return [bool(score["acc"]) for score in compute_scores(*columns, pool=pool)]


def verdict_of_math_verify(response: str, ground_truth: str) -> bool:
    """What math-verify says of a response; what it cannot parse, or not in time, it calls wrong itself."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every expression that it cannot parse
    truth = parse(rf"\boxed{{{ground_truth}}}", parsing_timeout=SECONDS_PER_VERDICT)
    answer = parse(response, parsing_timeout=SECONDS_PER_VERDICT)
    return bool(verify(truth, answer, timeout_seconds=SECONDS_PER_VERDICT))


def boxed_answer(response: str) -> str:
    return rf"\boxed{{{extract_answer(response) or ''}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="+", help="JSON lines")
    arguments = parser.parse_args()
    pool = VerifierPool(num_workers=2)
    alone: dict[str, Callable[[str], str]] = {
        "math-verify on extracted answers": boxed_answer,
        "math-verify on responses": str,
    }
    for path in arguments.cases:
        cases = read_cases(path)
        labels = [bool(case["expected"]) for case in cases]
        tallies = {"this grader": Tally.of(verdicts_of_this_grader(cases, pool), labels)}
        for name, answer_of in alone.items():
            verdicts = [
                verdict_of_math_verify(answer_of(case["response"]), case["ground_truth"])
                for case in tqdm(cases, desc=name, leave=False)
            ]
            tallies[name] = Tally.of(verdicts, labels)
        print(f"{path.name}: {len(cases)} cases, {sum(labels)} of them right")
        print(f"{'grader':<34}{'right':>7}{'false accepts':>15}{'false rejects':>15}")
        for name, tally in tallies.items():
            print(f"{name:<34}{tally.right:>7}{tally.false_accepts:>15}{tally.false_rejects:>15}")
    pool.close()


if __name__ == "__main__":
    main()
