"""The viewer's index over runs, and what its pages hold, for tests."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles
from recipe.knapsack.view.run_index import RunIndex


class Reader(HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        self.links += [value for name, value in attributes if name in ("href", "src", "action")]

    def handle_data(self, data):
        self.text += data


def make_index(path: Path, *folders: Path, data: tuple[Path, ...] = ()) -> tuple[RunIndex, PromptTexts]:
    """An index that is up to date."""
    index = RunIndex(path, [RunFiles(folder.name, folder, data) for folder in folders])
    texts = PromptTexts(index)
    index.update_history()
    texts.update()
    index.update_rollouts()
    return index, texts
