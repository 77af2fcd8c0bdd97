"""The index says what the files say: by other means, after every change, and with what a damaged folder still has."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import SyntheticRun, build_run, messages
from view_runs import make_index

from knapsack_rl import prompt_id
from knapsack_rl.allocation_rules import PLACING_RULES
from knapsack_rl.history import ExplorationHistory, read_history
from knapsack_rl.step_parts import list_parts
from recipe.knapsack.view import run_index
from recipe.knapsack.view.placement import RULES, placing_rule
from recipe.knapsack.view.prompt_record import find_prompt, kept_rollouts, kept_steps, visits_of
from recipe.knapsack.view.prompt_table import LISTS, TableQuery, expected_never_solved
from recipe.knapsack.view.run_files import RunFiles, ViewError, distinct_names
from recipe.knapsack.view.visit_picture import RULE_COLORS


def table(index, **query):
    with index.connect() as database:
        return pd.DataFrame([dict(row) for row in TableQuery(**query).rows(database, most=None)])


def by_hand(folder):
    """What the table shows, from the history with pandas."""
    history = read_history(folder / "history").to_pandas()
    history["mixed"] = history["step"].where(history["successes"].between(1, history["budget"] - 1))
    history["all"] = history["successes"] == history["budget"]
    groups = history.groupby("prompt_id")
    last = groups.last()
    return pd.DataFrame(
        {
            "visits": groups.size(),
            "rollouts": groups["budget"].sum(),
            "successes": groups["successes"].sum(),
            "tokens": groups["response_tokens"].sum(),
            "last_mixed": groups["mixed"].max(),
            "step": last["step"],
            "estimate": history.groupby("prompt_id")["estimate"]
            .nth(-1)
            .set_axis(history.groupby("prompt_id")["prompt_id"].nth(-1)),
            "budget": last["budget"],
            "rate": last["successes"] / last["budget"],
            "always": groups["all"].min(),
        }
    ).rename_axis("id")


def assert_same(index, folder, run=0):
    expected = by_hand(folder)
    shown = table(index, run=run).set_index("id")
    columns = [column for column in expected if column != "always"]
    pd.testing.assert_frame_equal(
        shown[columns].sort_index().astype(float), expected[columns].sort_index().astype(float), check_names=False
    )


def test_the_table_says_what_the_history_says(indexed, run_folders):
    index, _ = indexed
    for run, folder in enumerate(run_folders.values()):
        assert_same(index, folder, run)


def test_the_ready_made_lists_hold_what_their_names_say(indexed, run_folders):
    index, _ = indexed
    expected = by_hand(run_folders["knapsack"])
    lists = {
        "all": expected.index,
        "never-solved": expected.index[(expected["successes"] == 0) & (expected["rollouts"] >= 16)],
        "lost": expected.index[(expected["successes"] > 0) & (expected["rate"] == 0)],
        "always-solved": expected.index[expected["always"]],
        "expensive": expected.index,
    }
    for name, prompts in lists.items():
        assert set(table(index, name=name)["id"]) == set(prompts), name
        assert len(prompts), name
    tokens = table(index, name="expensive")["tokens"]
    assert tokens.is_monotonic_decreasing
    mislabelled = {prompt_id("synthetic", messages(number)) for number in range(0, 200, 100)}
    truth = table(index, name="ground-truth", k=2)
    assert set(truth["id"]) <= mislabelled and len(truth)
    assert set(lists) | {"ground-truth"} == set(LISTS)


def test_the_number_expected_at_one_percent_is_that_of_the_binomial_distribution(indexed, run_folders):
    index, _ = indexed
    rollouts = by_hand(run_folders["knapsack"])["rollouts"]
    with index.connect() as database:
        tried, expected = expected_never_solved(database, 0, 20)
    assert tried == (rollouts >= 20).sum()
    assert expected == pytest.approx((0.99 ** rollouts[rollouts >= 20]).sum())


def test_filters_order_and_pages_agree_with_pandas(indexed):
    index, _ = indexed
    everything = table(index)
    limits = {"rate": (0.2, 0.9), "budget": (None, 12.0), "visits": (1.0, None)}
    chosen = everything.query("0.2 <= rate <= 0.9 and budget <= 12 and visits >= 1")
    assert 0 < len(chosen) < len(everything)
    shown = table(index, limits=limits, sort="rate", descending=False)
    assert shown["id"].tolist() == chosen.sort_values(["rate", "id"])["id"].tolist()
    query = TableQuery(sort="rollouts")
    with index.connect() as database:
        pages = [row["id"] for page in (1, 2) for row in query.changed(page=page).rows(database)]
        assert pages == [row["id"] for row in query.rows(database, most=None)]
        assert query.count(database) == len(everything)
    (found,) = table(index, text="What is 123 + 1?")["id"]
    assert found == prompt_id("synthetic", messages(123))
    assert table(index, text=found[:10])["id"].tolist() == [found]
    assert len(table(index, text="100%_")) == 0
    assert len(table(index, text="wHAT IS 123")) == 1
    assert not any(len(table(index, text=markup)) for markup in ("content", "role", "{", '"'))
    assert len(table(index, source="elsewhere")) == 0 and len(table(index, source="synthetic")) == len(everything)


def test_a_query_survives_its_own_address():
    query = TableQuery(
        1, 0, "lost", "rate", False, 3, {"rate": (2 / 3, None), "rollouts": (1234567.0, 1e300)}, "a&b", "<x> %", 7
    )
    assert TableQuery.parse(query.arguments, num_runs=2) == query
    assert TableQuery.parse({}, 1) == TableQuery()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run": "2"}, "run=2 is not a run: expected 0 to 1"),
        ({"run": "-1"}, "run=-1"),
        ({"list": "x'; DROP TABLE prompts"}, "list=x'; DROP"),
        ({"sort": "id"}, "sort=id is not a column"),
        ({"rate_min": "nan"}, "rate_min=nan"),
        ({"page": "1.5"}, "page=1.5"),
        ({"page": "1e300"}, "page=1e300"),
        ({"k": "many"}, "k=many"),
    ],
)
def test_what_is_not_accepted_is_named(arguments, message):
    with pytest.raises(ViewError, match=message):
        TableQuery.parse(arguments, 2)


def test_visits_carry_the_rule_that_placed_them(indexed, run_folders):
    index, _ = indexed
    history = read_history(run_folders["knapsack"] / "history").to_pandas()
    seen = set()
    with index.connect() as database:
        for one, rows in list(history.groupby("prompt_id"))[:60]:
            visits = visits_of(database, find_prompt(database, one), 0, index.runs[0])
            assert [visit.step for visit in visits] == rows["step"].tolist()
            assert [visit.budget for visit in visits] == rows["budget"].tolist()
            assert [visit.estimate is None for visit in visits] == rows["estimate"].isna().tolist()
            seen |= {visit.rule for visit in visits}
        homogeneous = visits_of(database, find_prompt(database, one), 1, index.runs[1])
    assert {visit.rule for visit in homogeneous} == {"homogeneous"}
    assert {"unseen", "knapsack", "fallback", "minimum"} <= seen <= set(RULES)


def test_a_rule_that_the_folder_does_not_tell_is_unknown():
    assert placing_rule(0.5, 8, {}) == "unknown"
    assert placing_rule(0.0, 8, {"n_low": 2, "fallback": False}) == "remainder"


def test_a_recorded_rule_is_shown_and_one_of_a_newer_version_is_guessed(tmp_path):
    folder = tmp_path / "run"
    history = ExplorationHistory(folder / "history")
    rules = ["review", "knapsack", "a newer rule", None]
    ids = [prompt_id("made-up", messages(number)) for number in range(4)]
    ones = np.ones(4, dtype=np.int64)
    history.append(1, 0, ids, np.array([1.0, 0.0, 0.0, 0.5]), 8 * ones, ones, ones, rules)
    history.flush()
    (folder / "config.yaml").write_text("exploration: {allocator: knapsack, n_low: 2}")
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    with index.connect() as database:
        shown = [visits_of(database, find_prompt(database, one), 0, index.runs[0])[0].rule for one in ids]
    assert shown == ["review", "knapsack", "fallback", "knapsack"]
    assert set(RULES) == {*PLACING_RULES, "unknown"} == set(RULE_COLORS)


# ---------------------------------------------------------------- rollouts


def test_the_kept_rollouts_of_a_prompt_and_step_are_those_of_the_files(indexed, run_folders):
    index, _ = indexed
    folder = run_folders["knapsack"]
    everything = pd.concat(pd.read_parquet(part.path) for part in list_parts(folder / "rollouts"))
    with index.connect() as database:
        for one, rows in list(everything.groupby("prompt_id"))[:30]:
            record = find_prompt(database, one)
            assert kept_steps(database, record, 0) == sorted(rows["step"].unique())
            step = int(rows["step"].iloc[0])
            page = kept_rollouts(database, record, 0, index.runs[0], step, first=0, most=1000)
            mine = rows[rows["step"] == step]
            assert page.total == len(page.rollouts) == len(mine)
            assert sorted(rollout["response"] for rollout in page.rollouts) == sorted(mine["response"])
            scores = [rollout["score"] for rollout in page.rollouts]
            assert scores == sorted(scores, reverse=True)
            counts = [count for _, count, _ in page.answers]
            assert counts == sorted(counts, reverse=True)
            told = {(answer, is_success): count for answer, count, is_success in page.answers}
            assert told == mine.groupby(["pred", "is_success"]).size().to_dict()
            few = kept_rollouts(database, record, 0, index.runs[0], step, first=0, most=1)
            assert few.answers == page.answers, "all that were kept count, shown on this page or not"


def test_rollouts_are_found_across_row_groups(tmp_path):
    folder = build_run(tmp_path / "run", SyntheticRun(num_prompts=40, prompts_per_step=40, steps=8, dump_rollouts=320))
    (part,) = list_parts(folder / "rollouts")
    assert pq.ParquetFile(part.path).metadata.num_row_groups > 5
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    everything = pd.read_parquet(part.path)
    with index.connect() as database:
        for (one, step), rows in everything.groupby(["prompt_id", "step"]):
            page = kept_rollouts(database, find_prompt(database, one), 0, index.runs[0], int(step), first=0, most=1000)
            assert sorted(rollout["response"] for rollout in page.rollouts) == sorted(rows["response"])


# ---------------------------------------------------------------- runs that change, and damaged ones


def history_rows(step, ids, rng):
    budgets = rng.integers(2, 9, len(ids))
    return (step, step // 5, ids, np.full(len(ids), 0.5), budgets, rng.integers(0, budgets + 1), budgets * 10)


def test_a_run_that_grows_is_added_to_and_one_that_resumes_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    ids = [prompt_id("x", str(number)) for number in range(30)]
    folder = tmp_path / "run"
    history = ExplorationHistory(folder / "history")
    index = None
    for first in (1, 6, 11):
        for step in range(first, first + 5):
            history.append(*history_rows(step, list(rng.choice(ids, 8)), rng))  # a prompt may come twice in a step
        history.flush()
        index = index or make_index(tmp_path / "index.sqlite", folder)[0]
        assert index.update_history() is (first > 1)
        assert not index.update_history()
        assert_same(index, folder)
    history.truncate_after(8)
    assert index.update_history()
    assert_same(index, folder)
    shutil.rmtree(folder / "history")
    assert index.update_history()
    assert len(table(index)) == 0


def test_a_damaged_part_is_left_out_and_named(run_folders, tmp_path):
    folder = shutil.copytree(run_folders["knapsack"], tmp_path / "run")
    for kind in ("history", "rollouts"):
        part = list_parts(folder / kind)[0]
        part.path.write_bytes(part.path.read_bytes()[:-100])
    (folder / "metrics.jsonl").open("a").write('{"step": 41, "half')
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    problems = " ".join(index.runs[0].problems.values())
    assert problems.count("are left out") == len(list_parts(folder / "history")[:1]) + 1
    assert all(str(list_parts(folder / kind)[0].path) in problems for kind in ("history", "rollouts"))
    assert index.runs[0].last_metrics()["step"] == 40


def test_a_history_of_an_older_version_opens_with_the_columns_that_it_has(run_folders, tmp_path):
    from knapsack_rl import step_parts

    folder = tmp_path / "old"
    history = read_history(run_folders["knapsack"] / "history").drop_columns(
        ["response_tokens", "epoch", "estimate", "rule"]
    )
    step_parts.write_part(folder / "history", history)
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    shown = table(index).set_index("id")
    expected = by_hand(run_folders["knapsack"])
    assert (shown["rollouts"].sort_index() == expected["rollouts"].sort_index()).all()
    with index.connect() as database:
        visit = visits_of(database, find_prompt(database, shown.index[0]), 0, index.runs[0])[0]
    assert (visit.epoch, visit.estimate, visit.tokens) == (None, None, None)


def test_parts_are_added_a_number_of_rows_at_a_time(run_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(run_index, "_ROWS_AT_ONCE", 100)
    index, _ = make_index(tmp_path / "small.sqlite", run_folders["knapsack"])
    assert_same(index, run_folders["knapsack"])
    monkeypatch.undo()
    whole, _ = make_index(tmp_path / "whole.sqlite", run_folders["knapsack"])
    for rows in ("kept", "answers", "other_answers"):
        contents = []
        for one in (index, whole):
            with one.connect() as database:
                contents.append(sorted(tuple(row) for row in database.execute(f"SELECT * FROM {rows}")))
        assert contents[0] == contents[1] and contents[0]


def test_columns_of_another_version_are_shown_as_far_as_they_go(tmp_path):
    from knapsack_rl.step_parts import write_part

    rollouts = tmp_path / "run" / "rollouts"
    columns = {"step": [1, 1, 2], "prompt_id": [None, "a", "a"], "pred": ["1", "2", None]}
    write_part(rollouts, pa.table({**columns, "is_success": [False, False, None]}))
    write_part(rollouts, pa.table({"step": [3], "prompt_id": ["a"], "response": ["x"], "score": ["text"]}))
    write_part(rollouts, pa.table({"step": [4], "prompt_id": pa.nulls(1, pa.string())}))
    write_part(tmp_path / "run" / "history", pa.table({"step": [1], "prompt_id": ["a"], "budget": ["many"]}))
    index, _ = make_index(tmp_path / "index.sqlite", tmp_path / "run")
    assert "of the history are left out" in " ".join(index.runs[0].problems.values())
    with index.connect() as database:
        record = find_prompt(database, "a")
        assert kept_steps(database, record, 0) == [1, 2, 3]
        read = [kept_rollouts(database, record, 0, index.runs[0], step, first=0, most=9) for step in (1, 3)]
    assert [rollout["pred"] for rollout in read[0].rollouts] == ["2"]
    assert read[1].total == 1 and "cannot be read" in read[1].problem


def test_without_the_data_files_prompts_are_shown_by_their_ids(run_folders, tmp_path):
    folder = shutil.copytree(run_folders["knapsack"], tmp_path / "run")
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("train.parquet", "gone.parquet"))
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert table(index)["messages"].isna().all()
    assert "gone.parquet" in " ".join(index.runs[0].problems.values())
    index, _ = make_index(tmp_path / "other.sqlite", folder, data=(folder / "train.parquet",))
    assert table(index)["messages"].notna().all()


@pytest.mark.parametrize("content", ["[", "just text", "data: {train_files: 7}", "exploration: 3", "\x00"])
def test_a_config_that_is_damaged_does_not_keep_a_run_from_opening(run_folders, tmp_path, content):
    folder = shutil.copytree(run_folders["knapsack"], tmp_path / "run")
    (folder / "config.yaml").write_text(content)
    index, _ = make_index(tmp_path / "index.sqlite", folder)
    assert len(table(index)) == 200
    assert index.runs[0].problems


def test_a_run_that_resumes_with_another_configuration_is_shown_with_it(run_folders, tmp_path):
    folder = shutil.copytree(run_folders["knapsack"], tmp_path / "run")
    config = folder / "config.yaml"
    first = config.read_text()
    config.unlink()
    index, texts = make_index(tmp_path / "index.sqlite", folder)
    assert "config" in index.runs[0].problems and "data" in index.runs[0].problems
    config.write_text(first)
    texts.update()
    assert index.runs[0].setting("exploration.n_low") == 2 and index.runs[0].problems == {}
    assert table(index)["messages"].notna().all()
    config.write_text(first.replace("n_low: 2", "n_low: 4"))
    assert index.runs[0].setting("exploration.n_low") == 4


def test_a_ground_truth_of_any_kind_is_shown(tmp_path):
    folder = build_run(tmp_path / "run", SyntheticRun(num_prompts=4, prompts_per_step=4, steps=2, data=True))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    for truth, shown in ((b"\xff", "xff"), ([1, 2], "[1, 2]"), (2.5, "2.5"), (None, None)):
        data = [{**row, "reward_model": {"style": "rule", "ground_truth": truth}} for row in rows]
        pq.write_table(pa.Table.from_pylist(data), folder / "train.parquet")
        index, _ = make_index(tmp_path / f"{shown}.sqlite", folder)
        (seen,) = set(table(index)["ground_truth"])
        assert index.runs[0].problems == {} and (seen == shown or shown in seen)


def test_data_files_with_repeats_missing_sources_and_media(tmp_path):
    folder = build_run(tmp_path / "run", SyntheticRun(num_prompts=20, prompts_per_step=20, steps=2, data=True))
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    rows = [{**row, "images": None} for row in rows * 3]
    rows += [{**rows[0], "images": ["a picture"], "prompt": [{"role": "user", "content": "<image> what?"}]}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    index, texts = make_index(tmp_path / "index.sqlite", folder)
    assert len(table(index)) == 20
    with index.connect() as database:
        assert database.execute("SELECT count(*), count(DISTINCT prompt) FROM data_rows").fetchone()[:] == (60, 20)
        stored = find_prompt(database, prompt_id("synthetic", messages(7)))
    assert stored.messages == [("user", "What is 7 + 1?")] and stored.ground_truth == "8"
    assert json.loads(table(index)["messages"].iloc[0])[0]["role"] == "user"


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(ViewError, match="is not a folder"):
        RunFiles("a", tmp_path / "nothing")
    with pytest.raises(ViewError, match="is not the folder of a run"):
        RunFiles("a", tmp_path)
    with pytest.raises(ViewError, match="given twice"):
        distinct_names([tmp_path, tmp_path / "."])
