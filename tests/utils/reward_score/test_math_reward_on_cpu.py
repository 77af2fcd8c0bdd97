"""Scores of whole responses: the table of verdicts, multiple choice, arbitrary strings, and verl's other data sets."""

import doctest
import random

import pytest
from answer_cases import ANSWER_CASES

from verl.upstream.utils.reward_score import default_compute_score as upstream_compute_score
from verl.utils.reward_score import default_compute_score, math_reward
from verl.utils.reward_score.math_reward import CHOICE_DATA_SOURCES, MATH_DATA_SOURCES, compute_score, compute_scores
from verl.utils.reward_score.verifier_pool import VerifierPool

ALL_CASES = [case for cases in ANSWER_CASES.values() for case in cases]


@pytest.fixture(scope="module")
def pool():
    pool = VerifierPool(num_workers=2, time_limit=0.5)
    yield pool
    pool.close()


class NoVerifier:
    """Stands for the pool where math-verify must not be asked."""

    def verify(self, pairs):
        raise AssertionError(f"math-verify was asked about {pairs}")


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(math_reward).failed == 0


def test_the_table_is_as_large_as_promised():
    assert len(set(ALL_CASES)) == len(ALL_CASES) >= 150
    assert sum(equal for _, _, equal in ALL_CASES) >= 50
    assert sum(not equal for _, _, equal in ALL_CASES) >= 50


@pytest.mark.parametrize("kind", ANSWER_CASES)
@pytest.mark.parametrize("wording", [r"Hence \boxed{%s}.", "Some steps.\n\nAnswer: $%s$"], ids=["boxed", "announced"])
def test_verdicts(kind, wording, pool):
    cases = ANSWER_CASES[kind]
    if "boxed" not in wording:  # there, a delimiter or a box of the answer's own would be another response altogether
        cases = [case for case in cases if not any(mark in case[0] for mark in ("$", r"\(", "boxed"))]
    answers, truths, expected = zip(*cases, strict=True)
    scores = compute_scores(["math_500"] * len(cases), [wording % answer for answer in answers], truths, pool)
    wrong = [case for case, score in zip(cases, scores, strict=True) if score["acc"] != float(case[2])]
    assert not wrong


@pytest.mark.parametrize("source", sorted(MATH_DATA_SOURCES))
def test_every_mathematics_data_source_is_scored_0_or_1(source):
    assert default_compute_score(source, r"\boxed{7}", "7") == {"score": 1.0, "acc": 1.0, "pred": "7"}
    assert default_compute_score(source, r"\boxed{8}", "7") == {"score": 0.0, "acc": 0.0, "pred": "8"}
    assert default_compute_score(source, "I give up", "7") == {"score": 0.0, "acc": 0.0, "pred": ""}


@pytest.mark.parametrize("source", sorted(CHOICE_DATA_SOURCES))
def test_multiple_choice(source):
    assert default_compute_score(source, r"\boxed{\text{(B)}}", "B") == {"score": 1.0, "acc": 1.0, "pred": "B"}
    assert default_compute_score(source, "The answer is C.", "B") == {"score": 0.0, "acc": 0.0, "pred": "C"}
    assert default_compute_score(source, r"\boxed{42}", "B")["score"] == 0.0


def test_answers_written_alike_are_settled_without_math_verify():
    answers = [r"\dfrac{1}{2}", r"x^{2}+\sqrt3", r"\text{Tuesday}", r"(-\infty, 2]", "1,234", r"50\%"]
    truths = [r"\frac{1}{2}", r"x^2 + \sqrt{3}", "Tuesday", r"\left(-\infty,2\right]", "1234", "0.5"]
    responses = [rf"\boxed{{{answer}}}" for answer in answers]
    scores = compute_scores(["math_500"] * len(answers), responses, truths, NoVerifier())
    assert [score["acc"] for score in scores] == [1.0] * len(answers)


def test_a_response_without_an_answer_is_not_verified():
    assert compute_score("amc", "x = (1", "7+x", NoVerifier())["acc"] == 0.0


def test_predictions_that_differ_in_noise_only_are_one_vote():
    responses = [r"\boxed{\frac{1}{2}}", r"\boxed{\dfrac12}", r"Answer: $\tfrac{1}{2}$", r"\boxed{ \frac{1}{2}.}"]
    scores = compute_scores(["amc"] * 4, responses, [r"\frac{1}{2}"] * 4, NoVerifier())
    assert len({score["pred"] for score in scores}) == 1


