"""Look at the prompts and rollouts of training runs.

    python -m recipe.knapsack.view runs/quickstart/knapsack                     # a page for the browser on this machine
    python -m recipe.knapsack.view runs/grpo runs/knapsack --static folder      # a folder of HTML to copy

RUN is the folder of a run (trainer.default_local_dir). A run may still be going on or have crashed: the pages show what
it has written so far, and say what is missing.
"""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from tqdm import tqdm

from recipe.knapsack.view.index_updates import IndexUpdates
from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles, ViewError, distinct_names
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.static_pages import FIRST_PAGE, write_static_pages
from recipe.knapsack.view.view_server import ViewApplication, serve

__all__ = ["main"]

DEFAULT_PORT = 8321
DEFAULT_STATIC_PAGES = 2000
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended before it was done."""


class _ProgressBars:
    """What is being read, as progress bars on the terminal."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = tqdm(desc=what, total=total, delay=1.0, disable=None, leave=False)
        bar = self._bars[what]
        bar.update(done - bar.n)
        if done >= total:
            self._bars.pop(what).close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="how to call the runs (default: by their folders)")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="parquet files with the prompts (default: the runs' data.train_files)",
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 = any that is free (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--static", type=Path, metavar="DIR", help="write HTML files into DIR and end")
    parser.add_argument(
        "--static-pages",
        type=int,
        default=DEFAULT_STATIC_PAGES,
        metavar="N",
        help="most files that --static writes (default: %(default)s)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        names = options.names or distinct_names(options.runs)
        if len(names) != len(options.runs) or len(set(names)) < len(names) or not all(map(str.strip, names)):
            raise ViewError(f"--names must give each of the {len(options.runs)} runs a name of its own, got {names}")
        if not 0 <= options.port < 2**16 or options.static_pages < 1:
            raise ViewError(f"--port {options.port} or --static-pages {options.static_pages} is out of range")
        runs = [RunFiles(name, folder, options.data) for name, folder in zip(names, options.runs, strict=True)]
        with _signals_as_interrupts(), TemporaryDirectory(prefix="knapsack-view-") as folder:
            index = RunIndex(Path(folder) / "index.sqlite", runs)
            return _write(index, options) if options.static else _serve(index, options)
    except ViewError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except sqlite3.Error as error:
        print(
            f"error: the index cannot be kept in {gettempdir()} ({error}): set TMPDIR to another folder",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """A lost connection must not leave the index behind; a signal that nohup had ignored stays ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(index: RunIndex, options: argparse.Namespace) -> int:
    tell = _ProgressBars().tell
    index.update_history(tell)
    PromptTexts(index).update(tell)
    index.update_rollouts(tell)
    try:
        links = write_static_pages(index, options.static, options.static_pages)
    except OSError as error:
        raise ViewError(f"--static {options.static} cannot be written to ({error}): give another folder") from error
    if links.left_out:
        print(f"{links.left_out:,} links lead to no page: --static-pages N writes more.", file=sys.stderr)
    print(options.static / FIRST_PAGE)
    return 0


def _serve(index: RunIndex, options: argparse.Namespace) -> int:
    texts = PromptTexts(index)
    updates = IndexUpdates(index, texts, _ProgressBars().tell)
    server = serve(ViewApplication(index, texts, updates), options.port)
    address = f"http://127.0.0.1:{server.port}/"
    try:
        updates.start()
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        if options.open:
            webbrowser.open(address)
        server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    finally:
        updates.stop()
        server.server_close()
    return 0
