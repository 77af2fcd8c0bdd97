"""How runs are called where several are shown together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["shortest_names"]


def shortest_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes for all of them to differ.

    >>> shortest_names([Path("/runs/a/grpo"), Path("/runs/b/grpo")])
    ['a/grpo', 'b/grpo']
    """
    parts = [folder.resolve().parts for folder in folders]
    names: list[str] = []
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names
