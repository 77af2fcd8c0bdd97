"""Loggers are finished exactly once, and say whether the run failed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from knapsack_rl.charts import BUDGET_HISTOGRAM, BUDGETS_BY_SUCCESS_RATE
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
    return {name: Backend() for name in ("wandb", "tensorboard", "swanlab")}


def tracking_with(backends) -> RunTracking:
    tracking = RunTracking("project", "run", default_backend=[])
    tracking.logger.update(backends, console=object())
    return tracking


def test_every_backend_is_finished_once_at_the_end(backends):
    tracking = tracking_with(backends)
    with tracking:
        assert tracking.has("wandb") and not tracking.has("trackio")
        assert not any(backend.calls for backend in backends.values())
    tracking.finish(failed=True)
    del tracking
    assert backends["wandb"].calls == [("finish", {"exit_code": 0}), ("teardown", {})]
    assert backends["tensorboard"].calls == backends["swanlab"].calls == [("finish", {})]


@pytest.mark.parametrize("error", [ConnectionError("no network"), ValueError("the training's own")])
def test_a_logger_that_cannot_be_finished_keeps_no_other_from_it_and_hides_no_error(backends, monkeypatch, error):
    def fail(**_):
        raise ConnectionError("no network")

    monkeypatch.setattr(backends["swanlab"], "finish", fail)
    with pytest.raises(type(error), match=str(error)), tracking_with(backends):
        if isinstance(error, ValueError):
            raise error
    assert backends["wandb"].calls and backends["tensorboard"].calls


def test_a_run_that_fails_is_shown_as_failed(backends):
    with pytest.raises(RuntimeError, match="worker"), tracking_with(backends):
        raise RuntimeError("worker died")
    assert backends["wandb"].calls[0] == ("finish", {"exit_code": 1})
    [(_, told)] = backends["swanlab"].calls
    assert told["state"] == "crashed" and told["error"]
    assert backends["tensorboard"].calls == [("finish", {})]


@pytest.mark.parametrize("error, status", [(None, "FINISHED"), (RuntimeError("worker died"), "FAILED")])
def test_an_mlflow_run_does_not_go_on_for_ever(monkeypatch, error, status):
    ended = []
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(end_run=lambda status: ended.append(status)))
    tracking = RunTracking("project", "run", default_backend=[])
    tracking.logger["mlflow"] = object()  # verl's adapter cannot be finished
    with suppress(RuntimeError), tracking:
        if error is not None:
            raise error
    assert ended == [status]


def test_tensorboard_has_every_scalar_once_the_block_is_left(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    with RunTracking("project", "run", default_backend=["tensorboard"]) as tracking:
        tracking.log({"critic/score/mean": 0.25}, step=1)
        tracking.log({"critic/score/mean": 0.5}, step=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("critic/score/mean")] == [(1, 0.25), (2, 0.5)]


# ---------------------------------------------------------------- charts

RATES, BUDGETS = np.array([np.nan, 0.0, 0.5, 1.0]), np.array([8, 8, 14, 2])


def test_tensorboard_gets_a_histogram_and_a_heat_map(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    with RunTracking("project", "run", default_backend=["tensorboard"]) as tracking:
        tracking.log_charts(RATES, BUDGETS, step=7)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    (histogram,) = events.Histograms(BUDGET_HISTOGRAM)
    assert (histogram.step, histogram.histogram_value.num, histogram.histogram_value.sum) == (7, 4, 32)
    (image,) = events.Images(BUDGETS_BY_SUCCESS_RATE)
    assert (image.step, image.width, image.height) == (7, 640, 400)


class Pictures(Backend):
    """Keeps what is logged."""

    Image = staticmethod(lambda picture: ("image", picture.shape))

    def log(self, data, step):
        self.calls.append((step, data))


def test_swanlab_gets_both_as_images():
    backend = Pictures()
    tracking = RunTracking("project", "run", default_backend=[])
    tracking.logger["swanlab"] = backend
    tracking.log_charts(RATES, BUDGETS, step=7)
    image = ("image", (400, 640, 3))
    assert backend.calls == [(7, {BUDGET_HISTOGRAM: image, BUDGETS_BY_SUCCESS_RATE: image})]


@pytest.fixture
def trackio_calls(monkeypatch):
    """What a module with trackio's documented functions is called with."""
    calls = []

    class Run:
        def log(self, metrics, step=None):
            calls.append((step, metrics))

        def finish(self):
            calls.append("finished")

    def init(project, name=None, config=None, resume="never"):
        calls.append({"project": project, "name": name, "config": config, "resume": resume})
        return Run()

    module = ModuleType("trackio")
    module.init, module.Image = init, lambda value: ("image", value.dtype.name, value.shape)
    monkeypatch.setitem(sys.modules, "trackio", module)
    return calls


