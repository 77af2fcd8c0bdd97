"""The viewer as a folder of HTML files that link to each other, to be copied from where no browser can look."""

from __future__ import annotations

import hashlib
from collections import deque
from pathlib import Path

from tqdm import tqdm

from recipe.knapsack.view.prompt_export import prompts_as_csv
from recipe.knapsack.view.prompt_table import TableQuery
from recipe.knapsack.view.run_files import ViewError
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.view_pages import GENERATOR, Pages

__all__ = ["StaticLinks", "write_static_pages"]

FIRST_PAGE = "index.html"
MOST_SORTED_PAGES = 3  # of a list in another order than its own


class StaticLinks:
    """Names the files of pages in the order in which they are first linked to, up to a number of pages.

    Attributes:
        waiting: pages that are linked to and not written yet.
        left_out: number of links that lead nowhere because of the limit.
    """

    def __init__(self, most_pages: int) -> None:
        self._most_pages = most_pages
        self._names: dict[tuple[str, tuple[tuple[str, str], ...]], str] = {}
        self.waiting: deque[tuple[str, dict[str, str], str]] = deque()
        self.left_out = 0

    def __call__(self, page: str, /, **arguments: object) -> str | None:
        """The file of a page; None if it is not to be written."""
        given = {name: str(value) for name, value in arguments.items() if value is not None}
        if page == "export" and (given.pop("format") != "csv" or set(given) - {"run", "list"}):
            return None
        if page == "prompts" and "sort" in given and int(given.get("page", 1)) > MOST_SORTED_PAGES:
            return None
        key = (page, tuple(sorted(given.items())))
        if key not in self._names:
            if len(self._names) >= self._most_pages:
                self.left_out += 1
                return None
            self._names[key] = _file_name(page, given)
            self.waiting.append((page, given, self._names[key]))
        return self._names[key]


def _file_name(page: str, arguments: dict[str, str]) -> str:
    if page == "overview":
        return FIRST_PAGE
    identity = "&".join(f"{name}={value}" for name, value in sorted(arguments.items()))
    digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    return f"{page}-{digest}.{'csv' if page == 'export' else 'html'}"


def write_static_pages(index: RunIndex, folder: Path, most_pages: int, *, show_progress: bool = True) -> StaticLinks:
    """Write the pages into ``folder``, beginning with ``index.html`` and what it links to.

    Args:
        index: what they show, up to date.
        folder: made if it does not exist.
        most_pages: no more files are written; what lies beyond is named but not linked.
        show_progress: whether to show a progress bar.

    Raises:
        ViewError: the folder holds something else than such pages.
    """
    links = StaticLinks(most_pages)
    folder.mkdir(parents=True, exist_ok=True)
    first = folder / FIRST_PAGE
    if any(folder.iterdir()) and not (first.is_file() and GENERATOR in first.read_text(errors="replace")):
        raise ViewError(f"--static {folder} holds other files: give a new folder, or one of earlier pages")
    pages = Pages(index, links, is_static=True)
    links("overview")
    with tqdm(desc="pages", delay=1.0, leave=False, disable=None if show_progress else True) as progress:
        while links.waiting:
            page, arguments, name = links.waiting.popleft()
            (folder / name).write_text(_content(index, pages, page, arguments), encoding="utf-8", newline="")
            progress.total = len(links._names)
            progress.update()
    return links


def _content(index: RunIndex, pages: Pages, page: str, arguments: dict[str, str]) -> str:
    if page != "export":
        return pages.render(page, arguments)
    with index.connect() as database:
        return prompts_as_csv(database, TableQuery.parse(arguments, len(index.runs)))