def test_a_number_as_ground_truth_is_understood():
    assert compute_score("amc", r"\boxed{142}", 142.0)["acc"] == 1.0


def test_the_lengths_must_agree():
    with pytest.raises(ValueError, match="2 data sources, 1 responses, 1 ground truths"):
        compute_scores(["amc", "amc"], ["x"], ["y"])


def test_an_unknown_data_source_is_refused_by_name():
    with pytest.raises(ValueError, match="'gsm9k'.*math_500"):
        compute_score("gsm9k", "x", "y")


@pytest.mark.parametrize(
    ("source", "response", "truth"),
    [
        ("openai/gsm8k", "so\n#### 18", "18"),
        ("openai/gsm8k", "so\n#### 19", "18"),
        ("math_dapo", "Answer: 34", "34"),
        ("math_dapo", "Answer: 35", "34"),
        ("aime24", "Answer: 34", "34"),
        ("DigitalLearningGmbH/MATH-lighteval", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("HuggingFaceH4/MATH-500", r"\boxed{0}", r"\frac{1}{2}"),
        ("searchR1_nq", "<answer>Paris</answer>", {"target": ["Paris"]}),
    ],
)
def test_other_data_sources_score_as_in_verl(source, response, truth):
    assert default_compute_score(source, response, truth) == upstream_compute_score(source, response, truth)


def test_a_data_source_nobody_knows_is_verls_error():
    with pytest.raises(NotImplementedError, match="nobody_knows"):
        default_compute_score("nobody_knows", "x", "y")


FRAGMENTS = (
    r"\boxed{ \boxed \frac{ \frac12 \sqrt{ \sqrt[ \text{ \left( \right] \begin{pmatrix} \end{pmatrix} "
    r"\\ & { } { } } } ( ) [ ] "
    r"\{ \} $ $$ \( \) \[ \] \pm \cup \infty \pi ^ _ ^{ _{ = < > \le \in , ; . ! % \% | / + - * 0 1 7 42 "
    r"3.5 1e9 10^{ x y n e i "
    r"\sum_{ \int \lim \log \sin \binom{ \mathbb{R} "
    r"answer is Answer: and or A B (C) #### </think> \n é 中 \ufffd \0 √ ½ ∞"
).split()


def random_response(generator: random.Random) -> str:
    fragments = generator.choices(FRAGMENTS, k=generator.randint(0, 25))
    body = generator.choice(["", " "]).join(fragments).replace(r"\n", "\n").replace(r"\0", "\0")
    return generator.choice(["%s", r"\boxed{%s}", "Answer: %s", "$%s$"]) % body


def test_ten_thousand_random_responses_raise_nothing(pool):
    generator = random.Random(0)
    sources = sorted(MATH_DATA_SOURCES | CHOICE_DATA_SOURCES)
    truths = ["42", r"\frac{1}{2}", "x^2+1", r"\{1,2\}", "[0,1)", r"\text{even}", "B", r"2\pi", "x<3", "50\\%"]
    responses = [random_response(generator) for _ in range(10_000)]
    scores = compute_scores(generator.choices(sources, k=10_000), responses, generator.choices(truths, k=10_000), pool)
    assert len(scores) == 10_000
    assert {score["score"] for score in scores} <= {0.0, 1.0}
    assert all(isinstance(score["pred"], str) for score in scores)
    assert sum(score["pred"] != "" for score in scores) > 5_000


@pytest.mark.parametrize(
    "response",
    [
        *(
            "\\boxed{" * 5000,
            "{" * 50_000,
            "$" * 50_000,
            "answer of " * 5000,
            "\ud800",
            "\0",
            "1" * 100_000,
            "\\" * 9999,
        ),
        *("1" + " " * 1000 + "x", "1" + "\t" * 1000 + "x", "1" + "~" * 1000 + "x"),
    ],
    ids=[
        *("boxes", "braces", "dollars", "cues", "surrogate", "null", "digits", "backslashes"),
        *("blanks", "tabs", "ties"),
    ],
)
def test_pathological_responses_score_0(response, pool):
    assert compute_score("amc", response, "7+x", pool)["score"] == 0.0
    assert compute_score("amc", rf"\boxed{{{response}}}", "7+x", pool)["score"] == 0.0
