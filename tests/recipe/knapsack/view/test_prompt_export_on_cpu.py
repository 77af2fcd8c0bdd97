"""Exports hold what their names say: every listed row, no other, or a refusal that says why not."""

from __future__ import annotations

import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import SyntheticRun, build_run
from view_runs import make_index

from recipe.knapsack.view import prompt_texts
from recipe.knapsack.view.prompt_export import write_rows
from recipe.knapsack.view.prompt_table import TableQuery
from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles, ViewError
from recipe.knapsack.view.run_index import RunIndex


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    sizes = {"num_prompts": 20, "prompts_per_step": 20, "steps": 2}
    return build_run(tmp_path_factory.mktemp("run") / "run", SyntheticRun(data=True, **sizes))


def exported(index, texts, folder, **options):
    """The numbers of rows that are listed and that are not."""
    counts = []
    with index.connect() as database:
        for others in (False, True):
            query = TableQuery(name="never-solved", k=1, **options)
            try:
                count = write_rows(database, query, index.runs[0], texts, folder / "rows.parquet", others=others)
            except ViewError as error:
                if "no such rows" not in str(error):
                    raise
                count = 0
            counts.append(count)
    return counts


def test_rows_of_several_files_are_listed_or_not(run, tmp_path):
    rows = pq.read_table(run / "train.parquet")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(rows.slice(0, 12), files[0])
    pq.write_table(rows.slice(12).append_column("level", pa.array([1] * 8)), files[1])
    index, texts = make_index(tmp_path / "index.sqlite", run, data=tuple(files))
    with index.connect() as database:
        listed = TableQuery(name="never-solved", k=1).count(database)
    assert exported(index, texts, tmp_path) == [listed, 20 - listed] and 0 < listed < 20


def test_nothing_is_exported_while_a_file_is_being_read(run, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_texts, "_ROWS_AT_ONCE", 5)
    index = RunIndex(tmp_path / "index.sqlite", [RunFiles("run", run)])
    index.update_history()
    texts, refusals = PromptTexts(index), []

    def while_reading(what, done, total):
        with pytest.raises(ViewError, match="is still being read") as refusal:
            exported(index, texts, tmp_path)
        refusals.append(refusal)

    texts.update(while_reading)
    assert len(refusals) == 4 and sum(exported(index, texts, tmp_path)) == 20


@pytest.mark.parametrize("damage", ["missing", "no parquet", "half"])
def test_nothing_is_exported_where_one_of_the_files_cannot_be_read(run, tmp_path, damage):
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    shutil.copy(run / "train.parquet", files[0])
    if damage != "missing":
        content = files[0].read_bytes()
        files[1].write_bytes(content[: len(content) // 2] if damage == "half" else b"no parquet")
    index, texts = make_index(tmp_path / "index.sqlite", run, data=tuple(files))
    with pytest.raises(ViewError, match=f"{files[1]} is still being read, or cannot be read"):
        exported(index, texts, tmp_path)


def test_nothing_is_exported_where_prompts_of_rows_are_not_known(run, tmp_path):
    rows = pq.read_table(run / "train.parquet").to_pylist()
    rows = [{**row, "images": ["a picture"] if number < 3 else None} for number, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    index, texts = make_index(tmp_path / "index.sqlite", run, data=(tmp_path / "rows.parquet",))
    with pytest.raises(ViewError, match="3 rows of .* have images or videos"):
        exported(index, texts, tmp_path)


def test_files_whose_columns_differ_in_type_are_not_joined(run, tmp_path):
    rows = pq.read_table(run / "train.parquet")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(rows.append_column("level", pa.array([1] * 20)), files[0])
    pq.write_table(rows.append_column("level", pa.array(["hard"] * 20)), files[1])
    index, texts = make_index(tmp_path / "index.sqlite", run, data=tuple(files))
    with pytest.raises(ViewError, match="columns of different types"):
        exported(index, texts, tmp_path)
