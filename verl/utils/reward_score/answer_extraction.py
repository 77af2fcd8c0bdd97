r"""Finds the final answer in a model's response.

Only an answer that the response *marks* as final counts: the last ``\boxed{}``, else the last "answer is ..." or
"Answer: ...", else an expression that the response ends with. A number that merely occurs somewhere does not: a
response cut off at its length limit would otherwise be a success by chance, and a single chance success turns the
estimated success rate of an unsolved prompt from 0 into something to spend a budget on.

Every function here takes any string, raises nothing, and runs in time linear in its length. Standard library only.
"""

from __future__ import annotations

import re
from collections import deque

MAX_BOXES = 8
LONGEST_CHOICE_LINE = 12
END_OF_REASONING = "</think>"

_BOX_COMMANDS = ("\\boxed", "\\fbox")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED_BOX = re.compile(r"\s*([^\s{}$]+)")
_BETWEEN_BOXES = re.compile(r"[\s$.]*(?:,|;|(?:,\s*)?(?:\\text\{)?\s*(?:and|or)\s*\}?)[\s$]*")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BETWEEN_SPANS = re.compile(r"\s*(?:,\s*(?:and|or)?|;|and|or)\s*")
_ANSWER_CUE = re.compile(
    r"\banswers?\b(?:\s(?:to|for|of)\s[^.\n:$]{0,80}?)?[\s*_`]{0,6}"
    r"(?:(?:is|are)\b|[:：=])|\bfinal answer\b[*_ \t]*\n|####",
    re.IGNORECASE,
)
_AFTER_CUE = re.compile(
    r"[\s*_`:：]*(?:(?:therefore|thus|hence|then|simply|just|given by|equal to)\b[\s,:]*)*", re.IGNORECASE
)
_END_OF_STATEMENT = re.compile(r"\.(?=\s|$)|\n|\s(?:because|since|which|where)\b")
_BARE_NUMBER_LINE = re.compile(r"[-+]?\$?[\d.,/ ]*\d\s?\\?%?")
_CONCLUDING_NUMBER = re.compile(
    r"(?:\b(?:is|are|equals|get|obtain|gives)|=)[\s:*]{0,4}([-+]?\$?\d[\d,./]*%?)\**\.$", re.IGNORECASE
)
_CHOICE = re.compile(
    r"\W{0,3}(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\W{0,3}(?:option|choice)?\W{0,3}([A-D])(?=$|[\s.):,}\]*$\\])",
)
_CHOICE_CUE = re.compile(
    r"(?i:\b(?:answer|option|choice)\b)[^.\n]{0,40}?(?:\b(?:is|be)\b|[:：])[\s*_$(\[{\\]{0,6}"
    r"(?:(?:text|textbf|mathrm|mathbf)\{)?\(?(?i:option|choice)?\s?\(?([A-D])(?=$|[\s.):,}\]*$])",
)
_SECOND_CHOICE = re.compile(r"[\W]{0,6}(?:and|or)?[\W]{0,6}[A-D](?![A-Za-z])")


def extract_answer(response: str) -> str | None:
    r"""Return the answer that ``response`` marks as final, as written, or None.

    What precedes the last ``</think>`` is reasoning and does not count.

    >>> extract_answer(r"Hence $x=2$. The answer is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("We add them.\n\nAnswer: $34$")
    '34'
    >>> extract_answer("There are 3 cases. In case 2 we have 17 ways and") is None
    True
    """
    text = _after_reasoning(response)
    for find in (_boxed_answer, _announced_answer, _closing_answer):
        answer = find(text)
        if answer:
            return answer
    return None


def extract_choice(response: str) -> str | None:
    r"""Return the letter A to D that ``response`` chooses in a multiple-choice question, or None.

    >>> extract_choice(r"so the right option is \boxed{\text{(B) } 42}")
    'B'
    >>> extract_choice("The correct answer is **C**.")
    'C'
    >>> extract_choice("The answer is a matter of taste.") is None
    True
    """
    text = _after_reasoning(response)
    boxed = _boxed_answer(text)
    if boxed is not None:
        letter = _leading_choice(boxed.upper() if len(boxed) == 1 else boxed)
        if letter:
            return letter
    announced = _last_match(_CHOICE_CUE, text)
    if announced:
        return announced.group(1)
    last_line = _last_line(text)
    return _leading_choice(last_line) if len(last_line) <= LONGEST_CHOICE_LINE else None


