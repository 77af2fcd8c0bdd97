"""The answer a response marks as final, and nothing else."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from response_cases import CHOICE_RESPONSES, MATH_RESPONSES

from verl.utils.reward_score import answer_extraction, choice_extraction
from verl.utils.reward_score.answer_extraction import extract_answer
from verl.utils.reward_score.choice_extraction import extract_choice

MARKUP = st.lists(
    st.sampled_from(["\\boxed", "{", "}", "$", "\\[", "\\]", "answer", " is", ":", "A", "5", "\n", "and", ",", "x"]),
    max_size=40,
).map("".join)


@pytest.mark.parametrize("module", [answer_extraction, choice_extraction])
def test_examples_in_the_documentation_hold(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(("response", "answer"), MATH_RESPONSES)
def test_final_answer_of_a_response(response, answer):
    assert extract_answer(response) == answer


@pytest.mark.parametrize(("response", "letter"), CHOICE_RESPONSES)
def test_choice_of_a_response(response, letter):
    assert extract_choice(response) == letter


@pytest.mark.parametrize("answer", ["42", r"\frac{1}{2}", "(1,2)", r"\{1,2\}", "x=1"])
def test_reasoning_before_a_box_does_not_change_the_answer(answer):
    reasoning = r"We try \boxed{0}. The answer is 1." + "\n\nThen $x^2 = 4$ and so on. " * 300
    assert extract_answer(reasoning + rf"\boxed{{{answer}}}") == answer


def test_a_response_cut_off_inside_of_its_box_marks_no_answer():
    response = r"Adding up, the total equals \boxed{\frac{1}{2}}"
    assert extract_answer(response) == r"\frac{1}{2}"
    assert all(extract_answer(response[:-cut]) is None for cut in range(1, len(r"{\frac{1}{2}}")))


@given(MARKUP | st.text(max_size=200))
def test_any_string_gives_a_non_empty_answer_or_none(response):
    assert extract_answer(response) != ""
    assert extract_choice(response) in {"A", "B", "C", "D", None}
