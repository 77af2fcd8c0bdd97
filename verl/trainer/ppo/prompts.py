"""Batches of prompts: who they are, what of them the engine gets, and how they are expanded to rollouts."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDict

from knapsack_rl.identity import prompt_id
from verl import DataProto

__all__ = ["group_names", "identify", "place_of_group", "split_generation_inputs", "take_rows"]

_GENERATION_TENSORS = ["input_ids", "attention_mask", "position_ids"]
_GENERATION_COLUMNS = [
    "raw_prompt_ids",
    "multi_modal_data",
    "raw_prompt",
    "tools_kwargs",
    "interaction_kwargs",
    "index",
    "agent_name",
]


def identify(batch: DataProto) -> list[str]:
    """Identify each prompt by its content: data source, messages and media; by its tokens without messages."""
    columns = batch.non_tensor_batch
    sources = columns.get("data_source", np.full(len(batch), ""))
    contents = columns.get("raw_prompt", columns["raw_prompt_ids"])
    media = columns.get("multi_modal_data", [None] * len(batch))
    return [prompt_id(str(source), content, media=shown) for source, content, shown in zip(sources, contents, media)]


def group_names(step: int, generation: int, num_prompts: int) -> np.ndarray:
    """(M,) object, verl's ``uid`` of each prompt of a generated batch: equal for the rollouts of a group only."""
    return np.array([f"{step}-{generation}-{prompt}" for prompt in range(num_prompts)], dtype=object)


def place_of_group(uid: str) -> tuple[int, int]:
    """The generation and the prompt in it that `group_names` named.

    Example:
        >>> place_of_group(group_names(step=7, generation=1, num_prompts=3)[2])
        (1, 2)
    """
    _, generation, prompt = uid.split("-")
    return int(generation), int(prompt)


def split_generation_inputs(batch: DataProto) -> DataProto:
    """Take out of ``batch`` what the rollout engine gets, and return it."""
    present = [column for column in _GENERATION_COLUMNS if column in batch.non_tensor_batch]
    return batch.pop(batch_keys=list(_GENERATION_TENSORS), non_tensor_batch_keys=present)


def take_rows(batch: DataProto, rows: np.ndarray) -> DataProto:
    """Return the rows of ``batch`` with the given indices, (B,) int64, repeats allowed, in that order.

    As ``DataProto.select_idxs``, which takes twice as long when rows repeat.
    """
    indices = torch.from_numpy(rows)
    tensors = {name: tensor.index_select(0, indices) for name, tensor in batch.batch.items()}
    return DataProto(
        batch=TensorDict(tensors, batch_size=(len(rows),)),
        non_tensor_batch={name: column[rows] for name, column in batch.non_tensor_batch.items()},
        meta_info=batch.meta_info,
    )
