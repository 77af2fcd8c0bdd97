"""What a real run leaves on the console, with wandb (offline) and TensorBoard; the dashboard shows nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_process import TrainingProcess
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from knapsack_rl.metrics import METRICS
from knapsack_rl.metrics_file import read_metrics
from recipe.knapsack.report.dashboard import build_workspace, specification

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

# What a run says on its console: where Ray's prefix names the trainer, and nobody else.
TRAINER_PREFIX = r"\x1b\[\d+m\(TaskRunner pid=\d+\)\x1b\[0m "
PROGRESS = r"Training Progress: +\d+%\|[^|]*\| \d+/\d+ \[.*\]"
STEP_METRICS = r"step:\d+( - [^\s:]+:(-?\d+(\.\d*)?(e[+-]\d+)?|nan))+"
LOGGERS_OWN_LINES = (r"wandb:.*", r"Saving tensorboard log to .*\.")

CHARTS = {"allocation/budgets": "histogram", "allocation/budgets_by_success_rate": "image-file"}
STEPS, CHARTS_EVERY = 7, 3


class OfflineRun(NamedTuple):
    """What an offline run's file holds: logged values by step, and the exit code that the run was finished with."""

    history: dict[int, dict[str, Any]]
    exit_code: int | None


def values_of(items: Iterable[Any]) -> dict[str, Any]:
    """Logged values by key; wandb stores those that are mappings entry by entry, under nested keys."""
    values: dict[str, Any] = {}
    for item in items:
        key, *inner_keys = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if inner_keys:
            values.setdefault(key, {})[".".join(inner_keys)] = value
        else:
            values[key] = value
    return values


def read_offline_run(folder: Path) -> OfflineRun:
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    store = DataStore()
    store.open_for_scan(str(file))
    history, exit_code = {}, None
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = values_of(record.history.item)
            history[values["_step"]] = values
        elif record.WhichOneof("record_type") == "exit":
            exit_code = record.exit.exit_code
    return OfflineRun(history, exit_code)


def panel_metrics(panel: dict[str, Any], logged: set[str]) -> list[str]:
    config = panel["config"]
    matching = [key for key in sorted(logged) if re.search(config.get("metricRegex", "$^"), key)]
    return [*config.get("metrics", []), *config.get("mediaKeys", []), *matching]


@pytest.fixture
def logged_run(train, few_prompts, tmp_path, monkeypatch) -> TrainingProcess:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    return train(
        tmp_path / "run",
        "trainer.logger=[console,wandb,tensorboard]",
        f"exploration.log_histogram_every={CHARTS_EVERY}",
        f"trainer.total_training_steps={STEPS}",
        "trainer.test_freq=4",
        few_prompts,
    )


def console_lines(log: str) -> list[str]:
    """What a log shows line by line, without the prefix of the trainer's lines."""
    return [line for line in (re.sub(TRAINER_PREFIX, "", part).strip() for part in re.split(r"[\r\n]", log)) if line]


def check_console(log: str) -> None:
    """The console shows progress and every step's metrics once, and no library's chatter."""
    lines = console_lines(log)
    readable = re.compile("|".join((PROGRESS, STEP_METRICS, *LOGGERS_OWN_LINES)))
    assert [line for line in lines if not readable.fullmatch(line)] == []
    steps = [int(re.match(r"step:(\d+) ", line)[1]) for line in lines if line.startswith("step:")]
    assert steps == list(range(1, STEPS + 1))
    assert any(f" {STEPS}/{STEPS} " in line for line in lines if line.startswith("Training Progress: 100%"))


def test_loggers_hold_every_metric_of_every_step_and_the_dashboard_has_no_empty_panel(logged_run, tmp_path):
    check_console(logged_run.log)
    metrics = {record.pop("step"): record for record in read_metrics(logged_run.run_folder)}
    assert sorted(metrics) == list(range(1, STEPS + 1))

    offline = read_offline_run(tmp_path)
    assert offline.exit_code == 0
    assert sorted(offline.history) == sorted(metrics)
    for step, values in offline.history.items():
        charts = {key: value["_type"] for key, value in values.items() if key in CHARTS}
        assert charts == (CHARTS if step % CHARTS_EVERY == 0 or step == STEPS else {})
        scalars = {key: value for key, value in values.items() if not key.startswith("_") and key not in CHARTS}
        assert scalars == pytest.approx(metrics[step], nan_ok=True)
    pictures = list(tmp_path.glob("wandb/offline-run-*/files/media/images/allocation/*.png"))
    assert len(pictures) == 3

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for key in {key for record in metrics.values() for key in record}:
        expected = {step: record[key] for step, record in metrics.items() if key in record}
        assert {event.step: event.value for event in events.Scalars(key)} == pytest.approx(expected, rel=1e-6)

    logged = {key for values in offline.history.values() for key in values}
    workspace = specification(build_workspace("entity", "project", "name"))["section"]["panelBankConfig"]
    assert [section["name"] for section in workspace["sections"]] == [
        "learning",
        "exploration",
        "allocation",
        "beliefs",
        "speed",
    ]
    for section in workspace["sections"]:
        for panel in section["panels"]:
            shown = set(panel_metrics(panel, logged))
            assert shown & logged, f"{section['name']}: {panel['config']['chartTitle']} would be empty"
            # Some are left out at steps without such prompts: the short run has no solved ones.
            assert shown <= logged | set(METRICS)
