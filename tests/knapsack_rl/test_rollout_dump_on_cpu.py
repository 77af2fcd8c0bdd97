"""Kept rollouts: which are chosen, and that they survive crashes, resumes, damage and a size limit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pq = pytest.importorskip("pyarrow.parquet")

from knapsack_rl import rollout_dump  # noqa: E402
from knapsack_rl.rollout_dump import (  # noqa: E402
    DUMP_SCHEMA,
    PROMPT_CLASSES,
    RolloutDump,
    choose_rollouts,
    prompt_classes,
)
from knapsack_rl.step_parts import STEPS_PER_PART, list_parts, read_part  # noqa: E402

LARGE = 10**9


def rollouts(step, count=6, response="text"):
    return {
        "prompt_id": [f"prompt {(number * 7 + step) % 3}" for number in range(count)],
        "prompt_class": ["mixed"] * count,
        "estimate": np.where(np.arange(count) % 2, np.nan, 0.5),
        "budget": np.full(count, 8),
        "score": np.arange(count) * 1.0,
        "acc": [None] * count,
        "pred": [None if number % 2 else str(number) for number in range(count)],
        "is_success": np.arange(count) % 2 == 0,
        "advantage": np.zeros(count),
        "response_tokens": np.full(count, 4),
        "response": [f"{response} {number}" for number in range(count)],
    }


def dumped(folder, steps, limit=LARGE, **options):
    dump = RolloutDump(folder, limit)
    for step in steps:
        dump.append(step, 0, rollouts(step, **options))
        dump.flush()
    return dump


def steps_in(folder):
    return sorted({step for part in list_parts(folder) for step in pq.read_table(part.path)["step"].to_pylist()})


# ---------------------------------------------------------------- the choice


@given(
    budgets=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    number=st.integers(1, 60),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_every_class_is_seen_and_as_many_are_chosen_as_asked_for(budgets, number, seed, data):
    budgets = np.array(budgets)
    solved = np.array([data.draw(st.integers(0, budget)) for budget in budgets])
    estimates = np.array([data.draw(st.sampled_from([np.nan, 0.0, 0.4, 1.0])) for _ in budgets])
    prompt_index = np.repeat(np.arange(len(budgets)), budgets)
    successes = np.concatenate([np.arange(budget) < count for budget, count in zip(budgets, solved)])
    classes = prompt_classes(estimates, budgets, solved)
    chosen = choose_rollouts(classes, prompt_index, successes, number, seed=seed)
    assert len(chosen) == min(number, len(prompt_index)) == len(set(chosen.tolist()))
    assert (np.diff(chosen) > 0).all()
    if number >= len(PROMPT_CLASSES):
        assert set(classes[prompt_index[chosen]]) == set(classes)
    # Classes take turns: none is short of another while it has rollouts left.
    of_class = np.bincount(classes[prompt_index[chosen]], minlength=4)
    there = np.bincount(classes[prompt_index], minlength=4)
    assert all(of_class[one] >= of_class.max() - 1 for one in range(4) if of_class[one] < there[one])
    np.testing.assert_array_equal(chosen, choose_rollouts(classes, prompt_index, successes, number, seed=seed))


def test_of_a_mixed_prompt_successes_and_failures_are_kept():
    prompt_index = np.repeat([0, 1, 2], 40)
    successes = np.tile(np.arange(40) == 7, 3)
    chosen = choose_rollouts(np.array([2, 2, 2]), prompt_index, successes, 9, seed=0)
    kept = [(successes[chosen][prompt_index[chosen] == prompt]).tolist() for prompt in range(3)]
    assert sorted(map(len, kept)) == [3, 3, 3]
    assert all(sum(one) == 1 for one in kept)


def test_another_seed_chooses_others():
    arguments = (np.zeros(100, dtype=int), np.repeat(np.arange(100), 4), np.zeros(400, dtype=bool), 10)
    assert choose_rollouts(*arguments, seed=1).tolist() != choose_rollouts(*arguments, seed=2).tolist()


# ---------------------------------------------------------------- the files


def test_what_is_kept_is_read_back_by_steps_and_prompts_with_missing_values_as_null(tmp_path):
    dump = RolloutDump(tmp_path / "rollouts", LARGE)
    dump.append(1, 0, rollouts(1))
    dump.append(2, 0, rollouts(2))
    dump.flush()
    (part,) = list_parts(tmp_path / "rollouts")
    table = pq.read_table(part.path)
    assert table.schema.equals(DUMP_SCHEMA)
    rows = table.to_pylist()
    assert [(row["step"], row["prompt_id"]) for row in rows] == sorted((row["step"], row["prompt_id"]) for row in rows)
    assert {row["response"]: row["estimate"] for row in rows if row["step"] == 1}["text 1"] is None
    assert {row["response"]: row["pred"] for row in rows if row["step"] == 2} == {
        f"text {number}": None if number % 2 else str(number) for number in range(6)
    }


def test_a_part_is_written_when_enough_steps_or_bytes_have_gathered(tmp_path, monkeypatch):
    dump = RolloutDump(tmp_path, LARGE)
    for step in range(1, STEPS_PER_PART + 1):
        assert list_parts(tmp_path) == []
        dump.append(step, 0, rollouts(step))
    assert [part[1:3] for part in list_parts(tmp_path)] == [(1, STEPS_PER_PART)]
    monkeypatch.setattr(rollout_dump, "PART_BYTES", 1000)
    dump.append(30, 0, rollouts(30, response="x" * 1000))
    assert [part[1:3] for part in list_parts(tmp_path)] == [(1, STEPS_PER_PART), (30, 30)]


def test_the_oldest_parts_are_deleted_beyond_the_size_limit_and_the_newest_stays(tmp_path):
    dumped(tmp_path, [1])
    size = list_parts(tmp_path)[0].path.stat().st_size
    dumped(tmp_path, range(2, 8), limit=int(3.5 * size))
    assert steps_in(tmp_path) == [5, 6, 7]
    dumped(tmp_path, [8], limit=1)
    assert steps_in(tmp_path) == [8]


def test_a_resumed_run_forgets_what_it_repeats(tmp_path):
    dump = RolloutDump(tmp_path, LARGE)
    for step in range(1, 6):
        dump.append(step, 0, rollouts(step))
    dump.flush()
    dumped(tmp_path, [6, 7])
    resumed = RolloutDump(tmp_path, LARGE)
    resumed.truncate_after(3)
    assert steps_in(tmp_path) == [1, 2, 3]
    resumed.append(4, 0, rollouts(4))
    resumed.append(5, 0, rollouts(5))
    resumed.truncate_after(4)
    resumed.flush()
    assert steps_in(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_part_does_not_keep_a_run_from_resuming(tmp_path, caplog):
    dump = RolloutDump(tmp_path, LARGE)
    for step in (1, 2):
        dump.append(step, 0, rollouts(step))
    dump.flush()
    dumped(tmp_path, [3])
    first, _ = list_parts(tmp_path)
    first.path.write_bytes(first.path.read_bytes()[:100])
    RolloutDump(tmp_path, LARGE).truncate_after(1)
    assert list_parts(tmp_path) == []
    assert first.path.name in caplog.text


def test_what_no_encoding_writes_is_kept_as_its_escape(tmp_path):
    """An answer that a reward function read from JSON may hold half of a surrogate pair."""
    dump = RolloutDump(tmp_path, LARGE)
    columns = rollouts(1)
    answers = [None, *["\ud83d!"] * (len(columns["pred"]) - 1)]
    dump.append(1, 0, {**columns, "pred": answers})
    dump.flush()
    (part,) = list_parts(tmp_path)
    assert set(read_part(part, DUMP_SCHEMA)["pred"].to_pylist()) == {None, "\\ud83d!"}


def test_columns_that_do_not_fit_are_refused(tmp_path):
    dump = RolloutDump(tmp_path, LARGE)
    columns = rollouts(1)
    with pytest.raises(ValueError, match="'score': 2"):
        dump.append(1, 0, {**columns, "score": [1.0, 2.0]})
    del columns["pred"]
    with pytest.raises(ValueError, match="expected the columns .*pred"):
        dump.append(1, 0, columns)


def test_a_killed_run_leaves_whole_parts_only(tmp_path):
    program = f"""
import sys
sys.path[:0] = [{os.path.dirname(__file__)!r}, {os.getcwd()!r}]
from test_rollout_dump_on_cpu import dumped
print("started", flush=True)
for step in range(1, 10**6):
    dumped({str(tmp_path)!r}, [step])
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    process.stdout.readline()
    while len(list(tmp_path.glob("*.parquet"))) < 20:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = steps_in(tmp_path)
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 20