def _leading_choice(text: str) -> str | None:
    """The letter with which ``text`` begins, unless a second one follows: choosing two is choosing none."""
    choice = _CHOICE.match(text)
    return choice.group(1) if choice and not _SECOND_CHOICE.match(text, choice.end()) else None


def _after_reasoning(response: str) -> str:
    return response.rpartition(END_OF_REASONING)[2]


def _boxed_answer(text: str) -> str | None:
    """The content of the last box; several boxes joined by commas, "and" or "or" are one answer."""
    boxes = _last_boxes(text)
    if not boxes:
        return None
    first_start, _, content = boxes[0]
    answers = [content]
    for start, end, content in boxes[1:]:
        if end > first_start or not _BETWEEN_BOXES.fullmatch(text[end:first_start]):
            break
        answers.append(content)
        first_start = start
    return ", ".join(dict.fromkeys(reversed(answers)))


def _last_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of the closed boxes among the last ``MAX_BOXES``, the last one first."""
    boxes = []
    start = len(text)
    for _ in range(MAX_BOXES):
        start = max(text.rfind(command, 0, start) for command in _BOX_COMMANDS)
        if start < 0:
            break
        after_command = start + (6 if text.startswith("\\boxed", start) else 5)
        content, end = _argument(text, after_command)
        if content.strip():
            boxes.append((start, end, content.strip()))
    return boxes


def _argument(text: str, position: int) -> tuple[str, int]:
    """The LaTeX argument at ``position`` and where it ends; ("", position) when it is not closed."""
    opening = position
    while opening < len(text) and text[opening].isspace():
        opening += 1
    if not text.startswith("{", opening):
        token = _UNBRACED_BOX.match(text, position)
        return (token.group(1).rstrip(".,;"), token.end()) if token else ("", position)
    depth = 0
    for brace in _BRACE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[opening + 1 : brace.start()], brace.end()
    return "", position


def _announced_answer(text: str) -> str | None:
    """What follows the last "answer is", "Answer:" or "####"."""
    cue = _last_match(_ANSWER_CUE, text)
    if cue is None:
        return None
    start = _AFTER_CUE.match(text, cue.end()).end()
    spans = _adjacent_math_spans(text, start)
    if spans:
        return ", ".join(spans)
    statement = text[start : start + 2048]
    end = _END_OF_STATEMENT.search(statement)
    return statement[: end.start() if end else None].strip(" *_`") or None


def _adjacent_math_spans(text: str, position: int) -> list[str]:
    spans: list[str] = []
    while len(spans) < MAX_BOXES and (span := _MATH_SPAN.match(text, position)):
        spans.append(_span_content(span))
        separator = _BETWEEN_SPANS.match(text, span.end())
        if separator is None:
            break
        position = separator.end()
    return spans


def _closing_answer(text: str) -> str | None:
    """The expression with which the response ends: closed mathematics, a number alone in its line, or "... is 42."."""
    line = _last_line(text)
    bare = line.strip("*_` ").rstrip(".")
    if _BARE_NUMBER_LINE.fullmatch(bare):
        return bare
    spans = list(_MATH_SPAN.finditer(_last_paragraph(text)))
    if spans and not spans[-1].string[spans[-1].end() :].strip("*_. \n"):
        return _span_content(spans[-1])
    number = _CONCLUDING_NUMBER.search(line[-200:])
    return number.group(1) if number else None


def _span_content(span: re.Match[str]) -> str:
    return next(content for content in span.groups() if content is not None).strip()


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2].strip()


def _last_paragraph(text: str, longest: int = 2048) -> str:
    return text.rstrip()[-longest:].rpartition("\n\n")[2]
