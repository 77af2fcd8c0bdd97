"""The viewer's index: an SQLite file over the history, the kept rollouts and the prompt files of several runs.

Pages are read from the index, never from whole data sets. It lies in a temporary folder and is brought up to date part
by part; one thread writes, any number of threads read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from knapsack_rl.history import SCHEMA
from knapsack_rl.rollout_dump import DUMP_SCHEMA
from knapsack_rl.run_folder import HISTORY_FOLDER, ROLLOUTS_FOLDER
from knapsack_rl.step_parts import Part, PartsError, list_parts, read_part
from recipe.knapsack.view.run_files import RunFiles
from recipe.knapsack.view.visit_store import NO_NUMBER, add_visits, column_values

__all__ = ["RunIndex"]

_TABLES = """
CREATE TABLE prompts (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
    data_source TEXT, messages TEXT, words TEXT, ground_truth TEXT);
CREATE TABLE data_rows (file INTEGER, row INTEGER, prompt INTEGER);
CREATE TABLE parts (run INTEGER, kind TEXT, name TEXT, PRIMARY KEY (run, kind, name)) WITHOUT ROWID;
CREATE TABLE visits (run INTEGER, prompt INTEGER, records BLOB, PRIMARY KEY (run, prompt)) WITHOUT ROWID;
CREATE TABLE summaries (run INTEGER, prompt INTEGER, visits INTEGER, rollouts INTEGER, successes INTEGER,
    tokens INTEGER, always_solved INTEGER, last_mixed INTEGER, last_success INTEGER, step INTEGER, epoch INTEGER,
    estimate REAL, budget INTEGER, rate REAL, PRIMARY KEY (run, prompt)) WITHOUT ROWID;
CREATE TABLE kept (run INTEGER, prompt INTEGER, step INTEGER, part TEXT, first_row INTEGER, rows INTEGER,
    PRIMARY KEY (run, prompt, step, part)) WITHOUT ROWID;
CREATE TABLE answers (run INTEGER, prompt INTEGER, pred TEXT, is_success INTEGER, rollouts INTEGER,
    PRIMARY KEY (run, prompt, pred, is_success)) WITHOUT ROWID;
CREATE TABLE other_answers (run INTEGER, prompt INTEGER, pred TEXT, rollouts INTEGER, wrong INTEGER, right INTEGER,
    PRIMARY KEY (run, prompt)) WITHOUT ROWID;
"""
_CHOOSE_OTHER_ANSWERS = """
INSERT OR REPLACE INTO other_answers
SELECT run, prompt, pred, max(rollouts),
    (SELECT sum(w.rollouts) FROM answers w WHERE w.run = a.run AND w.prompt = a.prompt AND w.is_success = 0),
    coalesce(
        (SELECT sum(r.rollouts) FROM answers r WHERE r.run = a.run AND r.prompt = a.prompt AND r.is_success = 1), 0)
