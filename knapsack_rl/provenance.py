"""Which Knapsack RL made a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from knapsack_rl.version import __version__

__all__ = ["MADE_BY", "commit_of_checkout", "made_by"]

MADE_BY = "made_by"
"""The key under which a run's configuration file tells who made the run."""


def made_by() -> dict[str, str | None]:
    """The version of this package, and the commit of the checkout that it runs from.

    >>> made_by()["knapsack_rl"] == __version__
    True
    """
    return {"knapsack_rl": __version__, "commit": commit_of_checkout(Path(__file__).parent)}


def commit_of_checkout(folder: Path) -> str | None:
    """The commit that a folder is at, with ``+changes`` if tracked files differ from it; None outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
