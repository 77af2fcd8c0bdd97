r"""Takes a normalised answer apart: lists, relations, brackets, text, units.

The structure decides what has to be equal to what; the expressions at its leaves are still LaTeX. Every function takes
any string and raises nothing. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from .answer_normalization import UNITS

INEQUALITIES = frozenset({"<", ">", r"\le", r"\ge", r"\ne"})
EXPANDED_SIGNS = 3

_TOKEN = re.compile(r"\\begin\{[^{}]*\}|\\end\{[^{}]*\}|\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_OPENING = frozenset({"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"})
_CLOSING = frozenset({")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"})
_RELATIONS = frozenset({"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx"})
_SEPARATORS = {",": ",", ";": ",", r"\\": ",", r"\quad": ",", r"\qquad": ",", r"\land": "and", r"\lor": "or"}
_CASES = re.compile(r"\\begin\{(cases|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_THOUSANDS = re.compile(
    r"((?:[^,;]*(?:=|\\approx))?\s*-?)([1-9]\d{0,2}(?:,\d{3})+)((?:\.\d+)?\s*(?:%|\^\\circ\s*|(?:\\text|\\times|\\cdot)[^,;]*)?)"
)
_DEGREE = re.compile(r"\s*\^\\circ(?![A-Za-z])")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_SET_BUILDER = re.compile(r"\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\\vert|\||:)(.*)", re.DOTALL)
_MAGNITUDES = {
    "dozen": "12",
    "hundred": "10^{2}",
    "thousand": "10^{3}",
    "million": "10^{6}",
    "billion": "10^{9}",
    "trillion": "10^{12}",
}

_GREEK_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon theta lambda mu nu xi rho sigma tau phi varphi psi omega eta kappa chi "
    "zeta pi ell Delta Gamma Omega Phi Theta Sigma Lambda"
)
_GREEK = rf"\\(?:{_GREEK_LETTERS.replace(' ', '|')})"
_SYMBOL = (
    rf"(?:[A-Za-z]|{_GREEK}(?![A-Za-z])|\\(?:vec|hat|bar|overline|tilde|mathcal|mathbb|dot|ddot)\s*\{{[A-Za-z]+\}})"
)
_SCRIPTS = r"(?:\s*_\s*(?:\w|\\\w+|\{[^{}]*\}))?(?:'*)(?:\s*\^\s*(?:\{-1\}|\*|\{\(\w+\)\}))?"
_VARIABLE = re.compile(rf"{_SYMBOL}{_SCRIPTS}")
_NAME = re.compile(
    rf"{_SYMBOL}{_SCRIPTS}(?:\s*[(\[][^()\[\]]*(?:\([^()]*\)[^()\[\]]*)*[)\]])?|\|[A-Z]{{2}}\||\\(?:angle|triangle|measuredangle)\s*[A-Z]{{1,3}}"
    r"|m\s*\\angle\s*[A-Z]{1,3}|\[[A-Z]{3,6}\]|(?:\\text\{[^{}]*\}\s*(?:\([^()]*\))?)"
)
_SEGMENT_NAME = re.compile(r"[A-Z]{2,4}|\\frac\{[A-Z]{2}\}\{[A-Z]{2}\}|\\overline\{[A-Z]{2}\}")


@dataclass(frozen=True)
class Expression:
    """Mathematics in one piece, with the unit that follows it ("" for none) and whether it holds degree signs."""

    latex: str
    unit: str = ""
    has_degrees: bool = False


@dataclass(frozen=True)
class Group:
    r"""What stands in one pair of brackets: (1, 2], \{1, 2\}."""

    opening: str
    closing: str
    elements: tuple[Node, ...]

    @property
    def is_set(self) -> bool:
        return self.opening == r"\{"


@dataclass(frozen=True)
class Relation:
    """Two or more sides and the operators between them."""

    sides: tuple[Node, ...]
    operators: tuple[str, ...]

    @property
    def is_equation(self) -> bool:
        return set(self.operators) <= {"=", r"\approx", r"\in"}

    @property
    def is_inequality(self) -> bool:
        return set(self.operators) <= INEQUALITIES


@dataclass(frozen=True)
class Phrase:
    """Text with or without mathematics in between: text is lower-case words, mathematics a node."""

    parts: tuple[str | Node, ...]


@dataclass(frozen=True)
class Listing:
    """Several answers: joined by "," or, where that matters, by "and" or "or"."""

    items: tuple[Node, ...]
    joiner: str = ","


Node = Expression | Group | Relation | Phrase | Listing


@lru_cache(maxsize=4096)
def parse_answer(answer: str) -> Listing:
    r"""Return the structure of a normalised answer, a list of one or more items.

    >>> parse_answer("x = 2, y = (1, 3]").items[1].sides[1].closing
    ']'
    >>> parse_answer(r"x < 2 \lor x > 4").joiner
    'or'
    """
    return _listing(answer)


def name_of(node: Node) -> str | None:
    """The name that ``node`` is, as the left side of "f(x) = ..." is one; None when it is something to calculate."""
    latex = source(node).strip()
    return latex if _NAME.fullmatch(latex) else None


def is_segment_name(node: Node) -> bool:
    """Whether ``node`` may be a name, as AB is in "AB = 5", or a product, as MR is in "MR = SRMC"."""
    return bool(_SEGMENT_NAME.fullmatch(source(node).strip()))


def is_variable(node: Node) -> bool:
    """Whether ``node`` is a single symbol."""
    return bool(_VARIABLE.fullmatch(source(node).strip()))


def source(node: Node) -> str:
    """LaTeX for ``node``."""
    if isinstance(node, Expression):
        return node.latex + ("^\\circ " if node.has_degrees else "")
    if isinstance(node, Group):
        return f"{node.opening}{','.join(map(source, node.elements))}{node.closing}"
    if isinstance(node, Relation):
        sides = list(map(source, node.sides))
        return sides[0] + "".join(
            f"{operator} {side}" for operator, side in zip(node.operators, sides[1:], strict=True)
        )
    if isinstance(node, Phrase):
        return "".join(rf"\text{{{part}}}" if isinstance(part, str) else source(part) for part in node.parts)
    return {",": ", ", "and": r" \land ", "or": r" \lor "}[node.joiner].join(map(source, node.items))


def tokens_by_depth(latex: str) -> list[tuple[str, int]]:
    """The tokens of ``latex``, each with the number of brackets and environments it stands in."""
    depth, tokens, bars = 0, [], 0
    for token in _TOKEN.findall(latex):
        if token in _CLOSING or token.startswith(r"\end{"):
            depth = max(0, depth - 1)
        tokens.append((token, depth + bars))
        if token == "|":
            bars = 1 - bars
        if token in _OPENING or token.startswith(r"\begin{"):
            depth += 1
    return tokens


def _listing(latex: str) -> Listing:
    cases = _CASES.fullmatch(latex.strip())
    if cases:
        latex = cases.group(2).replace("&", " ")
    grouped = _THOUSANDS.fullmatch(latex.strip())
    if grouped:
        latex = f"{grouped[1]}{grouped[2].replace(',', '')}{grouped[3]}"
    parts, joiners = _split(latex, _SEPARATORS)
    items: list[Node] = []
    for part in parts:
        if part.strip():
            items += [_item(signed.strip()) for signed in _signs_expanded(part)]
    kinds = {_SEPARATORS[joiner] for joiner in joiners} - {","}
    return Listing(tuple(items), kinds.pop() if len(kinds) == 1 else ",")


def _split(latex: str, separators: dict[str, str] | frozenset[str]) -> tuple[list[str], list[str]]:
    parts, found = [""], []
    for token, depth in tokens_by_depth(latex):
        if depth == 0 and token in separators:
            found.append(token)
            parts.append("")
        else:
            parts[-1] += token
    return parts, found


def _signs_expanded(part: str) -> list[str]:
    r"""Both readings of each ``\pm``; ``\mp`` has the opposite sign."""
    number = len(re.findall(r"\\pm(?![A-Za-z])", part))
    if not 0 < number <= EXPANDED_SIGNS:
        return [part]
    readings = [part]
    for _ in range(number):
        readings = [re.sub(r"\\pm(?![A-Za-z])\s*", sign, one, count=1) for one in readings for sign in "+-"]
    if number == 1:
        readings = [re.sub(r"\\mp(?![A-Za-z])\s*", sign, one) for one, sign in zip(readings, "-+", strict=True)]
    return [re.sub(r"(^|[=(,])\s*\+", r"\1", one.strip()) for one in readings]


def _item(latex: str) -> Node:
    sides, operators = _split(latex, _RELATIONS)
    if operators and all(side.strip() for side in sides):
        return Relation(tuple(_operand(side.strip()) for side in sides), tuple(operators))
    return _operand(latex)


def _operand(latex: str) -> Node:
    if _CASES.fullmatch(latex):
        return _listing(latex)
    group = _group(latex)
    if group is not None:
        return group
    return _with_text(latex) if r"\text{" in latex else _expression(latex)


def _group(latex: str) -> Node | None:
    tokens = tokens_by_depth(latex)
    if (
        len(tokens) < 2
        or tokens[0][0] not in ("(", "[", r"\{", r"\langle")
        or tokens[-1][0] not in (")", "]", r"\}", r"\rangle")
    ):
        return None
    if any(depth == 0 for _, depth in tokens[1:-1]):
        return None
    opening, closing = tokens[0][0], tokens[-1][0]
    inside = "".join(token for token, _ in tokens[1:-1])
    if opening == r"\{":
        condition = _SET_BUILDER.fullmatch(inside)
        if condition and re.search(rf"(?<![A-Za-z\\]){condition.group(1)}(?![A-Za-z])", condition.group(2)):
            return _listing(condition.group(2))
    elements = tuple(
        item
        for part in _split(inside, {",": ",", ";": ","})[0]
        if part.strip()
        for item in map(_item, _signs_expanded(part.strip()) if opening == r"\{" else [part.strip()])
    )
    if opening == "(" and closing == ")" and len(elements) == 1:
        return elements[0]
    if r"\{" not in (opening, closing) and len(elements) < 2:
        return None
    if opening == r"\langle":
        opening, closing = "(", ")"
    return Group(opening, closing, elements)


def _with_text(latex: str) -> Node:
    parts: list[str | Node] = []
    position = 0
    for text in _TEXT.finditer(latex):
        _append(parts, latex[position : text.start()])
        words = _words(text.group(1))
        if words and parts and isinstance(parts[-1], str):
            parts[-1] = f"{parts[-1]} {words}"
        elif words:
            parts.append(words)
        position = text.end()
    _append(parts, latex[position:])
    if len(parts) == 2 and isinstance(parts[0], Expression) and isinstance(parts[1], str):
        measured = _measured(parts[0], parts[1])
        if measured is not None:
            return measured
    if len(parts) == 2 and isinstance(parts[0], Group) and isinstance(parts[1], str) and parts[1] in UNITS:
        return parts[0]
    return parts[0] if len(parts) == 1 and not isinstance(parts[0], str) else Phrase(tuple(parts))


def _append(parts: list[str | Node], latex: str) -> None:
    power = re.match(r"\s*\^\{?([23])\}?", latex)
    if power and parts and isinstance(parts[-1], str):
        parts[-1] += "^" + power.group(1)
        latex = latex[power.end() :]
    if latex.strip(" .,:;"):
        parts.append(_operand(latex.strip()) if _group(latex.strip()) else _expression(latex.strip()))


def _words(text: str) -> str:
    return (
        " ".join(text.lower().replace("~", " ").strip(" .,:;").split()) if text.strip() not in UNITS else text.strip()
    )


_NO_UNITS = frozenset(
    "not no or and is are was be wrong incorrect false never if when where such with but except than least most more "
    "less "
    "mod modulo base plus minus times over negative positive even odd either between alternatively maybe perhaps "
    "possibly zero one two three four five six seven eight nine ten eleven twelve twenty a.m p.m am pm for all any "
    "some half halves third thirds quarter quarters mille "
    "factorial squared cubed power root percent point by to from of".split()
)


def _measured(expression: Expression, words: str) -> Node | None:
    """``expression`` with its unit; None when the words may say more than a unit does."""
    first, _, rest = words.partition(" ")
    if first in _MAGNITUDES and expression.latex:
        factor = Expression(rf"{_MAGNITUDES[first]} \cdot ({expression.latex})")
        return _measured(factor, rest) if rest.strip() else factor
    if words in UNITS:
        return Expression(expression.latex, UNITS[words], expression.has_degrees)
    square = re.fullmatch(r"(?:(square|sq\.?|cubic)\s+)?(.+?)(?:\^([23]))?", words)
    if square.group(2) in UNITS:
        power = {"square": "2", "cubic": "3"}.get(
            (square.group(1) or "").replace("sq.", "square"), square.group(3) or ""
        )
        return Expression(
            expression.latex, UNITS[square.group(2)] + (f"^{power}" if power else ""), expression.has_degrees
        )
    if (
        len(words.split()) <= 3
        and re.fullmatch(r"[a-z \-]+(?:/[a-z]+)?", words)
        and _NO_UNITS.isdisjoint(words.replace("-", " ").split())
        and not set(words.split()) & set(_MAGNITUDES)
    ):
        return Expression(expression.latex, words, expression.has_degrees)
    return None


def _expression(latex: str) -> Expression:
    if not _DEGREE.search(latex):
        return Expression(latex)
    if _TRIGONOMETRY.search(latex):
        return Expression(re.sub(r"(\d+(?:\.\d+)?)\s*\^\\circ\s*", r"{\\frac{\1 \\pi}{180}}", latex))
    return Expression(_DEGREE.sub("", latex).strip(), has_degrees=True)
