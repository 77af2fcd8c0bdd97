"""Loggers are finished exactly once, and say whether the run failed."""

from __future__ import annotations

import pytest

from verl.utils.run_tracking import RunTracking


class Backend:
    """Keeps the calls that end a run, in their order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []

    def log(self, data, step):
        pass

    def finish(self, **arguments):
        self.calls.append(("finish", arguments))

    def teardown(self, **arguments):
        self.calls.append(("teardown", arguments))


@pytest.fixture
def backends(monkeypatch) -> dict[str, Backend]:
    return {name: Backend() for name in ("wandb", "tensorboard")}


def tracking_with(backends) -> RunTracking:
    tracking = RunTracking("project", "run", default_backend=[])
    tracking.logger.update(backends, console=object())
    return tracking


def test_every_backend_is_finished_once_at_the_end(backends):
    tracking = tracking_with(backends)
    with tracking:
        assert tracking.has("wandb") and not tracking.has("swanlab")
        assert not any(backend.calls for backend in backends.values())
    tracking.finish(failed=True)
    del tracking
    assert backends["wandb"].calls == [("finish", {"exit_code": 0}), ("teardown", {})]
    assert backends["tensorboard"].calls == [("finish", {})]


def test_a_run_that_fails_is_shown_as_failed(backends):
    with pytest.raises(RuntimeError, match="worker"), tracking_with(backends):
        raise RuntimeError("worker died")
    assert backends["wandb"].calls[0] == ("finish", {"exit_code": 1})
    assert backends["tensorboard"].calls == [("finish", {})]


def test_tensorboard_has_every_scalar_once_the_block_is_left(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    with RunTracking("project", "run", default_backend=["tensorboard"]) as tracking:
        tracking.log({"critic/score/mean": 0.25}, step=1)
        tracking.log({"critic/score/mean": 0.5}, step=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("critic/score/mean")] == [(1, 0.25), (2, 0.5)]
