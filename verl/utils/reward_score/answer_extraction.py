r"""Finds the final answer in a model's response.

Only an answer that the response *marks* as final counts: the last ``\boxed{}`` with those beside it, else the last
"answer is ..." or "Answer: ...", else an expression that the response ends with. A number that merely occurs
somewhere does not: a response cut off at its length limit would otherwise be a success by chance, and a single chance
success turns the estimated success rate of an unsolved prompt from 0 into something to spend a budget on.

Every function here takes any string, raises nothing, and runs in time linear in its length. Standard library only.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

LONGEST_ANSWER = 2048
START_OF_REASONING = "<think>"
END_OF_REASONING = "</think>"

_BOX_OR_BRACE = re.compile(r"\\(?:boxed|Boxed|fbox|framebox)(?![A-Za-z])\*?\s*(\{)?|\\.|[{}]", re.DOTALL)
_BOX_COMMANDS = (r"\boxed", r"\Boxed", r"\fbox", r"\framebox")
_UNBRACED_BOX = re.compile(r"\s{0,8}([^\s{}$]{1,200})")
_BETWEEN_BOXES = re.compile(
    r"(?:[^A-Za-z\\]|\\[^A-Za-z]|\\(?!(?:implies|therefore|Rightarrow|Longrightarrow|to)(?![A-Za-z]))[A-Za-z]+"
    r"|(?<![A-Za-z])(?:and|or|also|(?:but )?(?:possibly|maybe|perhaps)|alternatively|else|either|both|respectively|not"
    r"|nor|to|as well as|rather than|instead of|vs|br|[Pp]art|[A-Za-z]|[A-Z]{2,3}|[ivx]{2,4})(?![A-Za-z]))*"
)
"""Symbols, names and the words of a list; any other word tells that what follows comes of what went before."""

LONGEST_GAP = 80
"""Characters between two boxes that belong together."""

_SIGN_BEFORE_BOX = re.compile(r"(?:^|[\s$=({,])[-−]$")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_BETWEEN_SPANS = re.compile(r"\s*(?:,\s*(?:and|or)?|;|and|or)\s*")
_MORE_OF_THE_ANSWER = re.compile(
    r"\s*,?\s*(?:\(?\s*or\b|/|%|\\%|(?:dozen|hundred|thousand|million|billion|trillion|percent)\b)", re.IGNORECASE
)
_ANSWER_CUE = re.compile(
    r"\banswers?\b(?:\s(?:to|for|of)\s[^.\n:$]{0,80}?)?[\s*_`]{0,6}"
    r"(?:(?:is|are)\b|[:：=])|\bfinal answer\b[*_ \t]*\n|<answer>|####(?!#)"
    r"(?=[^\n]{0,200}[\d$\\])(?![^\n]{0,200}(?<!\\)\b[A-Za-z]{3})",
    re.IGNORECASE,
)
_AFTER_CUE = re.compile(
    r"[\s*_`:：]*(?:(?:therefore|thus|hence|then|simply|just|given by|equal to)\b[\s,:]*)*", re.IGNORECASE
)
_END_OF_STATEMENT = re.compile(r"\.(?=\s|$)|\n|</answer>|\s(?:because|since|which|where)\b")
_SENTENCE = re.compile(r"[A-Z][^.\n]*?\s(?:is|are|equals|=)\s+([^.\s](?:[^\n]*\S)?)")
_SECOND_VERB = re.compile(r"\b(?:is|are|equals|not|or|either|neither|isn't)\b|=", re.IGNORECASE)
RETRACTION = re.compile(
    r"\b(?:wait|hmm+|hold on|actually|on second thought|let (?:me|us)\s(?:re|double|verify|check)"
    r"|let's (?:re|double|verify|check))",
    re.IGNORECASE,
)
_BARE_NUMBER_LINE = re.compile(r"[-+]?\$?[\d.,/ ]*\d\s?\\?%?")
_CONCLUDING_NUMBER = re.compile(
    r"(?:\b(?:is|are|equals|get|obtain|gives)|=)[\s:*]{0,4}([-+]?\$?\d[\d,./]*%?)\**\.$", re.IGNORECASE
)


@dataclass(frozen=True)
class _Box:
    start: int
    end: int
    content: str


def extract_answer(response: str) -> str | None:
    r"""Return the answer that ``response`` marks as final, as written, or None.

    What stands between ``<think>`` and ``</think>`` is reasoning and does not count, whether or not it ends.

    >>> extract_answer(r"Hence $x=2$. The answer is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("We add them.\n\nAnswer: $34$")
    '34'
    >>> extract_answer("There are 3 cases. In case 2 we have 17 ways and") is None
    True
    """
    text = after_reasoning(response)
    for find in (boxed_answer, _announced_answer, _closing_answer):
        answer = find(text)
        if answer:
            return answer
    return None


def after_reasoning(response: str) -> str:
    """What ``response`` says outside of its reasoning."""
    text = response.rpartition(END_OF_REASONING)[2]
    return text.partition(START_OF_REASONING)[0]


def boxed_answer(text: str) -> str | None:
    """The content of the last box; boxes with nothing between them but joints (", and (b)") are one answer."""
    boxes = _outermost_boxes(text)
    if not boxes:
        return None
    answers = [_signed(boxes[-1], text)]
    for box, following in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        gap = text[box.end : following.start]
        if len(gap) > LONGEST_GAP or not _BETWEEN_BOXES.fullmatch(gap):
            break
        answers.append(_signed(box, text))
    return ", ".join(dict.fromkeys(reversed(answers)))


def _outermost_boxes(text: str) -> list[_Box]:
    """The closed boxes with content that are in no other closed box, in order."""
    boxes: list[_Box] = []
    open_braces: list[tuple[int, int] | None] = []
    starts = [start for start in map(text.find, _BOX_COMMANDS) if start >= 0]
    for found in _BOX_OR_BRACE.finditer(text, min(starts)) if starts else ():
        token = found.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                _keep(boxes, opened[0], found.end(), text[opened[1] : found.start()])
        elif token == "{" or found.group(1):
            open_braces.append((found.start(), found.end()) if found.group(1) else None)
        elif len(token) > 2:
            content = _UNBRACED_BOX.match(text, found.end())
            if content:
                _keep(boxes, found.start(), content.end(), content.group(1).rstrip(".,;"))
    return boxes


def _keep(boxes: list[_Box], start: int, end: int, content: str) -> None:
    content = content.strip()
    while content and boxes and boxes[-1].start > start:
        inner = boxes.pop()
        content = inner.content if content.startswith("\\") and inner.end - inner.start == len(content) else content
    if content:
        boxes.append(_Box(start, end, content))


def _signed(box: _Box, text: str) -> str:
    """The content of ``box``, with the sign that stands before it."""
    if not _SIGN_BEFORE_BOX.search(text[max(0, box.start - 2) : box.start]):
        return box.content
    return f"-({box.content})" if re.search(r"[-+,]", box.content) else f"-{box.content}"


def _announced_answer(text: str) -> str | None:
    """What follows the last "answer is", "Answer:" or "####", unless the response goes on to doubt it."""
    cue = last_match(_ANSWER_CUE, text)
    if cue is None or RETRACTION.search(text, cue.end()):
        return None
    start = _AFTER_CUE.match(text, cue.end()).end()
    spans, end = _adjacent_math_spans(text, start)
    if spans and not _MORE_OF_THE_ANSWER.match(text, end):
        return ", ".join(spans)
    statement = text[start : start + LONGEST_ANSWER]
    end_of_statement = _END_OF_STATEMENT.search(statement)
    statement = statement[: end_of_statement.start() if end_of_statement else None].strip(" *_`")
    return _predicate(statement) or None


def _predicate(statement: str) -> str:
    """What a sentence says its subject is; any other statement as it stands.

    >>> _predicate("The largest $n$ is 34"), _predicate("either 5 or 6")
    ('34', 'either 5 or 6')
    """
    sentence = _SENTENCE.fullmatch(statement)
    if sentence is None or " " not in statement[: sentence.start(1)].strip() or _SECOND_VERB.search(sentence.group(1)):
        return statement
    return sentence.group(1)


def _adjacent_math_spans(text: str, position: int) -> tuple[list[str], int]:
    """The contents of the formulas at ``position``, joined by commas, "and" or "or", and where they end."""
    spans: list[str] = []
    end = position
    while span := _MATH_SPAN.match(text, position):
        spans.append(_span_content(span))
        end = span.end()
        separator = _BETWEEN_SPANS.match(text, end)
        if separator is None:
            break
        position = separator.end()
    return spans, end


def _closing_answer(text: str) -> str | None:
    """The expression with which the response ends: closed mathematics, a number alone in its line, or "... is 42."."""
    line = last_line(text)
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


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last of the matches of ``pattern`` in ``text``."""
    matches = deque(pattern.finditer(text), maxlen=1)
    return matches[0] if matches else None


def last_line(text: str) -> str:
    """The last line of ``text`` that is not blank."""
    return text.rstrip().rpartition("\n")[2].strip()


def _last_paragraph(text: str, longest: int = LONGEST_ANSWER) -> str:
    return text.rstrip()[-longest:].rpartition("\n\n")[2]
