"""Append-only parquet data sets whose parts each hold a range of steps, such as the history of a run.

    folder/steps-00000001-00000050-<hash of the file>.parquet
    folder/steps-00000051-00000100-<hash of the file>.parquet

A part is written to the side and renamed, so it is whole or absent; its name carries the steps it holds and the hash of
its content, so damage is found before anything is parsed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from knapsack_rl.run_folder import sync_folder, write_atomically

__all__ = [
    "STEPS_PER_PART",
    "Part",
    "PartsError",
    "list_parts",
    "read_part",
    "truncate_parts",
    "verified_content",
    "write_part",
]

STEPS_PER_PART = 20
"""Steps after which a part is written: what a run that is killed between checkpoints loses at most."""
_PART_NAME = re.compile(r"steps-(\d{8,})-(\d{8,})-([0-9a-f]{16})\.parquet")


class PartsError(ValueError):
    """A part on disk is damaged, two parts hold the same step, or what is to be written does not fit to them."""


class Part(NamedTuple):
    """A file that holds the rows of the steps from ``first_step`` to ``last_step``."""

    path: Path
    first_step: int
    last_step: int
    content_hash: str


def list_parts(folder: Path, *, with_superseded: bool = False, skip_disputed: bool = False) -> list[Part]:
    """The parts in the order of their steps; none if there is no such folder.

    A crash inside `truncate_parts` may leave a part beside its shortened copy: the longer one supersedes the shorter.

    Args:
        folder: of the data set.
        with_superseded: whether to list every part.
        skip_disputed: leave out parts that hold the same step and of which neither supersedes the other, instead of
            raising.

    Raises:
        PartsError: there are such parts.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    matches = [(path, _PART_NAME.fullmatch(path.name)) for path in paths]
    parts = [Part(path, int(match[1]), int(match[2]), match[3]) for path, match in matches if match]
    parts.sort(key=lambda part: (part.first_step, -part.last_step))
    if with_superseded:
        return parts
    current: list[Part] = []
    disputed: set[Part] = set()
    for part in parts:
        if not current or part.first_step > current[-1].last_step:
            current.append(part)
        elif part.last_step > current[-1].last_step or part[1:3] == current[-1][1:3]:
            if not skip_disputed:
                raise PartsError(
                    f"{current[-1].path} and {part.path} both hold step {part.first_step}; remove one of them"
                )
            disputed |= {current[-1], part}
            current.append(part)
    return [part for part in current if part not in disputed]


def write_part(folder: Path, table: pa.Table, *, rows_per_group: int | None = None) -> Part:
    """Write ``table``, whose column ``step`` is not empty, as a part and force it to disk.

    Args:
        folder: made if it does not exist.
        table: the rows.
        rows_per_group: most rows that a reader must decode together; None leaves that to Arrow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=rows_per_group)
    content = sink.getvalue().to_pybytes()
    first_step, last_step = pc.min(table["step"]).as_py(), pc.max(table["step"]).as_py()
    content_hash = _content_hash(content)
    path = folder / f"steps-{first_step:08d}-{last_step:08d}-{content_hash}.parquet"
    write_atomically(path, content, temporary_name=".unfinished.tmp")
    return Part(path, first_step, last_step, content_hash)


def verified_content(part: Part) -> bytes:
    """The bytes of a part.

    Raises:
        PartsError: they are not those that were written.
    """
    content = part.path.read_bytes()
    actual = _content_hash(content)
    if actual != part.content_hash:
        raise PartsError(
            f"{part.path} is damaged: its {len(content)} bytes have the hash {actual}, its name says otherwise"
        )
    return content


def read_part(part: Part, schema: pa.Schema, columns: Sequence[str] | None = None, *, verify: bool = True) -> pa.Table:
    """The rows of a part, with the columns of ``schema``: one that an older version did not write is null.

    Args:
        part: which.
        schema: of the data set.
        columns: those to read; None = all.
        verify: whether to read the whole file and compare its hash; without, other columns are not even read.

    Raises:
        PartsError: the part is damaged.
        pa.ArrowException: likewise, where ``verify`` is false.
    """
    fields = [field for field in schema if columns is None or field.name in columns]
    with pq.ParquetFile(pa.BufferReader(verified_content(part)) if verify else part.path) as file:
        present = set(file.schema_arrow.names)
        table = file.read(columns=[field.name for field in fields if field.name in present])
    arrays = [
        table[field.name].cast(field.type) if field.name in present else pa.nulls(len(table), field.type)
        for field in fields
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def truncate_parts(folder: Path, step: int, schema: pa.Schema, *, rows_per_group: int | None = None) -> list[Part]:
    """Forget every step after ``step`` and return the parts that are left.

    Raises:
        PartsError: the part that holds both ``step`` and later steps is damaged.
    """
    kept = []
    for part in list_parts(folder):
        if part.last_step <= step:
            kept.append(part)
        elif part.first_step <= step:
            table = read_part(part, schema)
            shortened = table.filter(pc.less_equal(table["step"], step))
            kept.append(write_part(folder, shortened, rows_per_group=rows_per_group))
    kept_paths = {part.path for part in kept}
    for part in list_parts(folder, with_superseded=True):
        if part.path not in kept_paths:
            part.path.unlink()
    sync_folder(folder)
    return kept


def _content_hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
