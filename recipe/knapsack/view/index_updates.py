"""Brings an index up to date in the background, and tells what it is doing."""

from __future__ import annotations

import logging
import threading

from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_index import Progress, RunIndex

__all__ = ["IndexUpdates"]

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES = 3.0


class _Stopped(Exception):
    """Ends an update in the middle."""


class IndexUpdates:
    """A thread that reads the history first, then the prompts' texts and the kept rollouts, then what is new.

    Args:
        index: what it writes to.
        texts: the prompts' texts.
        tell: is called too with every progress.

    Attributes:
        history_is_read: set when the tables of prompts are whole; until then pages show what there is.
    """

    def __init__(self, index: RunIndex, texts: PromptTexts, tell: Progress | None = None) -> None:
        self._index = index
        self._texts = texts
        self._tell_too = tell
        self._now: dict[str, str] = {}
        self._first_reading_is_over = False
        self._failure = ""
        self._over = threading.Event()
        self.history_is_read = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view-index", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and return when nothing is written any more."""
        self._over.set()
        self._thread.join()

    @property
    def is_reading(self) -> bool:
        """Whether pages lack something that is being read."""
        return not self._first_reading_is_over

    def sentences(self) -> list[str]:
        """What is being read at the moment, or why nothing is read any more."""
        if self._failure:
            return [self._failure]
        return list(self._now.values()) or ([] if self._first_reading_is_over else ["Reading the run's files."])

    def _run(self) -> None:
        try:
            self._read_history()
            self._texts.update(self._tell)
            self._index.update_rollouts(self._tell)
            self._first_reading_is_over = True
            while not self._over.wait(SECONDS_BETWEEN_UPDATES):
                self._index.update_history(self._tell)
                self._texts.update(self._tell)  # a run that resumes may name other files
                self._index.update_rollouts(self._tell)
        except _Stopped:
            pass
        except Exception as error:
            # Whatever it is: pages must not go on to look up to date.
            logger.exception("the index is no longer brought up to date")
            self._failure = f"What is new is no longer read: {type(error).__name__}: {error}. Start the viewer again."
            self._first_reading_is_over = True
        finally:
            self.history_is_read.set()

    def _read_history(self) -> None:
        self._index.update_history(self._tell)
        self.history_is_read.set()

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._over.is_set():
            raise _Stopped
        if done < total:
            self._now[what] = f"Reading the {what}: {done:,} of {total:,}."
        else:
            self._now.pop(what, None)
        if self._tell_too is not None:
            self._tell_too(what, done, total)
