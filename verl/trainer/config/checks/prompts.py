"""Start-up checks of prompts: their length in tokens, and equal prompts with different answers.

A prompt's bytes bound its tokens, since a token covers at least a byte. Only prompts that this bound does not clear are
tokenised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from knapsack_rl.messages import one_line
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.models import has_tokenizer
from verl.trainer.config.checks.reading import DATA_KEYS, local_data_files, prompts_per_batch

MOST_ROWS = 200_000
"""Rows of a key's files that are looked at; of more data, these are the first. About a second."""
MOST_TOKENISED = 8_000
"""Prompts that are tokenised at most, the longest first: about two seconds."""
# Marks that a tokenizer may add at the start of a text.
_SLACK = 8
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Prompts:
    """The messages of the prompts under one key.

    Attributes:
        key: ``data.train_files`` or ``data.val_files``.
        messages: N lists of structs of role and content.
        rows_in_files: how many there are; N or more.
    """

    key: str
    messages: pyarrow.ChunkedArray
    rows_in_files: int

    def joined(self, field: str) -> pyarrow.ChunkedArray:
        """(N,) strings: the role or the content of all messages of each prompt."""
        return pyarrow.chunked_array([_joined(chunk, field) for chunk in self.messages.chunks], pyarrow.large_string())

    @property
    def sizes(self) -> np.ndarray:
        """(N,) int64, bytes of the content of all messages of each prompt."""
        return np.concatenate([_sizes(chunk) for chunk in self.messages.chunks])

    def take(self, rows: np.ndarray) -> list[list[dict[str, Any]]]:
        """The messages of the prompts with these row numbers, as verl's data set hands them to the tokenizer."""
        return self.messages.take(pyarrow.array(rows)).to_pylist()


def _joined(lists: pyarrow.ListArray, field: str) -> pyarrow.Array:
    values, offsets = _flattened(lists, field)
    if len(values) == len(lists) == offsets[-1] and (np.diff(offsets) == 1).all():
        return values.cast(pyarrow.large_string())
    texts = pyarrow.ListArray.from_arrays(pyarrow.array(offsets, pyarrow.int32()), values)
    return pyarrow.compute.binary_join(texts, _SEPARATOR).cast(pyarrow.large_string())


def _sizes(lists: pyarrow.ListArray) -> np.ndarray:
    values, offsets = _flattened(lists, "content")
    ends = np.concatenate([[0], np.cumsum(pyarrow.compute.binary_length(values).to_numpy(), dtype=np.int64)])
    return ends[offsets[1:]] - ends[offsets[:-1]]


def _flattened(lists: pyarrow.ListArray, field: str) -> tuple[pyarrow.Array, np.ndarray]:
    """Return the values of ``field`` in all messages, and the offsets of each prompt's messages in them."""
    values = pyarrow.compute.fill_null(pyarrow.compute.struct_field(lists.flatten(), field).cast(pyarrow.string()), "")
    lengths = pyarrow.compute.fill_null(pyarrow.compute.list_value_length(lists), 0)
    return values, np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int64)


def read_prompts(config: DictConfig, key: str) -> Prompts | None:
    """Return the prompts under ``data.<key>``; None if they are not here, are not text alone, or not verl's."""
    files = local_data_files(config, key)
    if not files or config.data.custom_cls.path is not None:
        return None
    name, chunks, left = config.data.prompt_key, [], MOST_ROWS
    for file in files:
        schema = pyarrow.parquet.read_schema(file)
        media = {config.data.image_key, config.data.video_key} & set(schema.names)
        if media or not _has_text_messages(schema.field(name).type):
            return None
        for batch in _first_rows(file, [name], left):
            chunks.append(batch.column(0))
            left -= len(batch)
    if len({chunk.type for chunk in chunks}) != 1:
        return None  # no row, or files of different types
    rows = sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return Prompts(f"data.{key}", pyarrow.chunked_array(chunks), rows)


def _has_text_messages(kind: pyarrow.DataType) -> bool:
    content = kind.value_type.field("content").type
    return pyarrow.types.is_string(content) or pyarrow.types.is_large_string(content)


