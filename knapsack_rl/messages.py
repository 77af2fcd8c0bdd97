"""Messages for people: a refusal is one line, whatever the library says whose error is its reason."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(error: Exception) -> str:
    r"""An error's message without its line breaks.

    >>> one_line(ValueError("Invalid data\n."))
    'Invalid data .'
    """
    return " ".join(str(error).split())
