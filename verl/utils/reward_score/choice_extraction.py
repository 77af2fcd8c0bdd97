r"""Finds the letter that a response to a multiple-choice question chooses. Standard library only."""

from __future__ import annotations

import re

from .answer_extraction import RETRACTION, after_reasoning, boxed_answer, last_line, last_match

LONGEST_CHOICE_LINE = 12

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bf|rm)(?![A-Za-z])|[{}$*_`\"'“”]"
)
_SPACE = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~")
_CHOICE = re.compile(r"[\s(\[]*(?:(?:the\s+)?(?:option|choice|answer)\b[\s:.(]*)?([A-D])(?![A-Za-z])", re.IGNORECASE)
_ALONE = re.compile(r"[\s(\[]*(?:(?:option|choice)\b[\s:(]*)?([A-D])[\s)\].:,]*", re.IGNORECASE)
_CHOICE_BESIDE = re.compile(
    r"\s*(?:[)\].:,;/|&+=?–-]|\\(?:[A-Za-z]+|\\)|\b(?:and|or|as well as|but also|maybe|possibly|perhaps)\b|\s)*"
    r"\(?(?:option|choice)?\s*\(?([A-D])(?![A-Za-z])(?!\s+[a-z])"
)
_CHOICE_ELSEWHERE = re.compile(r"(?<!not )(?<!not)[\s,;(]([A-D])\s*[):]|\b(?:or|and)\s+\(?([A-D])(?![A-Za-z])")
_CUE = re.compile(
    r"(?:<answer>\s*|\b(?:answer|option|choice)\b(?:(?!\b(?:is|be|not|cannot|can't)\b|n't\b|[.\n:：]).){0,40}?"
    r"(?:\b(?:is|be)\b(?:\s{0,3}[:：])?|[:：])\s{0,8}"
    r"(?:(?:for sure|definitely|clearly|certainly|surely|obviously|therefore|thus|hence|indeed|simply|probably"
    r"|most likely|likely|then|just)\b[\s,:]{0,8}){0,3})"
    r"(?=\W{0,12}(?:(?:option|choice|the|text|math|bf)\W{0,6}){0,4}[A-D](?![A-Za-z]))",
    re.IGNORECASE,
)


def extract_choice(response: str) -> str | None:
    r"""Return the letter A to D that ``response`` chooses in a multiple-choice question, or None.

    Choosing two letters is choosing none.

    >>> extract_choice(r"so the right option is \boxed{\text{(B) } 42}"), extract_choice(r"\boxed{A \lor B}") is None
    ('B', True)
    >>> extract_choice("The correct answer is **C**."), extract_choice("The answer is a matter of taste.") is None
    ('C', True)
    """
    text = after_reasoning(response)
    boxed = boxed_answer(text)
    if boxed is not None:
        plain = _plain(boxed)
        if _CHOICE.match(plain):
            return _leading_choice(plain)
    announced = last_match(_CUE, text)
    if announced and not RETRACTION.search(text, announced.end()):
        return _leading_choice(
            _plain(text[announced.end() : announced.end() + 200].partition("\n")[0].partition(". ")[0])
        )
    line = last_line(text)
    return _leading_choice(_plain(line)) if len(line) <= LONGEST_CHOICE_LINE and not line.islower() else None


def _plain(text: str) -> str:
    return _WRAPPER.sub(" ", _SPACE.sub(" ", text))


def _leading_choice(plain: str) -> str | None:
    """The letter with which ``plain`` begins, unless another one stands beside it; a small letter only by itself."""
    alone = _ALONE.fullmatch(plain)
    if alone:
        return alone.group(1).upper()
    choice = _CHOICE.match(plain)
    if choice is None or not choice.group(1).isupper():
        return None
    letter, rest = choice.group(1), plain[choice.end() :]
    beside = _CHOICE_BESIDE.match(rest)
    others = [beside.group(1)] if beside else []
    others += [found.group(1) or found.group(2) for found in _CHOICE_ELSEWHERE.finditer(rest)]
    return letter if set(others) <= {letter} else None