def test_trackio_gets_scalars_and_both_charts_as_images(trackio_calls):
    with RunTracking("project", "run", default_backend=["trackio"], config={"a": 1}) as tracking:
        tracking.log({"critic/score/mean": np.float64(0.5), "training/epoch": np.int64(1)}, step=7)
        tracking.log_charts(RATES, BUDGETS, step=7)
    image = ("image", "uint8", (400, 640, 3))
    assert [type(value) for value in trackio_calls[1][1].values()] == [float, int], "as JSON takes them"
    assert trackio_calls == [
        {"project": "project", "name": "run", "config": {"a": 1}, "resume": "never"},
        (7, {"critic/score/mean": 0.5, "training/epoch": 1}),
        (7, {BUDGET_HISTOGRAM: image, BUDGETS_BY_SUCCESS_RATE: image}),
        "finished",
    ]


def test_a_trackio_run_goes_on_with_its_run_and_one_without_pictures_gets_numbers(trackio_calls, monkeypatch):
    monkeypatch.delattr(sys.modules["trackio"], "Image")
    with RunTracking("project", "run", default_backend="trackio", continues=True) as tracking:
        tracking.log_charts(RATES, BUDGETS, step=7)
        tracking.log({"critic/score/mean": 0.5}, step=8)
    started, *logged = trackio_calls
    assert started["resume"] == "allow" and logged == [(8, {"critic/score/mean": 0.5}), "finished"]


def test_a_logger_that_shows_no_pictures_gets_none(capsys):
    with RunTracking("project", "run", default_backend=["console"]) as tracking:
        tracking.log_charts(RATES, BUDGETS, step=7)
    assert capsys.readouterr().out == ""


# ---------------------------------------------------------------- a resumed run


@pytest.fixture
def wandb_starts(monkeypatch, tmp_path):
    """The environment in which each wandb run was started; runs without an id in it get one of their own."""
    starts = []

    def init(**_):
        starts.append({name: os.environ[name] for name in ("WANDB_RUN_ID", "WANDB_RESUME") if name in os.environ})
        module.run = SimpleNamespace(id=os.environ.get("WANDB_RUN_ID", f"fresh{len(starts)}"))

    module = ModuleType("wandb")
    module.init, module.finish, module.teardown = init, lambda **_: None, lambda **_: None
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    return starts


def start(run_file, continues):
    with RunTracking("p", "r", default_backend=["wandb"], wandb_run_file=run_file, continues=continues):
        pass


def test_a_run_that_goes_on_continues_its_wandb_run_and_one_that_starts_anew_does_not(wandb_starts, tmp_path):
    run_file = tmp_path / "run" / "wandb_run.txt"
    start(run_file, continues=True)  # a checkpoint of a run that was not logged to wandb
    start(run_file, continues=True)
    start(run_file, continues=False)
    assert wandb_starts == [{}, {"WANDB_RUN_ID": "fresh1", "WANDB_RESUME": "allow"}, {}]
    assert run_file.read_text() == "fresh3"
    assert "WANDB_RUN_ID" not in os.environ and "WANDB_RESUME" not in os.environ


def test_an_id_in_the_environment_goes_before_that_of_the_folder(wandb_starts, tmp_path, monkeypatch):
    start(tmp_path / "wandb_run.txt", continues=False)
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    start(tmp_path / "wandb_run.txt", continues=True)
    assert wandb_starts[1] == {"WANDB_RUN_ID": "chosen"}
    assert (tmp_path / "wandb_run.txt").read_text() == "chosen"
