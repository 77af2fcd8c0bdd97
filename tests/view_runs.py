"""The viewer's index over runs, for tests."""

from __future__ import annotations

from pathlib import Path

from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles
from recipe.knapsack.view.run_index import RunIndex


def make_index(path: Path, *folders: Path, data: tuple[Path, ...] = ()) -> tuple[RunIndex, PromptTexts]:
    """An index that is up to date."""
    index = RunIndex(path, [RunFiles(folder.name, folder, data) for folder in folders])
    texts = PromptTexts(index)
    index.update_history()
    texts.update()
    index.update_rollouts()
    return index, texts
