"""The metrics file: what is logged comes back, a crash costs the line being written, a resume repeats nothing."""

import json
import math

import numpy as np
import pytest

from knapsack_rl.metrics_file import MetricsFile, read_metrics


def test_what_is_logged_comes_back_in_order(tmp_path):
    file = MetricsFile(tmp_path)
    file.log({"a": np.float32(0.5), "b": float("nan")}, step=1)
    file.log({"a": 2}, step=2)
    assert read_metrics(tmp_path) == [{"step": 1, "a": 0.5, "b": None}, {"step": 2, "a": 2}]


def test_a_half_written_last_line_is_skipped(tmp_path):
    file = MetricsFile(tmp_path)
    file.log({"a": 1}, step=1)
    with file.path.open("a") as lines:
        lines.write('{"step": 2, "a"')
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1}]


def test_the_rest_of_a_line_is_not_read_as_a_line_of_its_own(tmp_path, monkeypatch):
    """A run that goes on may write it just after its first half was read."""
    file = MetricsFile(tmp_path)
    file.log({"a": 1}, step=1)
    with file.path.open("a") as lines:
        lines.write('{"step": 2, "a"')

    def write_the_rest_and_load(line: str) -> dict:
        if not line.endswith("\n"):
            with file.path.open("a") as lines:
                lines.write(": 2}\n")
        return json.JSONDecoder().decode(line)

    monkeypatch.setattr(json, "loads", write_the_rest_and_load)
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1}]


def test_a_run_that_repeats_nothing_drops_a_half_written_line_only(tmp_path):
    file = MetricsFile(tmp_path)
    file.log({"a": 1}, step=7)
    with file.path.open("a") as lines:
        lines.write('{"step": 8, ')
    file.truncate_after(math.inf)
    file.log({"a": 2}, step=7)
    assert [record["a"] for record in read_metrics(tmp_path)] == [1, 2]


def test_a_resumed_run_forgets_the_steps_it_repeats(tmp_path):
    file = MetricsFile(tmp_path)
    for step in range(5):
        file.log({"a": step}, step=step)
    with file.path.open("a") as lines:
        lines.write('{"step": 5, ')
    file.truncate_after(2)
    file.log({"a": 33}, step=3)
    assert [record["a"] for record in read_metrics(tmp_path)] == [0, 1, 2, 33]


def test_no_metrics(tmp_path):
    MetricsFile(tmp_path).truncate_after(0)
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path)
