r"""Compares what spelling cannot: expressions, equations and sets, with latex2sympy and SymPy.

latex2sympy parses LaTeX with a grammar and never evaluates text as Python. Two expressions are equal when they have the
same value at several points, real and complex, to many digits; that is as certain as simplifying their difference, and
faster. A value that is not a number there leaves the decision to math-verify.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .answer_equivalence import Undecided, WrittenLeaves, answers_equal
from .answer_structure import Group, Listing, Node, Relation, is_variable, source
from .number_literals import are_close

DIGITS = 30
NEGLIGIBLE = 1e-20
CACHE_BYTES = 4 * 2**20
BYTES_PER_ATOM = 200
POINTS = ((1.37, 0.61), (2.83, 0.29), (0.41, 0.87), (-1.91, 0.77), (-0.53, -0.39))
"""Start and step of the values that the variables take, in order: points of positive and of negative numbers."""

_LETTERS = re.compile(r"\\[A-Za-z]+|I(?![A-Za-z]*\})")
_PRIMES = re.compile(r"([A-Za-z])('+)")
_FACTOR_BEFORE_FRACTION = re.compile(
    r"(?<![_^\d.])(\d+)\s*\(\s*(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\d+\s*/\s*\d+)\s*\)"
)
"""What latex2sympy would take for a mixed number: 3(1/2)."""

_DIFFERENTIAL_OF_OPERATOR = re.compile(
    r"(?<![\\A-Za-z])d(?=\s*\\(?:cdot|times|div|frac|sqrt|left|sin|cos|tan|ln|log)(?![A-Za-z]))"
)
_BLANK_IN_NUMBER = re.compile(r"(?<![_^\d.])[\d.]+\s+[\d.]")
_MALFORMED_NUMBER = re.compile(r"\d*\.\d+\.\d*|\d,\s*\d{3}\s*\.\d*,")
_GROUPED_DIGITS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SIMPLE_ARGUMENT = (
    r"(?:\{\s*)?((?:\d+\s*)?(?:[A-Za-z]|\\(?:alpha|beta|gamma|theta|phi|varphi|omega|pi|lambda)(?![A-Za-z])))(?:\s*\})?"
)
_FUNCTION_BEFORE_DOT = re.compile(
    rf"(\\(?:sin|cos|tan|cot|sec|csc|ln|log|arcsin|arccos|arctan)\s*(?:\^\s*(?:\{{[^{{}}]*\}}|\w))?)\s*{_SIMPLE_ARGUMENT}\s*(?=\\cdot|\\times)"
)
_ACCENTED = re.compile(r"\\(?:hat|widehat|vec|bar|overline|tilde|dot|ddot|mathcal|mathbb)\s*\{[^{}]*\}")
_IGNORED_BY_PARSER = re.compile(r"'|!\s*!|[\d)\]}]\s*_")
"""What latex2sympy would skip: primes, the base of a number, a second factorial."""

_UNKNOWN_COMMAND = re.compile(
    r"\\(?:lnot|neg|mid|Rightarrow|implies|therefore|because|to|circ|text)(?![A-Za-z])|[?@#~\"]"
)


class SymbolicLeaves(WrittenLeaves):
    """Compares leaves with computer algebra where spelling does not suffice; never raises :class:`Undecided`."""

    def equal_expressions(self, answer: str, truth: str) -> bool:
        try:
            return super().equal_expressions(answer, truth)
        except Undecided:
            approximately = "." in answer or "." in truth
            true_expression = _parsed(truth.replace("%", ""))
            return any(_equal(reading, true_expression, approximately) for reading in _readings(answer, truth))

    def equal_equations(self, answer: tuple[str, str], truth: tuple[str, str]) -> bool:
        """Whether the same points solve both: the differences of their sides are proportional and not constant."""
        sides = [_parsed(side) for side in (*answer, *truth)]
        return all(map(_is_expression, sides)) and _are_proportional(sides[0] - sides[1], sides[2] - sides[3])

    def equal_sets(self, answer: Node, truth: Node) -> bool:
        variables = _variables(answer), _variables(truth)
        if all(variables) and variables[0] != variables[1]:
            return False
        answer_set, true_set = _as_set(answer), _as_set(truth)
        if answer_set is None or true_set is None:
            return False
        return answer_set == true_set or answer_set.symmetric_difference(true_set).is_empty is True


def answers_match(answer: str, ground_truth: str) -> bool:
    r"""Whether two normalised answers are equal.

    >>> answers_match(r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), answers_match("-1 < x < 2", "(-1, 2)")
    (True, True)
    >>> answers_match(r"\pi \times 10^{-19}", r"2\pi \times 10^{-21}"), answers_match("x^2 + 1 = 0", "x^2 + 121 = 0")
    (False, False)
    """
    return answers_equal(answer, ground_truth, SymbolicLeaves())


def _readings(answer: str, truth: str) -> list[Any]:
    """The expression, and where only one of the two is a percentage, a hundredth or a hundredfold of it."""
    reading = _parsed(answer.replace("%", ""))
    if ("%" in answer) == ("%" in truth) or not _is_expression(reading):
        return [reading]
    return [reading, reading / 100 if "%" in answer else reading * 100]


class _ParsedCache:
    """Expressions by their LaTeX; bounded by size, as one of them may hold an integer of a million digits.

    Many responses are compared with the same ground truth, and parsing is most of the work.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.size = 0
        self._entries: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, latex: str) -> Any:
        if latex in self._entries:
            self._entries.move_to_end(latex)
            return self._entries[latex][0]
        expression = _parse(latex)
        size = len(latex) + size_of(expression)
        if size <= self.limit // 16:
            self._entries[latex] = expression, size
            self.size += size
        while self.size > self.limit:
            self.size -= self._entries.popitem(last=False)[1][1]
        return expression


