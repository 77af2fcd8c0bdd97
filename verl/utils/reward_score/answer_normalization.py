r"""Rewrites an answer in one spelling: no layout, one command for each meaning, text in ``\text{}``.

What comes out is LaTeX that :mod:`.answer_structure` takes apart and latex2sympy can parse. Nothing that carries
meaning is dropped: blanks between digits, text and units stay, for the comparison to weigh. Every function takes any
string and raises nothing. Standard library only.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_ANSWER_LENGTH = 1024
"""Longer answers are equal only when they are written alike; no data set here has an answer half as long."""

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot log ln lg exp sqrt frac binom max "
    "min".split()
)
UNITS = {
    spelling: names[0]
    for names in (
        line.split("|")
        for line in """\
degree|degrees|deg
radian|radians|rad
percent|per cent
mm|millimeter|millimeters|millimetre|millimetres
cm|centimeter|centimeters|centimetre|centimetres
dm|decimeter|decimeters
m|meter|meters|metre|metres
km|kilometer|kilometers|kilometre|kilometres
in|inch|inches
ft|foot|feet
yd|yard|yards
mi|mile|miles
mg|milligram|milligrams
g|gram|grams
kg|kilogram|kilograms
lb|lbs|pound|pounds
oz|ounce|ounces
ml|mL|milliliter|milliliters
L|l|liter|liters|litre|litres
s|sec|secs|second|seconds
min|mins|minute|minutes
h|hr|hrs|hour|hours
day|days
week|weeks
month|months
year|years
dollar|dollars|USD
cent|cents
euro|euros
Hz|hertz
kHz
MHz
N|newton|newtons
J|joule|joules
kJ
eV
W|watt|watts
kW
V|volt|volts
A|amp|amps|ampere|amperes
K|kelvin
Pa
kPa
mol|moles
unit|units
square unit|square units|sq units|units^2
cubic unit|cubic units|cu units|units^3
m/s|meters per second|metres per second
km/h|kilometers per hour|kilometres per hour
mph|miles per hour
mi/h""".splitlines()
    )
    for spelling in names
}
"""Every spelling of a unit and the one spelling that stands for all."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
        "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
        "°": r"^\circ ", "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "\u00a0": " ", "\u202f": " ",
        "\u2009": " ", "±": r"\pm ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "²": "^2",
        "³": "^3", "％": "%", "€": "", "£": "", "¥": "", "₹": "", "✓": "", "✔": "", "✅": "",
        "“": '"', "”": '"', "’": "'", "θ": r"\theta ",
        "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "∨": r"\lor ", "∧": r"\land ", "∅": r"\emptyset ",
    }
)  # fmt: skip
_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_UNICODE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]))")
_DIGIT_GROUP_GAP = re.compile(r"(?<=\d)(?:,?\\[,!:;]|\{,\})\s*(?=\d{3}(?!\d))")
_SPACED_DIGIT_GROUPS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[ ~]\d{3})+(?![\d.,]|[ ~]\d)")
_SIZES = "tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge"
_LAYOUT = re.compile(
    rf"\\(?:left|right|middle|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr|biggl|biggr|displaystyle|textstyle|limits|nolimits"
    rf"|{_SIZES.replace(' ', '|')}|checkmark|blacksquare|qed|pounds|euro|boldsymbol|pmb|bm|unicode|bf|rm|it|yen)"
    r"(?![A-Za-z])"
    r"|(?<!\\)\\[,!;:()\[\]]|\\\$|\$"
)
_COLOR = re.compile(r"\\(?:color|textcolor)\s*\{[^{}]*\}|\\(?:phantom|hspace|vspace|label|tag)\*?\s*\{[^{}]*\}")
_SPACING = re.compile(r"(?<!\\)\\(?=\s|$)|~")
_SYNONYMS = [
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leqslant|leqq|leq)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:geqslant|geqq|geq)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\(?:neq|not\s*=)(?![A-Za-z])|!=|\\not="), r"\\ne "),
    (re.compile(r"\\(?:approxeq|simeq|thickapprox)(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:setminus|backslash|smallsetminus)(?![A-Za-z])"), r"\\setminus "),
    (re.compile(r"\\mathbb\s*R(?![A-Za-z])|\\R(?![A-Za-z])|\\mathbf\s*\{R\}"), r"\\mathbb{R}"),
    (re.compile(r"\\vee(?![A-Za-z])"), r"\\lor "),
    (re.compile(r"\\wedge(?![A-Za-z])"), r"\\land "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\[lr]vert(?![A-Za-z])|\\vert(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:dots|ldots|dotsc|dotsb)(?![A-Za-z])"), r"\\cdots"),
    (re.compile(r"\\(?:operatorname\*?|mathrm|text)\s*\{(" + "|".join(sorted(FUNCTIONS)) + r")\}"), r"\\\1 "),
    (re.compile(r"\\%|\\?\b(?:percent|per cent)\b|\\text\s*\{\s*(?:percent|%|\\%)\s*\}"), "%"),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])"), r"^\\circ "),
    (
        re.compile(r"\^\s*\{\s*((?:\\prime\s*)+)\}|\^\s*\\prime(?![A-Za-z])"),
        lambda m: "'" * max(1, (m[1] or "").count("p")),
    ),
    (re.compile(r"\{([^{}]*?)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\{([^{}]*?)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (
        re.compile(r"[(\[]\s*\\begin\{array\}\s*\{[clr|]*\}(.*?)\\end\{array\}\s*[)\]]"),
        r"\\begin{pmatrix}\1\\end{pmatrix}",
    ),
    (re.compile(r"(?<=\w)\*\*(?=[\w({])"), "^"),
    (re.compile(r"\{:\}"), ":"),
    (re.compile(r"\\overline\s*(\d)"), r"\\overline{\1}"),
    (re.compile(r"\\hline(?![A-Za-z])|\\nonumber(?![A-Za-z])"), ""),
    (re.compile(r"([_^])\s*\{(\w)\}"), r"\1\2"),
    (re.compile(r"\\cdot\s*\\cdot\s*\\cdot"), r"\\cdots"),
]
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|textnormal|texttt|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?|emph|mathop)"
    r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_NUMBER_BEFORE_WORDS = re.compile(r"\s*(-?\d[\d.,]*)\s+([A-Za-z][^{}\d]*)$")