def _first_rows(file: Path, columns: list[str], most: int) -> Iterator[pyarrow.RecordBatch]:
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=65_536, columns=columns):
        if most <= 0:
            return
        yield batch[:most]
        most -= len(batch)


def check_prompt_lengths(config: DictConfig, facts: Facts) -> None:
    """Refuse data with prompts that are too long to train on, or of which a filter would leave too few.

    Raises:
        ConfigError: the tokenizer cannot be loaded or has no chat template, or prompts are too long.
    """
    folder = Path(str(config.actor_rollout_ref.model.path)).expanduser()
    if not (folder / "config.json").is_file() or not (facts.trains_here or has_tokenizer(folder)):
        return  # on the hub, or elsewhere: what is not here cannot be judged
    tokenizer = load_tokenizer(config, folder)
    if tokenizer.chat_template is None:
        return  # the processor of a multi-modal model has it, or a data set class of the user's own needs none
    for key in DATA_KEYS:
        if key == "val_files" and not (config.trainer.test_freq > 0 or config.trainer.val_before_train):
            continue
        if config.data.filter_overlong_prompts:
            _check_enough_fit(config, key, tokenizer)
        elif config.data.truncation == "error":
            _check_all_fit(config, key, tokenizer)


def load_tokenizer(config: DictConfig, folder: Path) -> Any:
    """Return the model's tokenizer, which must have a chat template."""
    from verl.utils import hf_tokenizer

    path = config.actor_rollout_ref.model.path
    try:
        tokenizer = hf_tokenizer(str(folder), trust_remote_code=config.data.get("trust_remote_code", False))
    except Exception as error:
        raise ConfigError(
            f"actor_rollout_ref.model.path={path}: its tokenizer cannot be loaded: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error
    is_multimodal = (folder / "preprocessor_config.json").is_file()
    if tokenizer.chat_template is None and not is_multimodal and config.data.custom_cls.path is None:
        raise ConfigError(
            f"actor_rollout_ref.model.path={path} has no chat template, by which messages become a prompt: use a model "
            "that has one, or add a file chat_template.jinja to a copy of it."
        )
    return tokenizer


def _check_all_fit(config: DictConfig, key: str, tokenizer: Any) -> None:
    prompts = read_prompts(config, key)
    if prompts is None:
        return
    rows = _rows_in_doubt(config, prompts, tokenizer)[:MOST_TOKENISED]
    lengths = _tokens(prompts, rows, tokenizer)
    longest, count = int(lengths.max(initial=0)), int((lengths > config.data.max_prompt_length).sum())
    if count:
        raise ConfigError(
            f"{prompts.key} has {count} of {prompts.rows_in_files} prompts that exceed data.max_prompt_length="
            f"{config.data.max_prompt_length} tokens (row {rows[int(lengths.argmax())]}: {longest}), and "
            "data.truncation=error would end the run at the first of them: set data.filter_overlong_prompts=true, "
            "or raise "
            f"data.max_prompt_length to {longest}."
        )


def _check_enough_fit(config: DictConfig, key: str, tokenizer: Any) -> None:
    prompts = read_prompts(config, key)
    needed = prompts_per_batch(config) if key == "train_files" else 1
    if prompts is None or prompts.rows_in_files < needed:
        return
    in_doubt = _rows_in_doubt(config, prompts, tokenizer)
    fitting = len(prompts.messages) - len(in_doubt)
    shortest_first = in_doubt[::-1][:MOST_TOKENISED]
    if fitting < needed:
        lengths = _tokens(prompts, shortest_first, tokenizer)
        fitting += int((lengths <= config.data.max_prompt_length).sum())
    is_known = len(in_doubt) <= MOST_TOKENISED and len(prompts.messages) == prompts.rows_in_files
    if fitting < needed and is_known:
        wanted = f"data.train_batch_size={needed} prompts" if key == "train_files" else "one prompt"
        raise ConfigError(
            f"data.filter_overlong_prompts=true leaves {fitting} of the {prompts.rows_in_files} prompts of "
            f"{prompts.key}, "
            f"fewer than {wanted}: raise data.max_prompt_length={config.data.max_prompt_length}, or give more data."
        )


def _rows_in_doubt(config: DictConfig, prompts: Prompts, tokenizer: Any) -> np.ndarray:
    """Return the rows that may have more tokens than allowed, the longest in bytes first."""
    size = prompts.sizes
    signatures = prompts.joined("role").combine_chunks().dictionary_encode()
    codes = signatures.indices.to_numpy()
    added = np.zeros(len(signatures.dictionary), np.int64)
    first_rows = np.unique(codes, return_index=True)[1]
    for code, row, text in zip(codes[first_rows], first_rows, _rendered(prompts, first_rows, tokenizer), strict=True):
        added[code] = len(text.encode()) - size[row]
    bound = size + np.maximum(added, 0)[codes] + _SLACK
    rows = np.flatnonzero(bound > config.data.max_prompt_length)
    return rows[np.argsort(-bound[rows], kind="stable")]


def _rendered(prompts: Prompts, rows: np.ndarray, tokenizer: Any) -> list[str]:
    with _refusing(prompts):
        return [
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            for messages in prompts.take(rows)
        ]


@contextmanager
def _refusing(prompts: Prompts) -> Iterator[None]:
    """Say of whatever a template or a tokenizer raises that the prompts are the cause."""
    try:
        yield
    except Exception as error:
        raise ConfigError(
            f"{prompts.key} holds prompts that the model's chat template or tokenizer refuses: {type(error).__name__}: "
            f"{one_line(error)}. Mend them, or use another model."
        ) from error


def _tokens(prompts: Prompts, rows: np.ndarray, tokenizer: Any) -> np.ndarray:
    """(len(rows),) number of tokens, as verl's data set counts them."""
    if not len(rows):
        return np.zeros(0, np.int64)
    texts = _rendered(prompts, rows, tokenizer)
    with _refusing(prompts), _one_thread():
        return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep tokenizers from using threads, after which it would warn at every process that is started."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def prompt_notices(config: DictConfig) -> list[str]:
    """Return lines about equal prompts of the training data with different answers, and data not looked at in full."""
    prompts = read_prompts(config, "train_files")
    if prompts is None:
        return []
    notices = []
    if len(prompts.messages) < prompts.rows_in_files:
        notices.append(
            f"{prompts.key}: only the first {len(prompts.messages)} of {prompts.rows_in_files} prompts were looked at."
        )
    count = 0 if config.reward_model.enable else _count_disagreeing(config, prompts)
    if count:
        notices.append(
            f"{prompts.key} has {count} prompts that are there with different answers: a prompt's success rate is "
            "kept by "
            "its text, so that their rollouts are counted together. Keep one answer to each."
        )
    return notices


def _count_disagreeing(config: DictConfig, prompts: Prompts) -> int:
    """Count the prompts (source, roles and texts) that occur with more than one ground truth."""
    source = config.data.reward_fn_key
    batches: list[pyarrow.RecordBatch] = []
    for file in local_data_files(config, "train_files"):
        if not {source, "reward_model"} <= set(pyarrow.parquet.read_schema(file).names):
            return 0
        left = MOST_ROWS - sum(map(len, batches))
        batches += _first_rows(file, [source, "reward_model.ground_truth"], left)
    tables = [pyarrow.Table.from_batches([batch]) for batch in batches]
    table = pyarrow.concat_tables(tables, promote_options="permissive")
    answers = pyarrow.compute.struct_field(table["reward_model"], "ground_truth")
    if pyarrow.types.is_nested(answers.type):
        return 0
    columns = {"source": table[source], "roles": prompts.joined("role"), "text": prompts.joined("content")}
    groups = pyarrow.table({**columns, "answer": answers}).group_by(list(columns))
    answers_of = groups.aggregate([("answer", "count_distinct")])["answer_count_distinct"]
    return pyarrow.compute.sum(pyarrow.compute.greater(answers_of, 1)).as_py() or 0
