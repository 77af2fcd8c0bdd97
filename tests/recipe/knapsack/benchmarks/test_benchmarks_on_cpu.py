"""The benchmarks whose figures the README shows still run, at the smallest sizes, and compare what they say."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recipe.knapsack.benchmarks import benchmark_allocation, benchmark_dispatch, benchmark_rollout

# --- Allocation -------------------------------------------------------------------------------------------------------


def test_the_allocation_benchmark_prints_times_and_both_ratios(capsys):
    benchmark_allocation.report_paper_size(num_prompts=16)
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "M = 16, N_total = 128, N_low = 2, N_up = 128"
    assert re.split(r"\s{2,}", header.strip()) == ["ms", "straightforward /", "tabulated /"]
    printed = {name: numbers for name, *numbers in (re.split(r"\s{2,}", row) for row in rows)}
    assert list(printed) == [contestant.name for contestant in benchmark_allocation.CONTESTANTS]
    assert printed["baseline: straightforward DP"][1] == printed["baseline: tabulated DP"][2] == "1.0"
    assert all(float(milliseconds) > 0 for milliseconds, _, _ in printed.values())


def test_the_allocation_benchmark_stops_when_a_contestant_misses_the_optimum(monkeypatch):
    benchmark_allocation.check_same_value(num_prompts=16)
    first, *others = benchmark_allocation.CONTESTANTS
    worse = replace(first, allocate=lambda rates, budget: np.full(len(rates), budget // len(rates)))
    monkeypatch.setattr(benchmark_allocation, "CONTESTANTS", (worse, *others))
    with pytest.raises(AssertionError):
        benchmark_allocation.check_same_value(num_prompts=16)


def test_the_allocation_benchmark_prints_time_and_memory_of_a_whole_data_set(capsys):
    benchmark_allocation.report_large(num_prompts=200, total_budget=2_000)
    _, title, *rows = capsys.readouterr().out.splitlines()
    assert title == "M = 200, N_total = 2,000"
    measured = [re.fullmatch(r"(\w+ rates) +([\d.]+) ms +([\d.]+) MiB at most", row) for row in rows]
    assert [row[1] for row in measured] == ["observed rates", "distinct rates"]


def test_the_allocation_benchmark_draws(monkeypatch, tmp_path):
    small = tuple(replace(contestant, largest=16) for contestant in benchmark_allocation.CONTESTANTS)
    monkeypatch.setattr(benchmark_allocation, "CONTESTANTS", small)
    picture = tmp_path / "new folder" / "speed.png"
    benchmark_allocation.plot_scaling(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- Dispatch ---------------------------------------------------------------------------------------------------------


def test_the_dispatch_benchmark_prints_every_phase_and_layout_against_the_bound(monkeypatch, capsys):
    command = "benchmark_dispatch --prompts 32 --total-budget 256 --workers 2 8 --repeats 3"
    monkeypatch.setattr(sys, "argv", command.split())
    benchmark_dispatch.main()
    _, _, bound, _, header, *rows = capsys.readouterr().out.splitlines()
    assert bound == "lower bound: 1.000 1.000 | 1.00 | 0.0"
    assert re.findall(r"W = (\d+)", header) == ["2", "8"]
    cells = {}
    for row in rows:
        phase, layout = row[:9].strip(), row[9:43].strip()
        numbers = re.findall(r"([\d.]+) ([\d.]+) \| ([\d.]+) \| [\d.]+", row[43:])
        cells[phase, layout] = np.array(numbers, dtype=float)
    assert list(cells) == [(phase, name) for phase in benchmark_dispatch.PHASES for name in benchmark_dispatch.LAYOUTS]
    for (phase, _), measured in cells.items():
        assert measured.shape == (2, 3) and np.all(measured >= 1.0)
        packed, random = cells[phase, "knapsack, packed"], cells[phase, "knapsack, random"]
        # Columns: imbalance of the drawn and of the expected tokens, reads of a prompt.
        assert np.all(packed[:, 2] < random[:, 2])
        assert np.all(packed[:, 1] <= cells[phase, "knapsack, prompt order"][:, 1])


# --- Rollout ----------------------------------------------------------------------------------------------------------


def test_the_rollout_benchmark_prints_both_speeds_and_their_ratio(tmp_path, capsys):
    model, rows = benchmark_rollout.load_task(None)
    model.save_pretrained(tmp_path / "model")
    pd.DataFrame(rows[:3]).to_parquet(tmp_path / "train.parquet")
    benchmark_rollout.main([*f"--task {tmp_path} --prompts 3 --copies 2 --repeats 1".split()])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("3 prompts x 2, ") and title.endswith(", 1 thread")
    speeds = {}
    for line in lines[:2]:
        name, speed, tokens, seconds = re.fullmatch(
            r"(.+?) +([\d,]+) tokens/s  \((\d+) tokens in ([\d.]+) s\)", line
        ).groups()
        speeds[name] = float(speed.replace(",", ""))
        assert 6 <= int(tokens) <= 6 * benchmark_rollout.MAX_RESPONSE_LENGTH
        assert speeds[name] == pytest.approx(int(tokens) / float(seconds), rel=0.1)
    assert list(speeds) == ["rollout.name=hf", "transformers generate"]
    ratio = re.fullmatch(r"ratio +([\d.]+)", lines[2])
    assert float(ratio[1]) == pytest.approx(speeds["rollout.name=hf"] / speeds["transformers generate"], abs=0.01)
