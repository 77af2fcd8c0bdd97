"""Loggers of a run (wandb, TensorBoard, ...) that are finished when the run ends, however it ends."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from verl.utils.tracking import Tracking

_TAKE_EXIT_CODE = ("wandb", "vemlp_wandb")


class RunTracking(Tracking):
    """verl's ``Tracking`` as a context manager that finishes its backends, once, at the end of the block.

    verl finishes them when the object is garbage-collected. In a Ray actor that is killed at the end of the run this
    never happens: wandb then misses the last step and shows the run as crashed.

    Args:
        project_name: name of the project that the run belongs to.
        experiment_name: name of the run.
        default_backend: names out of ``supported_backend``; may be empty.
        config: the configuration as plain containers, shown beside the run's curves.

    Example:
        >>> with RunTracking("project", "run", default_backend=[]) as tracking:
        ...     tracking.log({"critic/score/mean": 0.5}, step=1)
    """

    def __enter__(self) -> RunTracking:
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=error_class is not None)

    def has(self, backend: str) -> bool:
        """Whether the run is logged to ``backend``."""
        return backend in self.logger

    def finish(self, *, failed: bool) -> None:
        """Let every backend write what it still holds; ``failed`` is what those that show it say of the run."""
        while self.logger:
            name, backend = self.logger.popitem()
            _finish_backend(name, backend, exit_code=int(failed))


def _finish_backend(name: str, backend: Any, exit_code: int) -> None:
    if name in _TAKE_EXIT_CODE:
        backend.finish(exit_code=exit_code)
        if name == "wandb":
            # Waits for wandb's own process to have written the last records; finishing does not.
            backend.teardown()
    elif hasattr(backend, "finish"):
        backend.finish()
