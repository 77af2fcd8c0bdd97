"""Send what upstream code prints to a logger, so that the console shows only what its reader can act on."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


class _LineLogger(io.TextIOBase):
    """A text stream that logs every complete line at INFO."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._pending = ""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        # Inference engines redirect the descriptor itself while native libraries print.
        return sys.__stdout__.fileno()

    def write(self, text: str) -> int:
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            if line.strip():
                self._logger.info(line)
        return len(text)

    def close(self) -> None:
        self.write("\n")
        super().close()


@contextmanager
def prints_to_log(logger: logging.Logger) -> Iterator[None]:
    """Within the context, standard output of Python code becomes INFO lines of ``logger``.

    Set ``VERL_LOGGING_LEVEL=INFO`` to see them.
    """
    with _LineLogger(logger) as stream, redirect_stdout(stream):
        yield