_MATH_FONT = re.compile(r"\\(?:mathbf|mathit|mathrm|mathsf|boldsymbol)\s*\{([^{}]*)\}")
_BOX = re.compile(r"\\(?:boxed|fbox|Boxed|underline)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_QUADS = re.compile(r"\\q?quad(?![A-Za-z])(?:\s*\\q?quad(?![A-Za-z]))*\s*")
_QUADS_AT_JOINTS = re.compile(r"\\quad (?=(?:and|or)\b|\\text\{|[,;])|(?<=[,;])\s?\\quad |(\b(?:and|or)\}?)\s?\\quad ")
_WHOLE_BRACES = re.compile(r"^\{([^{}]*)\}$")
_UNBRACED_ARGUMENT = re.compile(
    r"(\\(?:frac|binom)(?:\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})?|\\sqrt(?:\s*\[[^\]]*\])?)\s*(\d|[A-Za-z]|\\(?:pi|theta|alpha|beta|lambda|mu|sigma)(?![A-Za-z]))"
)
_REPEATING = re.compile(
    r"(?<![\d.])(\d*)\.(\d{0,20})(?:\\(?:overline|bar)\s*\{(\d{1,20})\}|\\dot\s*\{?(\d)\}?|\((\d{1,20})\)(?![\w(]))"
)
_ALIGNED = re.compile(
    r"\\begin\{(?:aligned|align\*?|gathered|gather\*?|split|equation\*?)\}(.*?)\\end\{(?:aligned|align\*?|gathered|gather\*?|split|equation\*?)\}",
    re.DOTALL,
)
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_CONJUNCTION = re.compile(r"\s*,?\s*\\text\{\s*,?\s*(and|or|et|ou|und|oder|y|o)\s*\}\s*|\s*,?\s+(and|or|ou)\s+")
_EMBEDDED_CONJUNCTION = re.compile(r"\\text\{([^{}]*?)\b(and|or)\b\s*\}")
_OR = frozenset({"or", "ou", "oder", "o"})
_ANSWER_WORDS = re.compile(
    r"^\s*\\text\{\s*(?:(?:the|final|correct|my)\s+)*(?:answer|result|solution)\s*(?:is|:|=)?\s*:?\s*\}\s*:?|^\s*=|^\s*\\(?:approx|sim|therefore|implies|Rightarrow)(?![A-Za-z])"
    r"|^\s*\\text\{\s*(?:about|approximately|approx\.?|around|roughly|nearly|ca\.|exactly)\s*\}"
    r"|\\text\{\s*\(?\s*(?:approx\.?|approximately)\s*\)?\s*\}\s*$",
    re.IGNORECASE,
)
_BARE_WORDS = re.compile(
    r"(?<![\\A-Za-z_{])[A-Za-z][A-Za-z.'-]*[A-Za-z.](?:[ -]+[A-Za-z][A-Za-z.'-]*)*(?![A-Za-z{(_^])"
)
_COMMAND_OR_TEXT = re.compile(r"\\text\{[^{}]*\}|\\(?:begin|end)\{[^{}]*\}|\\[A-Za-z]+\s*(?:\{[A-Z]{2,4}\})?")
_NUMBER_THEN_UNIT = re.compile(
    r"(?<=[\d})\s])\s*((?:[kcm]?m|mi|ft|k?g|in)(?:\^[23])?\s*/\s*(?:s|h|hr|min|sec|[cm]?m|L)(?:\^[23])?"
    r"|\\frac\s*\{(?:\\text\{)?\s*(?:[kcm]?m|mi|ft|k?g)\s*\}?\}\s*\{(?:\\text\{)?\s*(?:s|h|hr|min|sec|[cm]?m|L)\s*\}?(?:\^[23])?\})\s*$"
)


def normalize_answer(answer: str) -> str:
    r"""Return ``answer`` in one spelling, without layout commands, delimiters and trailing punctuation.

    >>> normalize_answer(r"$\dfrac12\,\mathrm{cm}$.")
    '\\frac{1}{2} \\text{cm}'
    >>> normalize_answer(r"\text{Tuesday}"), normalize_answer("12 apples")
    ('Tuesday', '12 \\text{apples}')
    >>> normalize_answer(r"1 \text{ and } 2"), normalize_answer(r"0.\overline{3}")
    ('1, 2', '\\frac{3}{9}')
    """
    answer = answer.strip()
    if len(answer) > MAX_ANSWER_LENGTH or _PLAIN_NUMBER.fullmatch(answer):
        return answer
    return _normalized(answer)


@lru_cache(maxsize=4096)
def _normalized(answer: str) -> str:
    answer = _UNICODE_ROOT.sub(lambda root: rf"\sqrt{{{root.group(1) or root.group(2)}}}", answer)
    answer = _DIGIT_GROUP_GAP.sub("", answer.translate(_UNICODE))
    answer = _COLOR.sub(" ", _LAYOUT.sub(" ", answer))
    # Single blanks, because the time that some of the patterns take grows with the cube of a run of them.
    answer = " ".join(_SPACING.sub(" ", answer).split())
    answer = _SPACED_DIGIT_GROUPS.sub(lambda digits: digits.group().replace(" ", ""), answer)
    answer = _unwrapped(answer)
    answer = _QUADS_AT_JOINTS.sub(r"\1 ", _QUADS.sub(r"\\quad ", answer))
    for pattern, replacement in _SYNONYMS:
        answer = pattern.sub(replacement, answer)
    for _ in range(2):
        answer = _UNBRACED_ARGUMENT.sub(r"\1{\2}", answer)
    answer = _REPEATING.sub(_repeating_decimal, answer)
    answer = _text_marked(_strip_punctuation(answer))
    answer = _ANSWER_WORDS.sub("", _ANSWER_WORDS.sub("", answer))
    whole_text = _WHOLE_TEXT.fullmatch(answer.strip())
    if whole_text:
        answer = whole_text.group(1)
    return _strip_punctuation(_WHOLE_BRACES.sub(r"\1", " ".join(answer.split())))


def is_words(answer: str, longest: int = 3) -> bool:
    """Whether ``answer`` is words, not mathematics: letters only, the longest word of at least ``longest`` letters.

    Three letters are as likely a product of variables (abc = cab), so a comparison by spelling alone asks for four.
    """
    if not re.fullmatch(r"\(?[A-Za-z][A-Za-z.,'\- ]*\)?", answer):
        return False
    words = [word.strip("().,'") for word in answer.split()]
    return max(map(len, words)) >= longest and FUNCTIONS.isdisjoint(words)


def _unwrapped(answer: str) -> str:
    """Without boxes, fonts and alignment, and with text in one command."""
    answer = _ALIGNED.sub(lambda rows: rows.group(1).replace("&", ""), answer)
    for _ in range(3):
        answer = _BOX.sub(r" \1 ", answer)
    return _TEXT_COMMAND.sub(_text_or_symbols, answer)


def _text_or_symbols(command: re.Match[str]) -> str:
    r"""``\text{...}``, but the plain content where a font command holds a symbol, a number or a vector."""
    name, content = re.match(r"\\(\w+)", command.group()).group(1), command.group(1)
    content = content.replace("~", " ").replace("$", "")
    stripped = content.strip()
    if not re.search("[A-Za-z]", content):
        return f" {content} "
    counted = _NUMBER_BEFORE_WORDS.match(content)
    if counted and not name.startswith("math"):
        return rf" {counted.group(1)} \text{{{counted.group(2)}}}"
    if name.startswith("math") and re.search(r"[\\^_=+\d]", content):
        return f"{{{content}}}"
    is_symbol = stripped == "i" or len(stripped) == 1 and name.startswith(("math", "operator"))
    if is_symbol and not (
        stripped in UNITS and name == "mathrm" and re.search(r"[\d})]\s*$", command.string[: command.start()])
    ):
        return f" {stripped} "
    if name == "mathrm" and re.fullmatch("[A-Z]{2,4}", stripped):
        return stripped
    return rf"\text{{{content}}}"


def _text_marked(answer: str) -> str:
    r"""With bare words in ``\text{}``; "and" and "or" between answers are ``,`` or, beside inequalities, ``\lor``."""
    answer = _EMBEDDED_CONJUNCTION.sub(lambda m: rf"\text{{{m[1]}}}\text{{{m[2]}}}" if m[1].strip() else m[0], answer)
    answer = re.sub(r"\\text\{\s*(and|or)\b\s*([^{}]*[^{}\s])\s*\}", r"\\text{\1}\\text{\2}", answer)
    answer = _NUMBER_THEN_UNIT.sub(_compound_unit, answer)
    if "{" not in answer and is_words(answer) and not re.search(r"\b(?:and|or)\b", answer):
        return answer
    relation = _RELATION.search(answer)

    def connective(found: re.Match[str]) -> str:
        word = found.group(1) or found.group(2)
        if not relation:
            return ", "
        return r" \lor " if word in _OR else r" \land "

    answer = _CONJUNCTION.sub(connective, answer)
    pieces, position = [], 0
    for command in _COMMAND_OR_TEXT.finditer(answer):
        pieces += [_BARE_WORDS.sub(_marked_words, answer[position : command.start()]), command.group()]
        position = command.end()
    return "".join([*pieces, _BARE_WORDS.sub(_marked_words, answer[position:])])


def _marked_words(found: re.Match[str]) -> str:
    words = found.group().split()
    longest = max(len(word.strip(".")) for word in words)
    after_number = re.search(r"[\d})]\s+$", found.string[: found.start()])
    is_text = (longest >= 4 and FUNCTIONS.isdisjoint(words)) or "." in found.group().rstrip(".")
    is_text = is_text or bool(
        after_number and (found.group() in UNITS or longest >= 3) and found.group() not in FUNCTIONS
    )
    return rf"\text{{{found.group()}}}" if is_text else found.group()


def _compound_unit(found: re.Match[str]) -> str:
    r"""``\frac{m}{s}`` and ``m/s`` after a number as ``\text{m/s}``."""
    unit = found.group(1).replace(r"\frac", "").replace(r"\text", "").replace(" ", "")
    return rf" \text{{{unit.replace('}{', '/').replace('{', '').replace('}', '')}}}"


def _repeating_decimal(found: re.Match[str]) -> str:
    whole, start = found.group(1) or "0", found.group(2)
    period = found.group(3) or found.group(4) or found.group(5)
    bottom = (10 ** len(period) - 1) * 10 ** len(start)
    top = int(whole + start + period) - int(whole + start)
    return rf"\frac{{{top}}}{{{bottom}}}"


def _strip_punctuation(answer: str) -> str:
    answer = answer.strip().strip('*`"').rstrip(".,;:").strip()
    answer = re.sub(r"^(?:\\q?quad\b|\\\\|\s)+|(?:\\q?quad\b|\\\\|\s)+$", "", answer)
    return answer
