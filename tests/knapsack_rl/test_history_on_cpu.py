"""The per-prompt history: what is appended is read back, once, whatever crashes, truncations and damage happen."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pq = pytest.importorskip("pyarrow.parquet")

from knapsack_rl import history as exploration_history  # noqa: E402
from knapsack_rl.allocation_rules import PLACING_RULES  # noqa: E402
from knapsack_rl.history import SCHEMA, ExplorationHistory, HistoryError, read_history  # noqa: E402


def step_rows(step, num_prompts=3):
    """The arguments of `append` for a made-up step."""
    random = np.random.default_rng(step)
    budgets = random.integers(2, 9, num_prompts)
    return {
        "step": step,
        "epoch": step // 4,
        "prompt_ids": [f"{number:032x}" for number in random.integers(0, 99, num_prompts)],
        "estimates": np.where(random.random(num_prompts) < 0.3, np.nan, random.random(num_prompts)),
        "budgets": budgets,
        "successes": random.integers(0, budgets + 1),
        "response_tokens": random.integers(1, 10_000, num_prompts),
        "rules": random.choice([*PLACING_RULES, None], num_prompts).tolist(),
    }


def written(folder, steps, flush_after=(), **options):
    history = ExplorationHistory(folder, **options)
    for step in steps:
        history.append(**step_rows(step))
        if step in flush_after:
            history.flush()
    history.flush()
    return history


def steps_in(folder, **options):
    return read_history(folder, **options)["step"].to_pylist()


def expected_steps(*steps):
    return [step for step in steps for _ in range(3)]


def parts_of(folder):
    return sorted(folder.glob("*.parquet"))


def damage(path, position=-40):
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def test_what_is_appended_is_read_back(tmp_path):
    written(tmp_path, range(1, 8), flush_after=[2, 5])
    table = read_history(tmp_path)
    assert table.schema == SCHEMA
    rows = [step_rows(step) for step in range(1, 8)]
    assert table["step"].to_pylist() == expected_steps(*range(1, 8))
    assert table["epoch"].to_pylist() == [row["epoch"] for row in rows for _ in range(3)]
    assert table["prompt_id"].to_pylist() == [identity for row in rows for identity in row["prompt_ids"]]
    estimates = table["estimate"].to_pandas().to_numpy()
    np.testing.assert_array_equal(estimates, np.concatenate([row["estimates"] for row in rows]))
    assert table["rule"].to_pylist() == [rule for row in rows for rule in row["rules"]]
    for column, argument in (("budget", "budgets"), ("successes", "successes"), ("response_tokens", "response_tokens")):
        np.testing.assert_array_equal(table[column], np.concatenate([row[argument] for row in rows]))


def test_an_unseen_prompt_has_no_estimate(tmp_path):
    history = ExplorationHistory(tmp_path)
    history.append(1, 0, np.array(["a", "b"], dtype=object), np.array([np.nan, 0.0]), [2, 2], [0, 0], [5, 5])
    history.flush()
    assert read_history(tmp_path)["estimate"].to_pylist() == [None, 0.0]


def test_any_parquet_reader_opens_the_folder(tmp_path):
    written(tmp_path, range(1, 5), flush_after=[2])
    assert pq.read_table(tmp_path)["step"].to_pylist() == expected_steps(1, 2, 3, 4)


def test_a_part_is_named_by_its_steps(tmp_path):
    written(tmp_path, range(1, 8), flush_after=[5])
    assert [path.name[:23] for path in parts_of(tmp_path)] == ["steps-00000001-00000005", "steps-00000006-00000007"]


def test_the_same_steps_give_the_same_files(tmp_path):
    for name in ("one", "two"):
        written(tmp_path / name, range(1, 5), flush_after=[2])
    one, two = ({path.name: path.read_bytes() for path in parts_of(tmp_path / name)} for name in ("one", "two"))
    assert one == two


def test_steps_are_buffered_until_flush_every(tmp_path):
    history = ExplorationHistory(tmp_path, flush_every=3)
    for step in range(1, 4):
        history.append(**step_rows(step))
    assert parts_of(tmp_path) == []
    history.append(**step_rows(4))
    assert steps_in(tmp_path) == expected_steps(1, 2, 3)


def test_a_step_in_several_calls_stays_in_one_part(tmp_path):
    history = ExplorationHistory(tmp_path, flush_every=1)
    for step in (1, 1, 1, 2, 2, 3):
        history.append(**step_rows(step))
    assert [path.name[:23] for path in parts_of(tmp_path)] == ["steps-00000001-00000001", "steps-00000002-00000002"]
    assert steps_in(tmp_path) == expected_steps(1, 1, 1, 2, 2)


def test_flushing_nothing_writes_nothing(tmp_path):
    ExplorationHistory(tmp_path / "history").flush()
    assert not (tmp_path / "history").exists()


def test_later_changes_to_the_arrays_do_not_reach_the_history(tmp_path):
    history = ExplorationHistory(tmp_path)
    rows = step_rows(1)
    expected = rows["budgets"].copy()
    history.append(**rows)
    rows["budgets"][:] = -1
    history.flush()
    np.testing.assert_array_equal(read_history(tmp_path)["budget"], expected)


# --- resume ---------------------------------------------------------------------------------------------------------


@given(
    flush_after=st.sets(st.integers(1, 10)),
    crash_after=st.integers(0, 10),
    resume_from=st.integers(0, 10),
    flush_every=st.integers(1, 5),
)
@settings(max_examples=50, derandomize=True, deadline=None)
def test_a_resumed_run_has_every_step_once(tmp_path_factory, flush_after, crash_after, resume_from, flush_every):
    folder = tmp_path_factory.mktemp("history")
    history = ExplorationHistory(folder, flush_every)
    for step in range(1, crash_after + 1):
        history.append(**step_rows(step))
        if step in flush_after:
            history.flush()
    checkpoint = min(resume_from, max([step for step in flush_after if step <= crash_after], default=0))

    resumed = ExplorationHistory(folder, flush_every)
    resumed.check_until(checkpoint)
    resumed.truncate_after(checkpoint)
    for step in range(checkpoint + 1, 11):
        resumed.append(**step_rows(step))
    resumed.flush()
    written(folder / "uninterrupted", range(1, 11))
    assert read_history(folder).equals(read_history(folder / "uninterrupted"))


def test_truncation_reaches_the_buffer(tmp_path):
    history = ExplorationHistory(tmp_path)
    for step in (1, 2, 3):
        history.append(**step_rows(step))
    history.truncate_after(1)
    history.append(**step_rows(2))
    history.flush()
    assert steps_in(tmp_path) == expected_steps(1, 2)


def test_truncating_where_nothing_was_written_is_harmless(tmp_path):
    history = ExplorationHistory(tmp_path / "history")
    history.truncate_after(0)
    history.check_until(5)
    assert not (tmp_path / "history").exists()


def test_truncation_removes_damaged_later_parts(tmp_path):
    history = written(tmp_path, range(1, 5), flush_after=[2])
    damage(parts_of(tmp_path)[1])
    history.check_until(2)
    history.truncate_after(2)
    assert steps_in(tmp_path) == expected_steps(1, 2)


def test_a_crash_inside_truncation_does_no_harm(tmp_path, monkeypatch):
    history = written(tmp_path, range(1, 5))

    def crash(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exploration_history.Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            history.truncate_after(2)
    assert len(parts_of(tmp_path)) == 2  # the part and its shortened copy
    assert steps_in(tmp_path) == expected_steps(1, 2, 3, 4)
    ExplorationHistory(tmp_path).truncate_after(3)
    assert steps_in(tmp_path) == expected_steps(1, 2, 3)
    assert len(parts_of(tmp_path)) == 1


def test_steps_that_are_there_already_are_refused(tmp_path):
    history = written(tmp_path, range(1, 5))
    for writer in (history, ExplorationHistory(tmp_path)):
        with pytest.raises(HistoryError, match=r"step 4 cannot be appended .* truncate_after\(3\)"):
            writer.append(**step_rows(4))
    history.append(**step_rows(6))
    with pytest.raises(HistoryError, match="step 5 cannot be appended .* already holds step 6"):
        history.append(**step_rows(5))


# --- damage ---------------------------------------------------------------------------------------------------------


def test_a_killed_writer_leaves_whole_parts(tmp_path):
    program = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_history_on_cpu import written

replace = os.replace

def kill_before_the_third_part(source, target):
    if "steps-00000005" in str(target):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = kill_before_the_third_part
written(Path(sys.argv[2]), range(1, 9), flush_every=2)
"""
    killed = subprocess.run([sys.executable, "-c", program, os.path.dirname(__file__), str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert steps_in(tmp_path) == expected_steps(1, 2, 3, 4)
    written(tmp_path, range(5, 9))
    assert steps_in(tmp_path) == expected_steps(*range(1, 9))
    assert all(path.suffix == ".parquet" for path in tmp_path.iterdir())


@given(data=st.data())
@settings(max_examples=80, derandomize=True, deadline=None)
def test_any_change_to_a_part_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("history")
    history = written(folder, range(1, 5), flush_after=[2])
    victim = parts_of(folder)[1]
    content = victim.read_bytes()
    if data.draw(st.booleans()):
        changed = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        changed = bytearray(content)
        changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(changed)
    for read in (lambda: read_history(folder), lambda: history.check_until(3), lambda: history.truncate_after(3)):
        with pytest.raises(HistoryError, match=victim.name):
            read()
    history.check_until(2)


def test_damaged_parts_can_be_skipped_with_a_warning(tmp_path, caplog):
    written(tmp_path, range(1, 7), flush_after=[2, 4])
    victim = parts_of(tmp_path)[1]
    damage(victim)
    with caplog.at_level(logging.WARNING):
        assert steps_in(tmp_path, skip_damaged=True) == expected_steps(1, 2, 5, 6)
    assert "steps 3 to 4" in caplog.text and victim.name in caplog.text


def test_two_parts_with_the_same_step_are_refused(tmp_path):
    written(tmp_path / "history", range(1, 7), flush_after=[2])
    written(tmp_path / "other", range(5, 9))
    for path in parts_of(tmp_path / "other"):
        path.rename(tmp_path / "history" / path.name)
    with pytest.raises(HistoryError, match="both hold step 5; remove one"):
        read_history(tmp_path / "history")
    assert steps_in(tmp_path / "history", skip_damaged=True) == expected_steps(1, 2)


def test_other_files_in_the_folder_are_ignored(tmp_path):
    written(tmp_path, range(1, 3))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".unfinished.tmp").write_bytes(b"half a part")
    assert steps_in(tmp_path) == expected_steps(1, 2)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_history(tmp_path / "nowhere")


def test_an_empty_history_has_the_columns(tmp_path):
    assert read_history(tmp_path).schema == SCHEMA
    assert read_history(tmp_path).num_rows == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": np.array([1, 2])}, r"budget must have one entry for each of 3 prompts, got \(2,\)"),
        ({"estimates": 0.5}, r"estimate must have one entry for each of 3 prompts, got \(\)"),
        ({"prompt_ids": []}, "for each of 0 prompts"),
        ({"step": -1}, "step must be at least 0, got -1"),
    ],
)
def test_append_refuses_what_does_not_fit(tmp_path, change, message):
    history = ExplorationHistory(tmp_path)
    with pytest.raises(ValueError, match=message):
        history.append(**{**step_rows(1), **change})
    history.flush()
    assert parts_of(tmp_path) == []


def test_flush_every_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        ExplorationHistory(tmp_path, flush_every=0)
