"""Overlay of ``verl.trainer.ppo.reward``: a reward that fails stops the run and says which prompt it failed on.

Upstream prints the exception and calls the reward function again; a NaN goes on into the advantages. And a reward
function from a file (``custom_reward_function.path``) can be called in a Ray task, where upstream's is not found.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import ray
import torch
from omegaconf import DictConfig
from ray import cloudpickle

from verl import DataProto
from verl.upstream.trainer.ppo.reward import get_custom_reward_fn
from verl.upstream.trainer.ppo.reward import load_reward_manager as load_upstream_reward_manager

__all__ = ["RewardError", "compute_reward", "compute_reward_async", "get_custom_reward_fn", "load_reward_manager"]


class RewardError(RuntimeError):
    """The reward function raised, or returned something that is no finite number; the message names the prompt."""


# Upstream imports the file of a reward function under this name.
_CUSTOM_MODULE = "custom_module"


def load_reward_manager(config: DictConfig, tokenizer: Any, num_examine: int, **reward_kwargs: Any) -> Any:
    """Return upstream's reward manager for ``config``; it can be sent to any process of the Ray cluster.

    Raises:
        FileNotFoundError, AttributeError, RuntimeError: the reward function's file cannot be imported or lacks it.
    """
    reward_manager = load_upstream_reward_manager(config, tokenizer, num_examine, **reward_kwargs)
    if _CUSTOM_MODULE in sys.modules:
        # Other processes have no such module: the function goes to them as it is, not by its name.
        cloudpickle.register_pickle_by_value(sys.modules[_CUSTOM_MODULE])
    return reward_manager


def _describe_row(data: DataProto, row: int) -> str:
    columns = data.non_tensor_batch
    reward_model = columns["reward_model"][row] if "reward_model" in columns else {}
    shown = {
        "data_source": columns["data_source"][row] if "data_source" in columns else None,
        "ground_truth": reward_model.get("ground_truth") if isinstance(reward_model, dict) else None,
        "extra_info": columns["extra_info"][row] if "extra_info" in columns else None,
        "prompt_id": columns["prompt_id"][row] if "prompt_id" in columns else None,
    }
    return ", ".join(f"{key}={value!r}" for key, value in shown.items() if value is not None)


def _find_failing_row(data: DataProto, reward_fn: Any) -> int | None:
    for row in range(len(data)):
        try:
            reward_fn(data.select_idxs(np.array([row])), return_dict=True)
        except Exception:
            return row
    return None


def compute_reward(data: DataProto, reward_fn: Any) -> tuple[torch.Tensor, dict[str, list]]:
    """Return the token-level rewards, (B, response_length) float, and the reward function's further columns.

    Raises:
        RewardError: the reward function raised or returned NaN or an infinity; the message names the prompt.
    """
    try:
        result = reward_fn(data, return_dict=True)
    except Exception as error:
        row = _find_failing_row(data, reward_fn)
        where = "on the batch as a whole" if row is None else f"for the prompt with {_describe_row(data, row)}"
        raise RewardError(f"The reward function raised {type(error).__name__}: {error} {where}.") from error
    scores = result["reward_tensor"]
    bad_rows = torch.nonzero(~torch.isfinite(scores).all(dim=-1)).flatten().tolist()
    if bad_rows:
        raise RewardError(
            f"The reward function returned {scores[bad_rows[0]].sum().item()} for the prompt with "
            f"{_describe_row(data, bad_rows[0])} ({len(bad_rows)} of {len(data)} rollouts); expected a finite number."
        )
    return scores, result.get("reward_extra_info", {})


@ray.remote(num_cpus=1)
def compute_reward_async(
    data: DataProto, config: Any = None, tokenizer: Any = None, reward_fn: Any = None
) -> tuple[torch.Tensor, dict[str, list]]:
    """:func:`compute_reward` in a Ray task, beside the log-prob pass."""
    if reward_fn is None:
        reward_fn = load_reward_manager(
            config, tokenizer, num_examine=0, **config.reward_model.get("reward_kwargs", {})
        )
    return compute_reward(data, reward_fn)