FROM answers a WHERE run = :run AND is_success = 0 AND pred != '' {chosen} GROUP BY prompt
"""
_CHOSEN = "AND prompt IN (SELECT prompt FROM touched)"
_ROWS_AT_ONCE = 500_000  # of a history or of kept rollouts in memory
_MOST_VARIABLES = 900  # of a statement
_NO_ANSWERS = ["", "[INVALID]"]  # the second is what verl's DAPO scorer calls none
_LONGEST_ANSWER = 200  # characters; a longer "answer" is a response that was not parsed

Progress = Callable[[str, int, int], None]


class RunIndex:
    """The index over runs.

    Args:
        path: of the SQLite file; it must not exist.
        runs: the runs, which pages know by their places in this list.
    """

    def __init__(self, path: Path, runs: Sequence[RunFiles]) -> None:
        self.path = path
        self.runs = list(runs)
        self._writing = threading.Lock()
        with self.connect() as database:
            database.execute("PRAGMA page_size = 16384")  # a prompt's visits are longer than a page of the default
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(_TABLES)

    def writing(self) -> threading.Lock:
        """To be held by whoever writes."""
        return self._writing

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection for the calling thread; what it changed is kept unless an error ends the block."""
        database = sqlite3.connect(self.path, timeout=60.0)
        try:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA synchronous = OFF")
            with database:
                yield database
        finally:
            database.close()

    def update_history(self, progress: Progress | None = None) -> bool:
        """Bring visits and summaries up to date with the history; return whether anything changed."""
        return self._update("history", HISTORY_FOLDER, SCHEMA, None, self._add_visits, progress)

    def update_rollouts(self, progress: Progress | None = None) -> bool:
        """Bring what is known of the kept rollouts up to date; return whether anything changed."""
        columns = ["step", "prompt_id", "pred", "is_success"]
        return self._update("rollouts", ROLLOUTS_FOLDER, DUMP_SCHEMA, columns, self._add_kept, progress)

    def numbers(self, database: sqlite3.Connection, ids: Iterable[str]) -> dict[str, int]:
        """The number of every prompt, new ones added."""
        ids = list(ids)
        database.executemany("INSERT OR IGNORE INTO prompts (id) VALUES (?)", ((one,) for one in ids))
        known: dict[str, int] = {}
        for first in range(0, len(ids), _MOST_VARIABLES):
            some = ids[first : first + _MOST_VARIABLES]
            places = ",".join("?" * len(some))
            known.update(map(tuple, database.execute(f"SELECT id, number FROM prompts WHERE id IN ({places})", some)))
        return known

    # ------------------------------------------------------------------------------------------------ parts

    def _update(
        self,
        kind: str,
        folder: str,
        schema: pa.Schema,
        columns: list[str] | None,
        add: Callable[[sqlite3.Connection, int, list[tuple[Part, pa.Table]]], None],
        progress: Progress | None,
    ) -> bool:
        changed = False
        with self._writing, self.connect() as database:
            for run, files in enumerate(self.runs):
                try:
                    parts = self._parts_of(files, kind, folder)
                except OSError as error:
                    files.problems[kind] = f"The {kind} cannot be read: {error}."
                    continue
                rows = database.execute("SELECT name FROM parts WHERE run = ? AND kind = ?", (run, kind))
                indexed = {row[0] for row in rows}
                gone = indexed - set(parts)
                if gone and kind == "rollouts" and _are_the_oldest(gone, parts):
                    self._forget_deleted(database, run, gone)
                    indexed, changed = indexed - gone, True
                elif gone:  # a resumed run has forgotten steps
                    self._forget(database, run, kind)
                    indexed, changed = set(), True
                fresh = [part for name, part in parts.items() if name not in indexed]
                for tried, read in self._batches(files, kind, fresh, schema, columns, progress):
                    add(database, run, read)
                    # Also those that are damaged: they do not get better by being read again.
                    database.executemany("INSERT INTO parts VALUES (?, ?, ?)", ((run, kind, name) for name in tried))
                    database.commit()  # pages show what is there, also while the rest is read
                    changed = True
        return changed

    def _parts_of(self, files: RunFiles, kind: str, folder: str) -> dict[str, Part]:
        """The parts of a data set by their names; what is wrong with the whole of it becomes a problem of the run."""
        files.problems.pop(kind, None)
        try:
            parts = list_parts(files.folder / folder)
        except PartsError as error:
            files.problems[kind] = f"Part of the {kind} is left out: {error}."
            parts = list_parts(files.folder / folder, skip_disputed=True)
        if kind == "history" and not parts:
            files.problems.setdefault(kind, f"There is no {folder}/ yet: nothing about single prompts is shown.")
        return {part.path.name: part for part in parts}

    def _batches(
        self,
        files: RunFiles,
        kind: str,
        parts: Sequence[Part],
        schema: pa.Schema,
        columns: list[str] | None,
        progress: Progress | None,
    ) -> Iterator[tuple[list[str], list[tuple[Part, pa.Table]]]]:
        """The parts a number of rows at a time: the names of those that were tried, and those that could be read."""
        tried: list[str] = []
        read: list[tuple[Part, pa.Table]] = []
        for done, part in enumerate(parts, start=1):
            tried.append(part.path.name)
            try:
                # The texts of kept rollouts are most of their files, and not needed here.
                table = read_part(part, schema, columns, verify=columns is None)
                table.validate(full=True)  # what is no UTF-8 is damage too
                read.append((part, table))
            except (PartsError, OSError, pa.ArrowException) as error:
                reason = str(error) if isinstance(error, PartsError) else f"{part.path} cannot be read ({error})"
                files.problems[f"{kind} {part.path.name}"] = (
                    f"Steps {part.first_step} to {part.last_step} of the {kind} are left out, for {reason}."
                )
            if done == len(parts) or sum(len(table) for _, table in read) >= _ROWS_AT_ONCE:
                yield tried, read
                tried, read = [], []
            if progress is not None:
                progress(f"{kind} of {files.name}", done, len(parts))

    def _forget_deleted(self, database: sqlite3.Connection, run: int, names: set[str]) -> None:
        """Forget where rollouts lay that were deleted at the size limit; what they answered still counts."""
        for name in names:
            database.execute("DELETE FROM kept WHERE run = ? AND part = ?", (run, name))
            database.execute("DELETE FROM parts WHERE run = ? AND kind = 'rollouts' AND name = ?", (run, name))

    def _forget(self, database: sqlite3.Connection, run: int, kind: str) -> None:
        tables = ("visits", "summaries") if kind == "history" else ("kept", "answers", "other_answers")
        for table in tables:
            database.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
        database.execute("DELETE FROM parts WHERE run = ? AND kind = ?", (run, kind))
        self.runs[run].problems = {
            about: text for about, text in self.runs[run].problems.items() if about.split()[0] != kind
        }

    def _prompts_of(self, database: sqlite3.Connection, ids: pa.ChunkedArray) -> np.ndarray:
        """(rows,) int64, the number of each row's prompt; `NO_NUMBER` where there is none."""
        encoded = ids.combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        distinct = encoded.dictionary.to_pylist()
        known = self.numbers(database, distinct)
        numbers = np.array([*(known[one] for one in distinct), NO_NUMBER], dtype=np.int64)
        return numbers[column_values(pa.chunked_array([encoded.indices]), missing=-1)]

    def _touch(self, database: sqlite3.Connection, run: int, table: str, prompts: np.ndarray) -> str:
        """The condition that chooses ``prompts``; none if there is nothing of the run in ``table`` yet."""
        if database.execute(f"SELECT 1 FROM {table} WHERE run = ? LIMIT 1", (run,)).fetchone() is None:
            return ""
        database.execute("CREATE TEMP TABLE IF NOT EXISTS touched (prompt INTEGER PRIMARY KEY)")
        database.execute("DELETE FROM touched")
        database.executemany("INSERT INTO touched VALUES (?)", ((prompt,) for prompt in np.unique(prompts).tolist()))
        return _CHOSEN

    # ------------------------------------------------------------------------------------------------ history

    def _add_visits(self, database: sqlite3.Connection, run: int, parts: list[tuple[Part, pa.Table]]) -> None:
        if not parts:
            return
        history = pa.concat_tables([table for _, table in parts])
        has_id = column_values(history["prompt_id"].is_valid().cast(pa.int8()), missing=0) == 1
        is_visit = has_id & (column_values(history["budget"], missing=0) > 0)
        if not is_visit.all():
            history = history.take(np.flatnonzero(is_visit))
        if not len(history):
            return
        prompts = self._prompts_of(database, history["prompt_id"])
        add_visits(database, run, prompts, history)

    # ------------------------------------------------------------------------------------------------ rollouts

    def _add_kept(self, database: sqlite3.Connection, run: int, parts: list[tuple[Part, pa.Table]]) -> None:
        touched = []
        for part, table in parts:
            if not len(table):
                continue
            prompts = self._prompts_of(database, table["prompt_id"])
            steps = column_values(table["step"], missing=NO_NUMBER)
            starts = np.flatnonzero(np.append(True, (np.diff(prompts) != 0) | (np.diff(steps) != 0)))
            counts = np.diff(np.append(starts, len(table)))
            is_known = prompts[starts] != NO_NUMBER
            starts, counts = starts[is_known], counts[is_known]
            touched.append(prompts[starts])
            rows = zip(prompts[starts].tolist(), steps[starts].tolist(), starts.tolist(), counts.tolist(), strict=True)
            database.executemany(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?)",
                ((run, prompt, step, part.path.name, first, count) for prompt, step, first, count in rows),
            )
            self._count_answers(database, run, table, prompts)
        if touched:
            chosen = self._touch(database, run, "other_answers", np.concatenate(touched))
            database.execute(_CHOOSE_OTHER_ANSWERS.format(chosen=chosen), {"run": run})

    def _count_answers(self, database: sqlite3.Connection, run: int, table: pa.Table, prompts: np.ndarray) -> None:
        answers = pa.table({"prompt": prompts, "pred": table["pred"], "is_success": table["is_success"]})
        answers = answers.filter(pc.field("is_success").is_valid() & (pc.field("prompt") != NO_NUMBER))
        # A rollout without an answer agrees with none, but it counts among those that failed.
        told = pc.fill_null(answers["pred"], "")
        is_answer = pc.and_(
            pc.invert(pc.is_in(told, value_set=pa.array(_NO_ANSWERS))),
            pc.less_equal(pc.utf8_length(told), _LONGEST_ANSWER),
        )
        answers = answers.set_column(1, "pred", pc.if_else(is_answer, told, ""))
        counts = answers.group_by(["prompt", "pred", "is_success"]).aggregate([([], "count_all")])
        names = ("prompt", "pred", "is_success", "count_all")
        database.executemany(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET rollouts = rollouts + excluded.rollouts",
            ((run, *row) for row in zip(*(counts[name].to_pylist() for name in names), strict=True)),
        )


def _are_the_oldest(gone: set[str], parts: Mapping[str, Part]) -> bool:
    """Whether the parts of these names, which begin with their steps, come before all that are left."""
    return bool(parts) and max(gone) < min(parts)
