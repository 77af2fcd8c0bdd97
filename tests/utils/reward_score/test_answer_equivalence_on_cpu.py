"""What spelling and arithmetic settle about two answers."""

import doctest
from fractions import Fraction

import pytest
from answer_cases import ANSWER_CASES
from hypothesis import given
from hypothesis import strategies as st

from verl.utils.reward_score import answer_equivalence, answer_normalization, answer_structure, number_literals
from verl.utils.reward_score.answer_equivalence import quick_verdict
from verl.utils.reward_score.answer_normalization import MAX_ANSWER_LENGTH, normalize_answer
from verl.utils.reward_score.number_literals import parse_number

LATEX = st.lists(
    st.sampled_from([r"\frac", r"\text", "{", "}", "1", "23", "x", "=", "%", ",", ".", "$", "\\", "!", " ", "e", "^"]),
    max_size=20,
).map("".join)
ALL_CASES = [case for cases in ANSWER_CASES.values() for case in cases]


@pytest.mark.parametrize("module", [answer_equivalence, answer_normalization, answer_structure, number_literals])
def test_examples_in_the_documentation_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("answer", "ground_truth", "equal"), ALL_CASES)
def test_a_quick_verdict_is_never_wrong(answer, ground_truth, equal):
    assert quick_verdict(normalize_answer(answer), normalize_answer(ground_truth)) in (equal, None)


@pytest.mark.parametrize("kind", ["decimals", "percentages", "scientific notation", "units and money"])
def test_most_numbers_need_no_computer_algebra(kind):
    cases = ANSWER_CASES[kind]
    decided = [
        quick_verdict(normalize_answer(answer), normalize_answer(truth)) is not None for answer, truth, _ in cases
    ]
    assert sum(decided) >= 0.6 * len(cases)


@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly(value, truth):
    written = [rf"\frac{{{one.numerator}}}{{{one.denominator}}}" for one in (value, truth)]
    assert quick_verdict(*map(normalize_answer, written)) is (value == truth)


@given(st.integers())
def test_grouping_digits_changes_nothing(value):
    assert quick_verdict(normalize_answer(f"{value:,}"), normalize_answer(str(value))) is True


@given(st.decimals(min_value=-1000, max_value=1000, places=4))
def test_a_percentage_equals_its_number_and_its_fraction(value):
    percentage = normalize_answer(rf"{value}\%")
    assert quick_verdict(percentage, str(value)) is True
    assert quick_verdict(percentage, normalize_answer(str(value / 100))) is True


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7),
        ("-7", -7),
        ("1,234,567", 1234567),
        (".5", Fraction(1, 2)),
        ("1/3", Fraction(1, 3)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        (r"3 \times 10^{-2}", Fraction(3, 100)),
        ("2e3", 2000),
        ("10^{-3}", Fraction(1, 1000)),
    ],
)
def test_value_of_a_literal(answer, value):
    assert parse_number(answer).value == value


@pytest.mark.parametrize("answer", ["", "x", "1,23", "1, 234", "1 2", "1/0", r"\frac{1}{0}", "2x", "1..2", "9" * 500])
def test_what_is_not_a_literal(answer):
    assert parse_number(answer) is None


@given(LATEX | st.text(max_size=100), LATEX | st.text(max_size=100))
def test_any_two_strings_get_a_verdict(answer, ground_truth):
    answer, ground_truth = normalize_answer(answer), normalize_answer(ground_truth)
    assert quick_verdict(answer, ground_truth) in (True, False, None)
    assert quick_verdict(answer, answer) is bool(answer)


def test_runs_of_blanks_are_one_blank():
    """The patterns for conjunctions and units would try all their parts: seconds for a thousand blanks."""
    assert normalize_answer("1" + " \t\n~" * 100 + "or" + r"\quad\;" * 50 + "2") == normalize_answer("1 or 2")


def test_answers_of_absurd_length_are_equal_only_when_written_alike():
    long = "1+" * MAX_ANSWER_LENGTH + "1"
    assert quick_verdict(normalize_answer(long), normalize_answer(long)) is True
    assert quick_verdict(normalize_answer(long), str(MAX_ANSWER_LENGTH + 1)) is False
