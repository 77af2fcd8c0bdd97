"""Text of unknown origin, made visible: what would act on a page or a terminal is shown as what it is."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["harmless", "shortened"]

# Controls but tab and newline; marks, embeddings, overrides and isolates of writing directions; line and paragraph
# separators; lone surrogates, which no encoding writes; zero-width characters and tags, which hide text from the eye.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
# Marks that pile up on one character cover the lines around it.
_TOO_MANY_MARKS = re.compile(f"((?:{_MARK}){{8}}){_MARK}+")
_CONTROL_PICTURES = 0x2400


def harmless(text: str) -> str:
    """``text`` with its acting characters replaced by visible ones; HTML is left to the template, which escapes it.

    >>> harmless("a\\x1b[31mb\\u202e\\x00\\r\\n<b>")
    'a␛[31mb⟨U+202E⟩␀␍\\n<b>'
    """
    return _TOO_MANY_MARKS.sub(r"\1⟨…⟩", _ACTING.sub(_visible, text))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    if code == 0x7F:
        return "␡"
    return f"⟨U+{code:04X}⟩"


def shortened(text: str, most: int) -> tuple[str, str]:
    """The beginning of ``text``, at most ``most`` characters of it, and the rest; no character is cut from its marks.

    >>> shortened("abcdef", 4), shortened("abc", 4)
    (('abcd', 'ef'), ('abc', ''))
    """
    if len(text) <= most:
        return text, ""
    end = most
    while end > most // 2 and unicodedata.combining(text[end]):
        end -= 1
    return text[:end], text[end:]
