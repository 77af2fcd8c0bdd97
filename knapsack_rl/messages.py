"""Messages for people: a refusal is one line, whatever the library says whose error is its reason."""

from __future__ import annotations

__all__ = ["one_line", "reason_of"]


def one_line(error: Exception) -> str:
    r"""An error's message without its line breaks.

    >>> one_line(ValueError("Invalid data\n."))
    'Invalid data .'
    """
    return " ".join(str(error).split())


def reason_of(error: Exception) -> str:
    """An error's message in one line; its kind stands before one that says nothing by itself.

    >>> reason_of(ValueError("no such model")), reason_of(KeyError(2)), reason_of(AssertionError())
    ('no such model', 'KeyError: 2', 'AssertionError')
    """
    message = one_line(error)
    says_enough = message and not isinstance(error, KeyError)
    return message if says_enough else ": ".join(filter(None, (type(error).__name__, message)))