def size_of(expression: Any) -> int:
    """About how many bytes ``expression`` takes: the digits of its integers and something for each of its parts."""
    from sympy import Integer, Rational, preorder_traversal

    size = BYTES_PER_ATOM
    for part in preorder_traversal(expression) if expression is not None else ():
        size += BYTES_PER_ATOM
        if isinstance(part, Rational):
            size += (Integer(part.p).p.bit_length() + Integer(part.q).p.bit_length()) // 8
    return size


_cache = _ParsedCache()


def _parsed(latex: str) -> Any:
    """The SymPy object that ``latex`` as a whole is, or None."""
    return _cache.get(latex.strip())


@lru_cache(maxsize=1)
def _converter_class() -> type:
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy
    from sympy import Rational

    class Converter(_Latex2Sympy):
        """latex2sympy with exact numbers, read by ``Fraction``: upstream's go through SymPy's ``parse_expr``."""

        def parse_number(self, text: str) -> Any:
            return Rational(text.replace(",", ""))

    return Converter


def _parse(latex: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from sympy import Derivative, Expr, I, Symbol, oo
    from sympy.core.function import AppliedUndef

    if _BLANK_IN_NUMBER.search(latex) or _MALFORMED_NUMBER.search(latex) or _UNKNOWN_COMMAND.search(latex):
        return None
    if _GROUPED_DIGITS.fullmatch(latex):
        latex = latex.replace(",", "")
    latex = _FUNCTION_BEFORE_DOT.sub(r"\1(\2)", latex)
    latex = _FACTOR_BEFORE_FRACTION.sub(r"\1 \\cdot (\2)", latex)
    latex = _DIFFERENTIAL_OF_OPERATOR.sub("{d}", latex)
    latex = _PRIMES.sub(lambda found: rf"{found[1]}_{{{'prime' * len(found[2])}}}", latex)
    if _IGNORED_BY_PARSER.search(_ACCENTED.sub("v", latex)):
        return None
    latex = _LETTERS.sub(lambda found: r"\text{I}" if found.group() == "I" else found.group(), latex)
    try:
        parsed = _converter_class()(is_real=True, config=ConversionConfig(lowercase_symbols=False)).parse(latex)
    except (RecursionError, MemoryError):
        raise
    except Exception:  # the parser raises plain Exception, and whatever its conversion runs into
        return None
    if not hasattr(parsed, "xreplace"):
        return parsed
    if parsed.has(oo) and isinstance(parsed, Expr) and parsed not in (oo, -oo):
        return None
    replaced = {call: Symbol(str(call), real=True) for call in parsed.atoms(AppliedUndef, Derivative)}
    replaced |= {symbol: I if symbol.name == "i" else Symbol(symbol.name, real=True) for symbol in parsed.free_symbols}
    return parsed.xreplace(replaced)


def _equal(answer: Any, truth: Any, approximately: bool) -> bool:
    from sympy import MatrixBase, MatrixExpr, Set

    if answer is None or truth is None:
        return False
    if isinstance(answer, MatrixBase | MatrixExpr) and isinstance(truth, MatrixBase | MatrixExpr):
        answer, truth = (one.as_explicit() if isinstance(one, MatrixExpr) else one for one in (answer, truth))
        return answer.shape == truth.shape and all(
            _equal(one, other, approximately) for one, other in zip(answer, truth, strict=True)
        )
    if _is_expression(answer) and _is_expression(truth):
        return _are_identical(answer, truth, approximately)
    if isinstance(answer, Set) and isinstance(truth, Set):
        return answer == truth or answer.symmetric_difference(truth).is_empty is True
    return False


def _is_expression(parsed: Any) -> bool:
    from sympy import Expr, MatrixExpr

    return isinstance(parsed, Expr) and not isinstance(parsed, MatrixExpr)


def _are_identical(answer: Any, truth: Any, approximately: bool) -> bool:
    from sympy import nan, zoo

    if answer.has(nan, zoo) or truth.has(nan, zoo):
        return False
    if answer == truth:
        return True
    symbols = sorted(answer.free_symbols | truth.free_symbols, key=str)
    if not symbols:
        return _are_equal_constants(answer.doit(), truth.doit(), approximately)
    compared = 0
    for point in _points(symbols):
        value, true_value = _value(answer, point), _value(truth, point)
        if value is None or true_value is None:
            continue
        allowed = 1e-6 if approximately else NEGLIGIBLE
        if abs(value - true_value) > allowed * (abs(true_value) + (0 if approximately else 1)):
            both_real = abs(value.imag) + abs(true_value.imag) == 0
            if compared < 3 or both_real:
                return False
            continue
        compared += 1
    return compared >= 3 or (compared == 0 and _math_verify_agrees(answer, truth))


def _points(symbols: list[Any]) -> list[dict[Any, Any]]:
    from sympy import Float

    return [
        {
            symbol: Float(start + step * number * (1 if number % 3 else 1.7), DIGITS)
            for number, symbol in enumerate(symbols)
        }
        for start, step in POINTS
    ]


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The value at ``point`` as a complex mpmath number of many digits, or None where there is none."""
    import mpmath

    try:
        value = expression.evalf(DIGITS, subs=point)
        real, imaginary = value.as_real_imag()
        if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
            return None
        with mpmath.workdps(DIGITS):
            return mpmath.mpc(
                mpmath.mpf(real._mpf_ if real.is_Float else str(real.evalf(DIGITS))),
                mpmath.mpf(str(imaginary.evalf(DIGITS))),
            )
    except (TypeError, ValueError, AttributeError, OverflowError, ZeroDivisionError, NotImplementedError):
        return None


def _are_equal_constants(answer: Any, truth: Any, approximately: bool) -> bool:
    from sympy import Rational

    if not (answer.is_finite and truth.is_finite):
        return answer == truth
    if isinstance(answer, Rational) and isinstance(truth, Rational):
        return are_close(Fraction(answer.p, answer.q), Fraction(truth.p, truth.q), approximately)
    difference = (answer - truth).evalf(DIGITS)
    size = max(1, abs(truth.evalf(DIGITS)))
    try:
        if not approximately:
            return bool(abs(difference) < NEGLIGIBLE**2 * size)
        values = [Fraction(str(one.evalf(DIGITS))) for one in (answer, truth)]
    except (TypeError, ValueError):
        return False  # a complex decimal, or no number at all
    return are_close(*values, approximately=True)


def _are_proportional(difference: Any, true_difference: Any) -> bool:
    from sympy import fraction, together

    symbols = sorted(difference.free_symbols, key=str)
    if not symbols or difference.free_symbols != true_difference.free_symbols:
        return False
    answer, truth = fraction(together(difference))[0], fraction(together(true_difference))[0]
    ratios = []
    for point in _points(symbols):
        value, true_value = _value(answer, point), _value(truth, point)
        if value is not None and true_value is not None and abs(value) > 1e-9 and abs(true_value) > 1e-9:
            ratios.append(value / true_value)
    return len(ratios) >= 3 and all(abs(ratio - ratios[0]) < NEGLIGIBLE * abs(ratios[0]) for ratio in ratios)


def _math_verify_agrees(answer: Any, truth: Any) -> bool:
    from math_verify import verify

    return bool(verify([truth], [answer], timeout_seconds=None))


def _as_set(node: Node) -> Any:
    """The set of numbers that ``node`` describes, or None."""
    from sympy import FiniteSet, Intersection, Interval, Set, Union

    if isinstance(node, Listing):
        sets = [_as_set(item) for item in node.items]
        if not sets or any(one is None for one in sets):
            return None
        if len(_variables(node)) > 1:
            return None
        united, common = Union(*sets), Intersection(*sets)
        if node.joiner == "or" or not all(isinstance(item, Relation) for item in node.items):
            return united
        return common if node.joiner == "and" or not common.is_empty else united
    if isinstance(node, Relation):
        return _solutions(node)
    if isinstance(node, Group) and not node.is_set and len(node.elements) == 2:
        ends = [_parsed(source(element)) for element in node.elements]
        if not all(map(_is_expression, ends)) or (ends[0] >= ends[1]) == True:  # noqa: E712  (a point)
            return None
        return Interval(*ends, left_open=node.opening == "(", right_open=node.closing == ")")
    parsed = [_parsed(source(element)) for element in (node.elements if isinstance(node, Group) else (node,))]
    if isinstance(node, Group):
        return FiniteSet(*parsed) if all(map(_is_expression, parsed)) else None
    return parsed[0] if isinstance(parsed[0], Set) else None


def _variables(node: Node) -> set[str]:
    """The names of the variables in the inequalities of ``node``."""
    if isinstance(node, Listing):
        return set().union(*map(_variables, node.items))
    sides = [_parsed(source(side)) for side in node.sides] if isinstance(node, Relation) else []
    return {symbol.name for side in sides if side is not None for symbol in side.free_symbols}


def _solutions(relation: Relation) -> Any:
    """The numbers for which a chain of inequalities in one variable holds, or None."""
    from sympy import Ge, Gt, Intersection, Interval, Le, Lt, Ne, S

    if not relation.is_inequality:
        member = relation.operators == (r"\in",) and is_variable(relation.sides[0])
        return _as_set(relation.sides[1]) if member else None
    sides = [_parsed(source(side)) for side in relation.sides]
    if not all(map(_is_expression, sides)):
        return None
    kinds = {"<": Lt, ">": Gt, r"\le": Le, r"\ge": Ge, r"\ne": Ne}
    sets = []
    for left, operator, right in zip(sides, relation.operators, sides[1:], strict=False):
        if operator in (">", r"\ge"):
            left, right, operator = right, left, {">": "<", r"\ge": r"\le"}[operator]
        is_open = operator == "<"
        if operator != r"\ne" and left.is_Symbol and not right.has(left):
            sets.append(Interval(S.NegativeInfinity, right, True, is_open))
        elif operator != r"\ne" and right.is_Symbol and not left.has(right):
            sets.append(Interval(left, S.Infinity, is_open, True))
        else:
            condition = kinds[operator](left, right)
            symbols = getattr(condition, "free_symbols", set())
            if len(symbols) != 1:
                return None
            try:
                sets.append(condition.as_set())
            except (NotImplementedError, ValueError, TypeError, AttributeError):
                return None
    return Intersection(*sets)
