"""README and docs as tests read them: pages, commands, anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

_PROGRAMS = r"(?:[\w./-]*python3?|make|pip|bash|source|docker|huggingface-cli)"
_ASSIGNMENTS = r"(?:[A-Z_]+=\S+ )*"
_SHELL_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_INLINE_COMMAND = re.compile(rf"`({_ASSIGNMENTS}{_PROGRAMS}\s[^`]+|\.ci/run)`")


@dataclass(frozen=True)
class Command:
    """A command that a page tells the reader to run.

    Attributes:
        text: the command, its comment and line breaks taken out.
        page: the page, relative to the repository.
        note: what the page says of it: the comments beside it and at the head of its block, or its whole paragraph.
    """

    text: str
    page: str
    note: str


def commands(page: Path) -> list[Command]:
    """Every command of a page: the lines of its shell blocks, and what its sentences name as a command."""
    text, name = page.read_text(), str(page.relative_to(ROOT))
    found = [command for block in _SHELL_BLOCK.findall(text) for command in _of_block(block, name)]
    for paragraph in re.split(r"\n\n+", prose(page)):
        found += [Command(" ".join(inline.split()), name, paragraph) for inline in _INLINE_COMMAND.findall(paragraph)]
    return found


def _of_block(block: str, page: str) -> Iterator[Command]:
    heading = ""
    for line in block.replace("\\\n", " ").splitlines():
        text, _, comment = line.partition("#")
        if text.strip():
            yield Command(" ".join(text.split()), page, f"{heading} {comment}".strip())
        elif comment:
            heading = comment


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    return _ANY_BLOCK.sub("", page.read_text())
