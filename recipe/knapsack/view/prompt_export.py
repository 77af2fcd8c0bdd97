"""Lists of prompts as files: a table as CSV, and rows of the data files as parquet, to train on or to leave out."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.knapsack.view.prompt_record import messages_of
from recipe.knapsack.view.prompt_table import COLUMNS, TableQuery
from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_files import RunFiles, ViewError, version_of

__all__ = ["prompts_as_csv", "write_rows"]

_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def prompts_as_csv(database: sqlite3.Connection, query: TableQuery) -> str:
    """All prompts of the query, one a line: id, every column of the table, ground truth, other answer, text.

    A text that a spreadsheet would compute is given an apostrophe, by which spreadsheets know text.
    """
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(["prompt_id", *COLUMNS, "ground_truth", "other_answer", "prompt"])
    for row in query.rows(database, most=None):
        text = "\n\n".join(text for _, text in messages_of(row["messages"]))
        values = [row["id"], *(row[name] for name in COLUMNS), row["ground_truth"], row["other_answer"], text]
        writer.writerow([_not_computed(value) if isinstance(value, str) else value for value in values])
    return sink.getvalue()


def _not_computed(text: str) -> str:
    """``text``, with an apostrophe before it if it begins like a formula and is no number.

    >>> _not_computed("=1+1"), _not_computed("-x"), _not_computed("-5.5"), _not_computed("x = 1")
    ("'=1+1", "'-x", '-5.5', 'x = 1')
    """
    return f"'{text}" if text.startswith(_FORMULA_BEGINS) and not _NUMBER.fullmatch(text) else text


def write_rows(
    database: sqlite3.Connection,
    query: TableQuery,
    run: RunFiles,
    texts: PromptTexts,
    path: Path,
    *,
    others: bool = False,
) -> int:
    """Write the rows of the run's data files whose prompts the query lists, in the schema of those files.

    Args:
        database: the index.
        query: which prompts; its order does not matter, for rows keep the order of the data.
        run: whose data files.
        texts: knows the data files that the index counts.
        path: of the parquet file.
        others: whether to write all other rows instead, those of prompts that the run never visited included.

    Returns:
        The number of rows.

    Raises:
        ViewError: a data file of the run was not read to its end, has changed since, or has rows whose prompts are not
            known; the files do not fit together; or there are no such rows.
    """
    own = {file.resolve() for file in run.prompt_files}
    if missing := own - texts.whole:
        raise ViewError(f"{min(missing)} is still being read, or cannot be read: its rows cannot be exported.")
    listed = query.prompts(database)
    tables = []
    for number, file in enumerate(texts.files):
        if file.resolve() not in own:
            continue
        prompts = dict(database.execute("SELECT row, prompt FROM data_rows WHERE file = ?", (number,)).fetchall())
        try:
            if version_of(file) != texts.versions[number]:
                raise ViewError(f"{file} has changed since it was read: start the viewer again to export from it.")
            tables += _rows_of(file, prompts, listed, others)
        except (OSError, pa.ArrowException) as error:
            raise ViewError(f"{file} cannot be read any more ({error}): its rows cannot be exported.") from error
    if not tables:
        raise ViewError("There are no such rows: the run's data files are not here, or the list is empty.")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise ViewError(f"The run's data files have columns of different types ({error}): export by CSV.") from error
    pq.write_table(table, path)
    return len(table)


def _rows_of(file: Path, prompts: Mapping[int, int], listed: set[int], others: bool) -> list[pa.Table]:
    """The rows of a file whose prompts are listed, or of all others; ``prompts`` has the prompt of each row."""
    tables, first = [], 0
    with pq.ParquetFile(file) as parquet:
        if len(prompts) < parquet.metadata.num_rows:
            raise ViewError(
                f"{parquet.metadata.num_rows - len(prompts):,} rows of {file} have images or videos, so their prompts "
                "are not known and no list of its rows would be whole: export by CSV."
            )
        for group in range(parquet.metadata.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            wanted = [row for row in range(count) if (prompts[first + row] in listed) != others]
            if wanted:
                tables.append(parquet.read_row_group(group).take(wanted))
            first += count
    return tables
