"""Verdicts on whole responses: the labelled cases of others, and neighbours of every kind among them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from neighbour_cases import ANSWER_NEIGHBOURS

from verl.utils.reward_score.answer_equivalence import quick_verdict
from verl.utils.reward_score.answer_normalization import normalize_answer
from verl.utils.reward_score.math_reward import compute_scores
from verl.utils.reward_score.verifier_pool import VerifierPool

LABELLED, OUTSIDE = (
    [json.loads(line) for line in Path(__file__).with_name(name).read_text().splitlines()]
    for name in ("grading_cases.jsonl", "outside_cases.jsonl")
)
"""Labels of others; and labels given before reading the rules, by someone who tried to break them."""
KINDS = sorted({case["kind"] for case in LABELLED + OUTSIDE})


@pytest.fixture(scope="module")
def pool():
    pool = VerifierPool(num_workers=2)
    yield pool
    pool.close()


@pytest.mark.parametrize("kind", KINDS)
def test_labelled_responses(kind, pool):
    cases = [case for case in LABELLED + OUTSIDE if case["kind"] == kind]
    columns = ([case[column] for case in cases] for column in ("data_source", "response", "ground_truth"))
    scores = compute_scores(*columns, pool=pool)
    assert [case for case, score in zip(cases, scores, strict=True) if bool(score["acc"]) != case["expected"]] == []


@pytest.mark.parametrize("kind", ANSWER_NEIGHBOURS)
def test_neighbours(kind, pool):
    answers, truths, expected = zip(*ANSWER_NEIGHBOURS[kind], strict=True)
    responses = [rf"So the answer is $\boxed{{{answer}}}$." for answer in answers]
    scores = compute_scores(["math_500"] * len(answers), responses, truths, pool)
    verdicts = [bool(score["acc"]) for score in scores]
    assert [case for case, verdict in zip(ANSWER_NEIGHBOURS[kind], verdicts, strict=True) if verdict != case[2]] == []


@pytest.mark.parametrize("kind", ANSWER_NEIGHBOURS)
def test_a_quick_verdict_is_never_wrong(kind):
    for answer, truth, equal in ANSWER_NEIGHBOURS[kind]:
        assert quick_verdict(normalize_answer(answer), normalize_answer(truth)) in (equal, None), (answer, truth)


def test_there_are_at_least_as_many_neighbours_as_labelled_cases():
    neighbours = [case for cases in ANSWER_NEIGHBOURS.values() for case in cases]
    assert len(set(neighbours)) >= len(LABELLED) >= 300
    assert min(Counter(equal for _, _, equal in neighbours).values()) >= 100


PERTURBED = [
    *(
        "42",
        "-7",
        "1234",
        "100",
        "0.75",
        r"\frac{3}{4}",
        r"2\sqrt{3}",
        "x^2+7",
        "(1,2)",
        "[0,5)",
        r"\{1,2\}",
        "3,4",
        "2x+3",
    ),
    *("5x-7y=4", "y=2x+1", "f(2)=373", "3+4i", r"50\%", r"15\text{ cm}", "n^2+n", r"\frac{\pi}{6}", "x<3", r"\log_2 8"),
]
APPENDED = [
    "t",
    "h",
    "'",
    "_2",
    "=7",
    ",7",
    r" \quad 9",
    r"\text{ or } 8",
    r"\text{ million}",
    r" \bmod 5",
    "+1",
    " 6",
    "^3+1",
]
BEFORE = ["41=", r"\neg ", r"\text{not } ", "2", r"\text{less than }", "8, ", "3 "]


@pytest.mark.parametrize("truth", PERTURBED)
def test_no_perturbation_of_an_answer_is_accepted(truth, pool):
    """What is put before or behind an answer in these ways makes it another one, or several, or none."""
    answers = [truth + more for more in APPENDED] + [before + truth for before in BEFORE]
    responses = [rf"\boxed{{{answer}}}" for answer in answers]
    scores = compute_scores(["math_500"] * len(answers), responses, [truth] * len(answers), pool)
    assert [answer for answer, score in zip(answers, scores, strict=True) if score["acc"]] == []


@pytest.mark.parametrize(
    "truth", ["42", "5x-7y+4=0", r"\frac{37}{41}", "x^2+17", "(13,21)", "f(2)=373", "3+4i", "2^{n+3}"]
)
def test_another_digit_is_another_answer(truth, pool):
    answers = [
        truth[:place] + digit + truth[place + 1 :]
        for place, old in enumerate(truth)
        for digit in "0123456789"
        if old.isdigit() and digit != old
    ]
    responses = [rf"\boxed{{{answer}}}" for answer in answers]
    scores = compute_scores(["math_500"] * len(answers), responses, [truth] * len(answers), pool)
    assert [answer for answer, score in zip(answers, scores, strict=True) if score["acc"]] == []
