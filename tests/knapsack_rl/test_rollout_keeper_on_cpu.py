"""Kept rollouts are chosen by what came of their prompts, and written beside the training without losing an error."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from knapsack_rl import ExplorationConfig  # noqa: E402
from knapsack_rl.rollout_dump import DUMP_SCHEMA, RolloutDump  # noqa: E402
from knapsack_rl.rollout_keeper import RolloutWriter, rows_to_keep  # noqa: E402
from knapsack_rl.step_parts import STEPS_PER_PART, list_parts, read_part  # noqa: E402

KEEPS_ALL = ExplorationConfig(dump_rollouts="all")


class Tokenizer:
    """Decodes token ids as characters, and remembers who asked."""

    def __init__(self):
        self.threads = []

    def batch_decode(self, responses, skip_special_tokens):
        self.threads.append(threading.current_thread().name)
        return ["".join(map(chr, response)) for response in responses]


def columns_of(count):
    return {
        "prompt_id": [f"prompt {row}" for row in range(count)],
        "prompt_class": ["mixed"] * count,
        "estimate": np.full(count, np.nan),
        "budget": np.full(count, 2),
        "score": np.ones(count),
        "acc": [None] * count,
        "pred": [None] * count,
        "is_success": np.ones(count, dtype=bool),
        "advantage": np.zeros(count),
        "response_tokens": np.full(count, 2),
    }


def written(folder):
    return [row for part in list_parts(folder) for row in read_part(part, DUMP_SCHEMA).to_pylist()]


@pytest.mark.parametrize("kept, expected", [("all", 8), (3, 3), (99, 8)])
def test_as_many_are_kept_as_are_asked_for(kept, expected):
    rows, columns = rows_to_keep(
        ExplorationConfig(dump_rollouts=kept),
        1,
        np.repeat([0, 1], 4),
        np.arange(8) % 4 == 0,
        estimates=np.array([np.nan, 0.5]),
        budgets=np.array([4, 4]),
        successes=np.array([1, 1]),
    )
    assert len(rows) == expected == len(set(rows.tolist()))
    assert set(columns) == {"prompt_class", "estimate", "budget", "is_success"}
    assert columns["is_success"].tolist() == (rows % 4 == 0).tolist()


def test_rollouts_are_decoded_by_a_copy_of_the_tokenizer_on_another_thread(tmp_path):
    tokenizer = Tokenizer()
    writer = RolloutWriter(RolloutDump(tmp_path, 10**9), KEEPS_ALL, tokenizer)
    writer.write(1, np.array([0, 1]), columns_of(2), [[104, 105], [111, 107]])
    writer.write(2, 1, columns_of(1), [[33]])
    writer.flush()
    assert [(row["step"], row["epoch"], row["response"]) for row in written(tmp_path)] == [
        (1, 0, "hi"),
        (1, 1, "ok"),
        (2, 1, "!"),
    ]
    assert tokenizer.threads == []


def test_what_a_resumed_run_repeats_is_forgotten_once_it_is_written(tmp_path):
    writer = RolloutWriter(RolloutDump(tmp_path, 10**9), KEEPS_ALL, Tokenizer())
    for step in (1, 2, 3):
        writer.write(step, 0, columns_of(1), [[33]])
    writer.truncate_after(2)
    writer.flush()
    assert [row["step"] for row in written(tmp_path)] == [1, 2]


def test_a_folder_that_cannot_be_written_to_is_named_with_what_to_do(tmp_path):
    (tmp_path / "rollouts").touch()  # a file where the folder is to be
    writer = RolloutWriter(RolloutDump(tmp_path / "rollouts", 10**9), KEEPS_ALL, Tokenizer())
    for step in range(1, STEPS_PER_PART + 1):
        writer.write(step, 0, columns_of(1), [[33]])
    with pytest.raises(OSError, match=f"{tmp_path}/rollouts .*exploration.dump_rollouts=null"):
        writer.flush()


def test_an_error_of_the_writing_is_raised_at_the_next_step_and_once(tmp_path):
    writer = RolloutWriter(RolloutDump(tmp_path, 10**9), KEEPS_ALL, Tokenizer())
    writer.write(1, 0, {**columns_of(1), "score": np.ones(2)}, [[33]])
    with pytest.raises(ValueError, match="equally long"):
        writer.write(2, 0, columns_of(1), [[33]])
    writer.write(3, 0, columns_of(1), [[33]])
    writer.flush()
    assert [row["step"] for row in written(tmp_path)] == [3]
