"""Loggers of a run (wandb, TensorBoard, ...): continued with the run, given its charts, finished however it ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from knapsack_rl.logger_charts import log_charts
from knapsack_rl.run_folder import wandb_run_to_continue, write_atomically
from verl.utils.tracking import Tracking

__all__ = ["RunTracking"]

logger = logging.getLogger(__name__)

_TAKE_EXIT_CODE = ("wandb", "vemlp_wandb")
_TRACKIO = "trackio"


class RunTracking(Tracking):
    """verl's ``Tracking`` as a context manager that finishes its backends, once, at the end of the block.

    verl finishes them when the object is garbage-collected. In a Ray actor that is killed at the end of the run this
    never happens: wandb then misses the last step and shows the run as crashed.

    Args:
        project_name: name of the project that the run belongs to.
        experiment_name: name of the run.
        default_backend: names out of ``supported_backend``, which are verl's and trackio; may be empty.
        config: the configuration as plain containers, shown beside the run's curves.
        wandb_run_file: where the id of the wandb run is kept; None keeps it nowhere.
        continues: whether the run goes on from a checkpoint, and its wandb or trackio run with it.

    Example:
        >>> with RunTracking("project", "run", default_backend=[]) as tracking:
        ...     tracking.log({"critic/score/mean": 0.5}, step=1)
    """

    supported_backend = [*Tracking.supported_backend, _TRACKIO]

    def __init__(
        self,
        project_name: str,
        experiment_name: str,
        default_backend: str | Sequence[str] = "console",
        config: Mapping[str, Any] | None = None,
        *,
        wandb_run_file: Path | None = None,
        continues: bool = False,
    ) -> None:
        names = [default_backend] if isinstance(default_backend, str) else list(default_backend)
        known = wandb_run_file if "wandb" in names else None
        with _continued_wandb_run(known if continues else None):
            super().__init__(project_name, experiment_name, [name for name in names if name != _TRACKIO], config)
        if _TRACKIO in names:
            self.logger[_TRACKIO] = _TrackioRun(project_name, experiment_name, config, continues)
        if known is not None:
            known.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(known, self.logger["wandb"].run.id)

    def __enter__(self) -> RunTracking:
        return self

    def __exit__(
        self, error_class: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=error_class is not None)

    def has(self, backend: str) -> bool:
        """Whether the run is logged to ``backend``."""
        return backend in self.logger

    def log_charts(self, success_rates: np.ndarray, budgets: np.ndarray, step: int) -> None:
        """Give every backend that shows them a step's budgets, and how they go with the success rates.

        Args:
            success_rates: (M,) float in [0, 1]; NaN = unseen.
            budgets: (M,) int, rollouts of each prompt.
            step: the training step.
        """
        log_charts(self.logger, success_rates, budgets, step)

    def finish(self, *, failed: bool) -> None:
        """Let every backend write what it still holds; ``failed`` is what those that show it say of the run.

        One that cannot keeps no other from it. Its error is raised in the end, unless the run's own must be seen.
        """
        errors = []
        while self.logger:
            name, backend = self.logger.popitem()
            try:
                _finish_backend(name, backend, exit_code=int(failed))
            except Exception as error:
                logger.exception("the logger %s could not be finished", name)
                errors.append(error)
        if errors and not failed:
            raise errors[0]


class _TrackioRun:
    """A trackio run, which verl 0.5 does not know.

    One that continues goes on under its name. trackio gives one that starts anew a name of its own where the name is
    taken.
    """

    def __init__(self, project: str, name: str, config: Mapping[str, Any] | None, continues: bool) -> None:
        import trackio

        self._run = trackio.init(
            project=project, name=name, config=dict(config or {}), resume="allow" if continues else "never"
        )

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log values of a step.

        trackio writes on a thread of its own, which ends at a NumPy scalar: the whole step would be lost.
        """
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in data.items()}
        self._run.log(plain, step=step)

    def finish(self) -> None:
        """Send what is still waiting."""
        self._run.finish()


def _finish_backend(name: str, backend: Any, exit_code: int) -> None:
    if name in _TAKE_EXIT_CODE:
        backend.finish(exit_code=exit_code)
        if name == "wandb":
            # Waits for wandb's own process to have written the last records; finishing does not.
            backend.teardown()
    elif name == "mlflow":
        # It ends a run when its process exits, which an actor that is killed never does.
        import mlflow

        mlflow.end_run(status="FAILED" if exit_code else "FINISHED")
    elif name == "swanlab" and exit_code:
        backend.finish(state="crashed", error="The training failed; its log says why.")
    elif hasattr(backend, "finish"):
        backend.finish()


@contextmanager
def _continued_wandb_run(run_file: Path | None) -> Iterator[None]:
    """Have wandb go on with the run that ``run_file`` names, unless the environment names one."""
    added = {} if run_file is None else wandb_run_to_continue(run_file)
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
