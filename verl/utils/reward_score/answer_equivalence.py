r"""Decides whether an answer is the true one: by structure first, then leaf by leaf.

What has to be equal to what follows from the structure (:mod:`.answer_structure`): a list is compared item by item, an
equation only with an equation or with the value of the name it defines. At the leaves, spelling and exact arithmetic
settle most pairs in microseconds; the others raise :class:`Undecided`, and ``quick_verdict`` says None for the whole,
which :mod:`.verifier_pool` hands to a process with computer algebra. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .answer_normalization import MAX_ANSWER_LENGTH, is_words
from .answer_structure import (
    Expression,
    Group,
    Listing,
    Node,
    Phrase,
    Relation,
    is_segment_name,
    is_variable,
    name_of,
    parse_answer,
    source,
)
from .number_literals import equal_numbers, parse_number

GENERIC_UNITS = frozenset({"unit", "units", "square unit", "cubic unit", "unit^2", "unit^3"})
LARGEST_MATCHING = 64

_OPERATION = re.compile(
    r"\\(int|iint|iiint|oint|lim|limsup|liminf|sum|prod|gcd|lcm|det|mod|bmod|pmod|max|min|sup|inf|arg|deg|dim|ker|Pr"
    r"|partial|nabla|lfloor|lceil|cdots|Re|Im)(?![A-Za-z])"
    r"|\\begin\{([vV]matrix)\}|(\|)\s*\\begin|\\frac\s*\{\s*(d)\s*(?:\^\s*\{?\w\}?)?\s*[A-Za-z]?\s*\}\s*\{\s*d"
    r"|(?:\\text\{\s*)?(?<![A-Za-z\\])(gcd|lcm|GCD|LCM|mod|det|lim|sum|floor|ceil|rank|tr|Re|Im)\s*\}?\s*[({\d\\]"
    r"|(matrix\})\s*(?:\^|(?:\\cdot|\\times)?\s*\\begin)|\)\s*(')"
)
_BASE_LITERAL = re.compile(r"[0-9A-Fa-f]+_(?:\d|\{\d+\})")
_FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", "=": "=", r"\ne": r"\ne"}
_SET_OPERATION = re.compile(r"\\(?:cup|cap|setminus|mathbb|emptyset)(?![A-Za-z])")


class Undecided(Exception):
    """Two expressions are neither written alike nor both numbers: it takes computer algebra to compare them."""


class WrittenLeaves:
    """Compares leaves by spelling and exact arithmetic; raises :class:`Undecided` where that does not suffice."""

    def equal_expressions(self, answer: str, truth: str) -> bool:
        verdict = verdict_on_spelling(answer, truth)
        if verdict is None:
            raise Undecided
        return verdict

    def equal_equations(self, answer: tuple[str, str], truth: tuple[str, str]) -> bool:
        raise Undecided

    def equal_sets(self, answer: Node, truth: Node) -> bool:
        raise Undecided


@dataclass(frozen=True)
class _Assignment:
    name: str
    values: tuple[Node, ...]
    """All sides of ``x = 1 + 2 = 3`` but the name."""


def quick_verdict(answer: str, ground_truth: str) -> bool | None:
    r"""Say whether two normalised answers are equal, or None when that takes computer algebra.

    >>> quick_verdict("0.5", r"\frac{1}{2}"), quick_verdict("7", "8"), quick_verdict("x^2-1", "(x-1)(x+1)")
    (True, False, None)
    >>> quick_verdict(r"[0, 2\pi]", r"[0,2\pi)"), quick_verdict("x = 5", "5"), quick_verdict("2x = 10", "10")
    (False, True, None)
    """
    if not answer or not ground_truth:
        return False
    number, true_number = parse_number(answer), parse_number(ground_truth)
    if number and true_number:
        return equal_numbers(number, true_number)
    if spelling(answer) == spelling(ground_truth):
        return True
    if max(len(answer), len(ground_truth)) > MAX_ANSWER_LENGTH:
        return False
    try:
        return answers_equal(answer, ground_truth, WrittenLeaves())
    except Undecided:
        return None


def answers_equal(answer: str, ground_truth: str, leaves: WrittenLeaves) -> bool:
    """Whether two normalised answers are equal, with ``leaves`` to compare the expressions in them.

    Raises:
        Undecided: ``leaves`` does.
    """
    return _Comparison(leaves).listings(parse_answer(answer), parse_answer(ground_truth))


def verdict_on_spelling(answer: str, truth: str) -> bool | None:
    """What spelling and exact arithmetic say about two expressions; None for nothing."""
    if spelling(answer) == spelling(truth):
        return True
    number, true_number = parse_number(answer), parse_number(truth)
    if number and true_number:
        return equal_numbers(number, true_number)
    words = is_words(answer, longest=4), is_words(truth, longest=4)
    if all(words) or (number and words[1]) or (true_number and words[0]):
        return False
    if _BASE_LITERAL.fullmatch(answer) or _BASE_LITERAL.fullmatch(truth):
        return False  # latex2sympy ignores the base
    return None


def spelling(answer: str) -> str:
    """What answers that are written alike share: capitals count only outside of words, blanks only inside numbers."""
    if is_words(answer) or answer.casefold() in ("yes", "no"):
        answer = answer.casefold()
    return re.sub(r"(?<=[\d.,])\s+(?=[\d.,])|(?<=[A-Za-z])\s+(?=[A-Za-z])", "\0", answer).translate(_NO_BLANKS)


_NO_BLANKS = str.maketrans({" ": "", "\n": "", "\t": "", "\0": " "})


def unevaluated_operations(latex: str) -> frozenset[str]:
    r"""The operations in ``latex`` that a question asks to carry out: integrals, limits, remainders, determinants, ...

    >>> sorted(unevaluated_operations(r"2^{100} \bmod 7")), sorted(unevaluated_operations(r"\sqrt{2}+\binom{10}{3}"))
    (['bmod'], [])
    """
    return frozenset(next(filter(None, found.groups())) for found in _OPERATION.finditer(latex))


class _Comparison:
    def __init__(self, leaves: WrittenLeaves) -> None:
        self.leaves = leaves

    def listings(self, answer: Listing, truth: Listing) -> bool:
        named, true_named = _assignments(answer), _assignments(truth)
        if named and true_named:
            values, true_values = ({one.name: one.values for one in each} for each in (named, true_named))
            if len(values) == len(named) and len(true_values) == len(true_named) and set(values) == set(true_values):
                return all(self._chains(chain, true_values[name]) for name, chain in values.items())
            if set(values) == set(true_values) and len(values) == 1:
                solutions = [[one for each in side for one in _listed(each.values[-1])] for side in (named, true_named)]
                return self._matching(*solutions, self.nodes)
        elif named and not _has_equation(truth):
            return self._values(named, truth, self.nodes) or self._same_set(answer, truth)
        elif true_named and not _has_equation(answer):
            return self._values(true_named, answer, lambda value, one: self.nodes(one, value)) or self._same_set(
                answer, truth
            )
        if {answer.joiner, truth.joiner} != {"and", "or"} and self._matching(answer.items, truth.items, self.nodes):
            return True
        return self._list_against_group(answer, truth) or self._same_set(answer, truth)

    def _same_set(self, answer: Listing, truth: Listing) -> bool:
        describe_sets = _describes_set(answer) and _describes_set(truth)
        if not describe_sets or not (_has_condition(answer) or _has_condition(truth)):
            return False
        return not _new_operations(answer, truth) and self.leaves.equal_sets(answer, truth)

    def _list_against_group(self, answer: Listing, truth: Listing) -> bool:
        r"""Whether "5, 6" faces (5, 6) in that order, or \{5, 6\} in any."""
        for bare, other in ((answer, truth), (truth, answer)):
            group = other.items[0] if len(other.items) == 1 else None
            if not isinstance(group, Group) or isinstance(bare.items[0], Group) and len(bare.items) == 1:
                continue
            if len(bare.items) == 1 and not group.is_set:
                continue
            if group.is_set or _is_tuple(group):
                pair = (bare.items, group.elements)
                items, truths = pair if bare is answer else pair[::-1]
                if group.is_set:
                    return self._matching(items, truths, self.nodes)
                return len(items) == len(truths) and all(map(self.nodes, items, truths))
        return False

    def _values(self, named: list[_Assignment], other: Listing, equal: Callable[[Node, Node], bool]) -> bool:
        """Whether the values of names are ``other``, which has no names: in the order of the names if they differ."""
        names = [one.name for one in named]
        if len(named) == 1:
            (value,) = named
            if len(other.items) != 1:
                return self._matching(_listed(value.values[-1]), other.items, equal)
            return all(equal(side, other.items[0]) for side in value.values)
        in_order = [one.values[-1] for one in sorted(named, key=lambda one: one.name)]
        if any(len(one.values) > 1 for one in named):
            return False
        group = other.items[0] if len(other.items) == 1 else None
        if _is_tuple(group):
            return len(in_order) == len(group.elements) and all(map(equal, in_order, group.elements))
        others = group.elements if isinstance(group, Group) else other.items
        if isinstance(group, Group) or len({name[0] if name[0] != "\\" else name.split("_")[0] for name in names}) == 1:
            return self._matching(in_order, others, equal)
        return len(in_order) == len(others) and all(map(equal, in_order, others))

    def _chains(self, answer: Sequence[Node], truth: Sequence[Node]) -> bool:
        return all(self.nodes(side, truth[-1]) for side in answer)

    def _matching(self, answers: Sequence[Node], truths: Sequence[Node], equal: Callable[[Node, Node], bool]) -> bool:
        """Whether each answer is one of the truths and each truth one of the answers, in any order, however often."""
        answers, truths = list(dict.fromkeys(answers)), list(dict.fromkeys(truths))
        if max(len(answers), len(truths)) > LARGEST_MATCHING:
            return False
        missed = set(truths)
        for answer in answers:
            if answer in truths:
                missed.discard(answer)
                continue
            found = next((truth for truth in truths if equal(answer, truth)), None)
            if found is None:
                return False
            missed.discard(found)
        return all(any(equal(answer, truth) for answer in answers) for truth in truths if truth in missed)

    def nodes(self, answer: Node, truth: Node) -> bool:
        if answer == truth:
            return True
        if isinstance(answer, Expression) and isinstance(truth, Expression):
            return self._expressions(answer, truth)
        if isinstance(answer, Group) and isinstance(truth, Group):
            return self._groups(answer, truth)
        if isinstance(answer, Relation) and isinstance(truth, Relation):
            return self._relations(answer, truth)
        if isinstance(answer, Phrase) and isinstance(truth, Phrase):
            return self._phrases(answer, truth)
        if isinstance(answer, Listing) or isinstance(truth, Listing):
            return self.listings(*(one if isinstance(one, Listing) else Listing((one,)) for one in (answer, truth)))
        words, true_words = _only_words(answer), _only_words(truth)
        if words and true_words:
            return words == true_words
        if isinstance(answer, Relation) and answer.is_equation:
            return self._evaluation(answer, truth)
        return False

    def _evaluation(self, answer: Relation, truth: Node) -> bool:
        r"""Whether "1 + 2 = 3" or "\gcd(8, 6) = 2" or "\sqrt{2} \approx 1.41" states ``truth``: no side may differ."""
        sides = list(answer.sides)
        while answer.operators[len(sides) - 2 :][:1] == (r"\approx",) and len(sides) > 1:
            sides.pop()
        *first, last = sides
        return self.nodes(last, truth) and all(
            unevaluated_operations(source(side)) or self.nodes(side, truth) for side in first
        )

    def _expressions(self, answer: Expression, truth: Expression) -> bool:
        if not _units_agree(answer.unit, truth.unit) or _new_operations(answer, truth):
            return False
        latex, true_latex = answer.latex, truth.latex
        in_degrees = [one.has_degrees or one.unit == "degree" for one in (answer, truth)]
        if in_degrees == [True, False] and r"\pi" in true_latex:
            latex = rf"({latex})\cdot\frac{{\pi}}{{180}}"
        elif in_degrees == [False, True] and r"\pi" in latex:
            true_latex = rf"({true_latex})\cdot\frac{{\pi}}{{180}}"
        return self.leaves.equal_expressions(latex, true_latex)

    def _groups(self, answer: Group, truth: Group) -> bool:
        if answer.is_set or truth.is_set:
            return answer.is_set and truth.is_set and self._matching(answer.elements, truth.elements, self.nodes)
        if len(answer.elements) != len(truth.elements) or _ends(answer) != _ends(truth):
            return False
        return all(map(self.nodes, answer.elements, truth.elements))

    def _phrases(self, answer: Phrase, truth: Phrase) -> bool:
        if [isinstance(part, str) for part in answer.parts] != [isinstance(part, str) for part in truth.parts]:
            return False
        return all(
            _singular(part) == _singular(true_part) if isinstance(part, str) else self.nodes(part, true_part)
            for part, true_part in zip(answer.parts, truth.parts, strict=True)
        )

    def _relations(self, answer: Relation, truth: Relation) -> bool:
        if len(answer.sides) != len(truth.sides):
            return False
        if answer.operators == truth.operators and all(map(self.nodes, answer.sides, truth.sides)):
            return True
        flipped = tuple(_FLIPPED.get(operator, "") for operator in answer.operators[::-1])
        if flipped == truth.operators and all(map(self.nodes, answer.sides[::-1], truth.sides)):
            return True
        if _new_operations(answer, truth):
            return False
        if answer.operators == truth.operators == ("=",):
            sides = [tuple(map(source, relation.sides)) for relation in (answer, truth)]
            return self.leaves.equal_equations(*sides)
        if answer.is_inequality and truth.is_inequality:
            return self.leaves.equal_sets(Listing((answer,)), Listing((truth,)))
        return False


def _assignments(listing: Listing) -> list[_Assignment] | None:
    """The names and values of "x = 1, y = 2", "x = 1, 2" or "(x, y) = (1, 2)"; None when an item defines no name."""
    named: list[_Assignment] = []
    for item in listing.items:
        if isinstance(item, Relation) and item.is_equation:
            found = _assigned(item)
            if not found:
                return None
            named += found
        elif named and isinstance(item, Expression):
            named.append(_Assignment(named[0].name, (item,)))
        else:
            return None
    return named


def _assigned(relation: Relation) -> list[_Assignment]:
    first, *values = relation.sides
    if len(values) == 1 and _is_tuple(first) and _is_tuple(values[0]):
        names = [name_of(element) for element in first.elements]
        if all(names) and len(names) == len(values[0].elements):
            return [_Assignment(name, (value,)) for name, value in zip(names, values[0].elements, strict=True)]
    name = name_of(first)
    if name is None and is_segment_name(first) and parse_number(source(values[-1])):
        name = source(first)
    if name is None and len(values) == 1 and is_variable(values[0]) and parse_number(source(first)):
        name, values = source(values[0]), [first]
    if len(values) == 1 and len(source(first)) == len(source(values[0])) == 1 and source(values[0]).isalpha():
        return []  # x = y says how two unknowns are related, not what one of them is
    if name is None or any(_occurs(name, source(value)) for value in values):
        return []
    return [_Assignment("".join(name.split()), tuple(values))]


def _only_words(node: Node) -> str | None:
    if isinstance(node, Phrase) and len(node.parts) == 1 and isinstance(node.parts[0], str):
        return node.parts[0]
    return node.latex.lower() if isinstance(node, Expression) and is_words(node.latex) else None


def _is_tuple(node: Node) -> bool:
    return isinstance(node, Group) and (node.opening, node.closing) == ("(", ")")


def _occurs(name: str, latex: str) -> bool:
    return (
        bool(re.search(rf"(?<![A-Za-z\\]){re.escape(name)}(?![A-Za-z_'])", latex)) if is_letter(name) else name in latex
    )


def is_letter(name: str) -> bool:
    return len(name) == 1


def _listed(node: Node) -> Sequence[Node]:
    if isinstance(node, Listing):
        return node.items
    return node.elements if isinstance(node, Group) and node.is_set else (node,)


def _has_equation(listing: Listing) -> bool:
    return any(isinstance(item, Relation) and item.is_equation for item in listing.items)


def _has_condition(listing: Listing) -> bool:
    """Whether there is an inequality or an operation on sets, so that pairs in brackets are intervals, not points."""
    return any(
        (isinstance(item, Relation) and (item.is_inequality or item.operators == (r"\in",)))
        or _SET_OPERATION.search(source(item))
        for item in listing.items
    )


def _describes_set(listing: Listing) -> bool:
    return _has_condition(listing) or any(isinstance(item, Group) for item in listing.items)


def _new_operations(answer: Node, truth: Node) -> bool:
    operations = unevaluated_operations(source(answer))
    return bool(operations and operations - unevaluated_operations(source(truth)))


def _units_agree(unit: str, true_unit: str) -> bool:
    if not unit or not true_unit or unit == true_unit or not GENERIC_UNITS.isdisjoint({unit, true_unit}):
        return True
    words, true_words = set(_singular(unit).split()), set(_singular(true_unit).split())
    return words <= true_words or true_words <= words


def _singular(words: str) -> str:
    return " ".join(word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words.split())


def _ends(group: Group) -> tuple[str, str]:
    r"""The brackets of an interval or a point; at an infinite end they do not matter: [-\infty, 3] is (-\infty, 3]."""
    first, last = source(group.elements[0]).strip(), source(group.elements[-1]).strip()
    opening = "(" if first.startswith("-") and "infty" in first else group.opening
    return opening, ")" if last.lstrip("+ ") == r"\infty" else group.closing
