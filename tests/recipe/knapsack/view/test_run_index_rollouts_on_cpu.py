"""What the index knows of kept rollouts: of parts that come and go, and of answers that are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from synthetic_run import messages
from view_runs import make_index

from knapsack_rl import prompt_id
from knapsack_rl.history import ExplorationHistory
from knapsack_rl.rollout_dump import DUMP_SCHEMA, RolloutDump
from knapsack_rl.step_parts import list_parts, write_part
from recipe.knapsack.view import run_index
from recipe.knapsack.view.prompt_record import find_prompt, kept_steps, visits_of
from recipe.knapsack.view.prompt_table import TableQuery

ID = prompt_id("synthetic", messages(1))


def keep(dump, step, answers):
    count = len(answers)
    columns = {
        "prompt_id": [ID] * count,
        "prompt_class": ["never solved"] * count,
        "estimate": np.full(count, np.nan),
        "budget": np.full(count, count),
        "score": np.zeros(count),
        "acc": np.zeros(count),
        "pred": answers,
        "is_success": np.zeros(count, dtype=bool),
        "advantage": np.zeros(count),
        "response_tokens": np.full(count, 3),
        "response": ["text"] * count,
    }
    dump.append(step, 0, columns)
    dump.flush()


@pytest.fixture
def folder(tmp_path):
    history = ExplorationHistory(tmp_path / "run" / "history")
    four = np.array([4])
    for step in range(1, 5):
        history.append(step, 0, [ID], np.array([np.nan]), four, 0 * four, four)
    history.flush()
    return tmp_path / "run"


def ground_truth_list(index):
    with index.connect() as database:
        return [(row["other_answer"], row["agreeing"]) for row in TableQuery(name="ground-truth").rows(database)]


def steps_of(index):
    with index.connect() as database:
        return kept_steps(database, find_prompt(database, ID), 0)


def test_parts_that_are_deleted_at_the_size_limit_are_forgotten_and_no_other_is_read_again(
    folder, tmp_path, monkeypatch
):
    dump = RolloutDump(folder / "rollouts", 10**9)
    for step in (1, 2, 3):
        keep(dump, step, ["7"] * 4)
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert steps_of(index) == [1, 2, 3] and ground_truth_list(index) == [("7", 12)]
    list_parts(folder / "rollouts")[0].path.unlink()
    keep(dump, 4, ["7"] * 4)
    read, read_part = [], run_index.read_part
    monkeypatch.setattr(
        run_index, "read_part", lambda part, *rest, **options: read.append(part) or read_part(part, *rest, **options)
    )
    index.update_rollouts()
    assert [part.first_step for part in read] == [4] and steps_of(index) == [2, 3, 4]
    assert ground_truth_list(index) == [("7", 16)], "what was seen still counts"
    list_parts(folder / "rollouts")[-1].path.unlink()  # the run was resumed at step 3
    index.update_rollouts()
    assert steps_of(index) == [2, 3] and ground_truth_list(index) == [("7", 8)]


def test_of_two_parts_that_hold_the_same_step_none_is_shown_and_all_others_are(folder, tmp_path):
    dump = RolloutDump(folder / "rollouts", 10**9)
    for step in (1, 2, 3):
        keep(dump, step, ["7"] * 4)
    second = list_parts(folder / "rollouts")[1].path
    second.with_name("steps-00000002-00000002-0123456789abcdef.parquet").touch()
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert steps_of(index) == [1, 3] and "both hold step 2" in index.runs[0].problems["rollouts"]


def test_an_answer_that_the_scorer_calls_none_is_no_agreement(folder, tmp_path):
    dump = RolloutDump(folder / "rollouts", 10**9)
    keep(dump, 1, ["[INVALID]"] * 3 + ["5"] * 7 + [None, "", "x" * 999])
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert ground_truth_list(index) == [("5", 7)]
    keep(dump, 2, [None] * 2)
    index.update_rollouts()
    assert ground_truth_list(index) == [], "7 of 15 that failed are not more than half"


def test_a_part_of_earlier_steps_that_comes_late_is_put_in_its_place(tmp_path):
    run = tmp_path / "run"
    history = ExplorationHistory(run / "history")
    one = np.array([1])
    for step in range(1, 5):
        history.append(step, 0, [ID], np.array([np.nan]), 4 * one, step * one, one)
        history.flush()
    second = list_parts(run / "history")[1].path
    second.rename(tmp_path / "late")
    index, _ = make_index(tmp_path / "index.sqlite", run)
    (tmp_path / "late").rename(second)
    index.update_history()
    with index.connect() as database:
        visits = visits_of(database, find_prompt(database, ID), 0, index.runs[0])
        (row,) = TableQuery().rows(database)
    assert [visit.step for visit in visits] == [1, 2, 3, 4] and (row["step"], row["rate"]) == (4, 1.0)


def test_a_part_whose_text_is_no_utf8_is_left_out_and_named(folder, tmp_path):
    dump = RolloutDump(folder / "rollouts", 10**9)
    keep(dump, 1, ["5"] * 4)
    table = pd.read_parquet(list_parts(folder / "rollouts")[0].path).assign(step=2)
    broken = pa.Table.from_pandas(table, schema=DUMP_SCHEMA, preserve_index=False)
    column = pa.Array.from_buffers(pa.string(), 4, pa.array([b"\xff"] * 4, type=pa.binary()).buffers())
    place = DUMP_SCHEMA.names.index("pred")
    write_part(folder / "rollouts", broken.set_column(place, DUMP_SCHEMA.field(place), column))
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert steps_of(index) == [1]
    assert any("Steps 2 to 2 of the rollouts are left out" in problem for problem in index.runs[0].problems.values())
