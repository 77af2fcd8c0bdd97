r"""Decides quickly whether two short answers are equal: normalisation and exact arithmetic.

Most answers of the mathematics data sets are numbers, and most of the others are either written alike or not, so this
settles nearly all pairs in microseconds; ``quick_verdict`` says None for the rest, which
:mod:`verl.utils.reward_score.verifier_pool` hands to math-verify. Every function takes any string and raises nothing.
Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_ANSWER_LENGTH = 1024
"""Longer answers are equal only when they are written alike; no data set here has an answer half as long."""

DECIMAL_TOLERANCE = Fraction(5, 10**7)
"""Two numbers, one of them a decimal, are equal when they agree to six decimal places (math-verify's rule)."""

SMALL_NUMBER = Fraction(1, 1000)
"""Below this, six significant digits count instead: 1.6e-19 and 2.5e-21 agree to six decimal places."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": "", "，": ",", "；": ";",
        "（": "(", "）": ")", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "±": r"\pm ",
        "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "²": "^2", "³": "^3", "％": "%",
    }
)  # fmt: skip
_UNICODE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
_DIGIT_GROUP_GAP = re.compile(r"(?<=\d)(?:,?\\[,!:;]|\{,\})\s*(?=\d{3}(?!\d))")
_LATEX_NOISE = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|displaystyle|textstyle|limits|quad|qquad)(?![A-Za-z])"
    r"|\\[,!;:]|(?<!\\)\\(?=\s)|\\\$|\$|\\[()\[\]]|\^\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])|~"
)
_SYNONYMS = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\leqslant(?![A-Za-z])|\\leq(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\geqslant(?![A-Za-z])|\\geq(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\%|\\?\b(?:percent|per cent)\b"), "%"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"([_^])\{(\w)\}"), r"\1\2"),
]
_TEXT_COMMAND = r"\\(?:text|textbf|textit|textrm|textnormal|texttt|mbox|hbox|mathrm|mathbf|mathit|operatorname|emph)"
_WHOLE_TEXT = re.compile(_TEXT_COMMAND + r"\s*\{([^{}]*)\}")
_UNIT_IN_TEXT = re.compile(r"(?<=[\w}\])%])\s*" + _TEXT_COMMAND + r"\s*\{(?!\s*[eid]\s*\})[^{}]*\}(?:\^\{?-?\d\}?)?$")
_CONJUNCTION = re.compile(r"\s*,?\s*" + _TEXT_COMMAND + r"\s*\{\s*,?\s*(?:and|or)\s*\}\s*|\s*,?\s+(?:and|or)\s+")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_NUMBER_WITH_UNIT = re.compile(r"([-+]?[\d.,]*\d)((?:\s+[A-Za-z]{2,}(?:\^\d)?\.?)+)")
_NOT_UNITS = frozenset(
    "and or pi sqrt sin cos tan log ln exp mod choose over times to million billion trillion thousand hundred dozen "
    "plus minus divided by in of base more less".split()
)
_ASSIGNMENT = re.compile(r"(?<![<>!=\\])=(?!=)")
_MEMBERSHIP = re.compile(r"[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_WORDS = re.compile(r"\(?[A-Za-z][A-Za-z.,'\- ]*\)?")
_FUNCTIONS = frozenset("sin cos tan cot sec csc arcsin arccos arctan log exp sqrt frac max min".split())
_LETTER = re.compile(r"\(([A-Za-z])\)")

_DIGIT_GAP = re.compile(r"[\d,]\s+\d")
_COLLECTION = re.compile(r"(\(|\[|\\\{|)([^()\[\]]*?)(\)|\]|\\\}|)")
_BRACKETS = {("", ""), (r"\{", r"\}"), *((opening, closing) for opening in "([" for closing in ")]")}
_INTERVAL = re.compile(r"([(\[])([^()\[\],]+,[^()\[\],]+)([)\]])")
_INFINITY = re.compile(r"inf|oo")
_IN_BASE = re.compile(r"[0-9A-F]+_(?:\d|\{\d+\})")

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,60})"
_DECIMAL = rf"(?:{_DIGITS}?\.\d{{1,60}}|{_DIGITS}\.?)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:"
    rf"(?P<whole>\d{{1,20}})?\\frac\{{(?P<top>-?{_DECIMAL})\}}\{{(?P<bottom>-?{_DECIMAL})\}}"
    rf"|(?P<numerator>{_DECIMAL})/(?P<denominator>{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})(?:[eE]|(?:\\times|\\cdot|\*)10\^)(?P<exponent>-?\+?\d{{1,3}}|\{{-?\+?\d{{1,3}}\}})"
    rf"|10\^(?P<power>-?\d{{1,3}}|\{{-?\d{{1,3}}\}})"
    rf"|(?P<decimal>{_DECIMAL})"
    rf")(?P<percent>%?)"
)


@dataclass(frozen=True)
class Number:
    """The exact value of a numeric literal, whether it is written as a decimal, and whether as a percentage."""

    value: Fraction
    is_decimal: bool
    is_percentage: bool


@dataclass(frozen=True)
class Collection:
    r"""Two or more numeric literals in brackets: "(" and "]" as in (0,1], "\{" and "\}", or none at all."""

    brackets: tuple[str, str]
    elements: tuple[Number, ...]

    @property
    def is_ordered(self) -> bool:
        return self.brackets[0] in ("(", "[")


def normalize_answer(answer: str) -> str:
    r"""Return ``answer`` without LaTeX noise, delimiters, trailing punctuation, text wrappers and units.

    What comes out is still LaTeX that math-verify can parse.

    >>> normalize_answer(r"$\dfrac12\,\text{ cm}^2$.")
    '\\frac{1}{2}'
    >>> normalize_answer(r"\text{Tuesday}")
    'Tuesday'
    >>> normalize_answer("12 apples")
    '12'
    """
    answer = answer.strip()
    if len(answer) > MAX_ANSWER_LENGTH:
        return answer
    answer = _UNICODE_ROOT.sub(lambda root: rf"\sqrt{{{root.group(1) or root.group(2)}}}", answer)
    answer = _DIGIT_GROUP_GAP.sub("", answer.translate(_UNICODE))
    # Single blanks, because the time that some of the patterns take grows with the cube of a run of them.
    answer = " ".join(_LATEX_NOISE.sub(" ", answer).split())
    for pattern, replacement in _SYNONYMS:
        answer = pattern.sub(replacement, answer)
    answer = _strip_punctuation(answer)
    answer = _UNIT_IN_TEXT.sub("", answer)
    if not _RELATION.search(answer):
        answer = _CONJUNCTION.sub(", ", answer)
    whole_text = _WHOLE_TEXT.fullmatch(answer)
    if whole_text:
        answer = whole_text.group(1)
    return _strip_unit_words(_strip_punctuation(" ".join(answer.split())))


def quick_verdict(answer: str, ground_truth: str) -> bool | None:
    r"""Say whether two normalised answers are equal, or None when that takes computer algebra.

    >>> quick_verdict("0.5", r"\frac{1}{2}"), quick_verdict("7", "8"), quick_verdict("x^2-1", "(x-1)(x+1)")
    (True, False, None)
    >>> quick_verdict(r"[0, 2\pi]", r"[0,2\pi)"), quick_verdict(r"[-\infty, \pi]", r"(-\infty, \pi]")
    (False, None)
    """
    if not answer or not ground_truth:
        return False
    if _key(answer) == _key(ground_truth):
        return True
    if max(len(answer), len(ground_truth)) > MAX_ANSWER_LENGTH:
        return False
    answer, ground_truth = align_assignments(answer, ground_truth)
    if _key(answer) == _key(ground_truth):
        return True
    if _is_words(answer, longest=4) and _is_words(ground_truth, longest=4):
        return False
    if _IN_BASE.fullmatch(answer) and _IN_BASE.fullmatch(ground_truth):
        return False  # math-verify ignores the base
    number, true_number = parse_number(answer), parse_number(ground_truth)
    if number and true_number:
        return _equal_numbers(number, true_number)
    collection, true_collection = parse_collection(answer), parse_collection(ground_truth)
    if collection and true_collection:
        return _equal_collections(collection, true_collection)
    if _differ_in_brackets_alone(answer, ground_truth):
        return False
    if (number and _is_words(ground_truth, longest=4)) or (true_number and _is_words(answer, longest=4)):
        return False
    return None


def align_assignments(answer: str, ground_truth: str) -> tuple[str, str]:
    r"""Drop ``x =`` and ``x \in`` where only one of the two answers has it.

    >>> align_assignments("x = 5", "5")
    ('5', '5')
    >>> align_assignments("x = 5", "y = 5")
    ('x = 5', 'y = 5')
    """
    return _without_subject(answer, unless_in=ground_truth), _without_subject(ground_truth, unless_in=answer)


def parse_number(answer: str) -> Number | None:
    r"""Return the value of a normalised answer that is an integer, decimal, fraction, power of ten or percentage.

    >>> parse_number(r"3\frac{1}{2}").value, parse_number("1,234").value, parse_number(r"4 \times 10^{-2}").value
    (Fraction(7, 2), Fraction(1234, 1), Fraction(1, 25))
    >>> parse_number("x+1") is None
    True
    """
    match = _NUMBER.fullmatch(answer.replace(" ", "")) if len(answer) <= 200 and not _DIGIT_GAP.search(answer) else None
    if match is None:
        return None
    parts = match.groupdict()
    try:
        value = _value_of(parts)
    except ZeroDivisionError:
        return None
    written = "".join(part for name, part in parts.items() if part and name not in ("exponent", "power"))
    is_decimal = "." in written or parts["mantissa"] is not None
    return Number(-value if parts["sign"] == "-" else value, is_decimal, bool(parts["percent"]))


def parse_collection(answer: str) -> Collection | None:
    r"""Return the numbers of a normalised answer that is a list, set, point or interval of numeric literals.

    >>> parse_collection("(1, 0.5]").brackets, parse_collection("1, x") is None
    (('(', ']'), True)
    """
    match = _COLLECTION.fullmatch(answer)
    if match is None or match.group(2).count(",") == 0:
        return None
    brackets = match.group(1), match.group(3)
    if brackets not in _BRACKETS:
        return None
    elements = [parse_number(element.strip()) for element in match.group(2).split(",")]
    return None if None in elements else Collection(brackets, tuple(elements))


def _equal_collections(collection: Collection, truth: Collection) -> bool | None:
    """Element by element; None for a point or an interval against a list or a set, which math-verify knows to treat."""
    if collection.is_ordered != truth.is_ordered:
        return None
    if collection.is_ordered and collection.brackets != truth.brackets:
        return False
    if len(collection.elements) != len(truth.elements):
        return False if collection.is_ordered else None  # {1, 1} is {1}
    elements, truths = list(collection.elements), list(truth.elements)
    if not collection.is_ordered:
        elements.sort(key=lambda number: number.value)
        truths.sort(key=lambda number: number.value)
    return all(map(_equal_numbers, elements, truths))


def _differ_in_brackets_alone(answer: str, ground_truth: str) -> bool:
    r"""Whether both are intervals from the same start to the same end, but not the same ends belong to both.

    At an infinite end the bracket does not matter: [-\infty, 3] is (-\infty, 3].
    """
    interval, true_interval = _INTERVAL.fullmatch(answer), _INTERVAL.fullmatch(ground_truth)
    if interval is None or true_interval is None or _INFINITY.search(ground_truth):
        return False
    same_ends = "".join(interval.group(2).split()) == "".join(true_interval.group(2).split())
    return same_ends and interval.group(1, 3) != true_interval.group(1, 3)


def _value_of(parts: dict[str, str | None]) -> Fraction:
    if parts["top"] is not None:
        return Fraction(parts["whole"] or 0) + _fraction(parts["top"]) / _fraction(parts["bottom"])
    if parts["numerator"] is not None:
        return _fraction(parts["numerator"]) / _fraction(parts["denominator"])
    if parts["mantissa"] is not None:
        return _fraction(parts["mantissa"]) * Fraction(10) ** int(parts["exponent"].strip("{}"))
    if parts["power"] is not None:
        return Fraction(10) ** int(parts["power"].strip("{}"))
    return _fraction(parts["decimal"])


def _fraction(decimal: str) -> Fraction:
    return Fraction(decimal.replace(",", "").rstrip("."))


def _equal_numbers(number: Number, truth: Number) -> bool:
    approximately = number.is_decimal or truth.is_decimal
    if _close(number.value, truth.value, approximately):
        return True
    if number.is_percentage == truth.is_percentage:
        return False
    scale = [Fraction(1, 100) if one.is_percentage else Fraction(1) for one in (number, truth)]
    return _close(number.value * scale[0], truth.value * scale[1], approximately)


def _close(value: Fraction, truth: Fraction, approximately: bool) -> bool:
    if value == truth or not approximately:
        return value == truth
    if min(abs(value), abs(truth)) < SMALL_NUMBER:
        return abs(value - truth) <= abs(truth) / 10**6
    return abs(value - truth) <= DECIMAL_TOLERANCE


def _key(answer: str) -> str:
    """What two answers that are written alike have in common: blanks never count, capitals only outside of words."""
    letter = _LETTER.fullmatch(answer)
    if letter:
        return letter.group(1)
    return "".join((answer.casefold() if _is_words(answer) else answer).split())


def _is_words(answer: str, longest: int = 3) -> bool:
    """Whether ``answer`` is words, not mathematics: letters only, the longest word of at least ``longest`` letters.

    Three letters are as likely a product of variables (abc = cab), so a comparison by spelling alone asks for four.
    """
    if not _WORDS.fullmatch(answer):
        return False
    words = [word.strip("().,'") for word in answer.split()]
    return max(map(len, words)) >= longest and _FUNCTIONS.isdisjoint(words)


def _without_subject(answer: str, unless_in: str) -> str:
    membership = _MEMBERSHIP.match(answer)
    if membership and not _MEMBERSHIP.match(unless_in):
        return answer[membership.end() :]
    if _ASSIGNMENT.search(unless_in) or "," in answer or ";" in answer:
        return answer
    return _ASSIGNMENT.split(answer)[-1].strip() or answer


def _strip_punctuation(answer: str) -> str:
    return answer.strip().strip("*`").rstrip(".,;:").strip()


def _strip_unit_words(answer: str) -> str:
    match = _NUMBER_WITH_UNIT.fullmatch(answer)
    if match and not any(word.strip(".").lower() in _NOT_UNITS for word in match.group(2).split()):
        return match.group(1)
    return answer
