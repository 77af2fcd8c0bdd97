"""Overlay of ``verl.trainer.ppo.reward``: a reward that fails stops the run and says which prompt it failed on.

Upstream prints the exception and calls the reward function again, or gives 0; a NaN goes on into the advantages; a key
that some rows lack ends the step later. And a reward function from a file (``custom_reward_function.path``) can be
called in a Ray task, where upstream's is not found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
import torch
from omegaconf import DictConfig
from ray import cloudpickle

from verl import DataProto
from verl.upstream import keep_upstream_names
from verl.upstream.trainer.ppo.reward import get_custom_reward_fn
from verl.upstream.trainer.ppo.reward import load_reward_manager as load_upstream_reward_manager
from verl.workers.reward_manager import (
    BatchRewardManager,
    DAPORewardManager,
    MathVerifyRewardManager,
    NaiveRewardManager,
)
from verl.workers.reward_manager.reward_checks import (
    TRAINER_COLUMNS,
    CheckedBatchScores,
    CheckedScores,
    KeysOfRewards,
    RewardError,
    ScoreError,
    column_problem,
    describe_row,
    find_row,
    number,
    plain,
    raised,
    reward_error,
    row_of,
)

__all__ = [
    "TRAINER_COLUMNS",
    "CheckedRewardManager",
    "RewardError",
    "add_rewards",
    "compute_reward",
    "compute_reward_async",
    "get_custom_reward_fn",
    "load_reward_manager",
]

# Upstream imports the file of a reward function under this name.
_CUSTOM_MODULE = "custom_module"


def load_reward_manager(
    config: DictConfig, tokenizer: Any, num_examine: int, **reward_kwargs: Any
) -> CheckedRewardManager:
    """Return upstream's reward manager for ``config``, checked; it can be sent to any process of the Ray cluster.

    Raises:
        FileNotFoundError, AttributeError, RuntimeError: the reward function's file cannot be imported or lacks it.
    """
    reward_manager = load_upstream_reward_manager(config, tokenizer, num_examine, **reward_kwargs)
    if _CUSTOM_MODULE in sys.modules:
        # Other processes have no such module: the function goes to them as it is, not by its name.
        cloudpickle.register_pickle_by_value(sys.modules[_CUSTOM_MODULE])
    return CheckedRewardManager(reward_manager)


class CheckedRewardManager:
    """A reward manager whose rewards are checked when they arrive, those of training and of validation alike.

    It has the attributes of the manager that it calls. The columns that it returns hold Python's own values.

    Args:
        reward_manager: called with (data, return_dict=True); returns the token-level rewards, (B, response length), in
            a dictionary with the key ``reward_tensor``, and a list of B values per column in ``reward_extra_info``.
    """

    def __init__(self, reward_manager: Callable[..., Any]) -> None:
        self.reward_manager = reward_manager
        self._column_names: set[str] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "reward_manager":  # not there yet, while this is unpickled
            raise AttributeError(name)
        return getattr(self.reward_manager, name)

    def __call__(self, data: DataProto, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
        """Return the rewards of ``data``, with the columns in a dictionary if ``return_dict``, as upstream's managers.

        Raises:
            RewardError: as `compute_reward`.
        """
        scores, columns = self.compute(data)
        return {"reward_tensor": scores, "reward_extra_info": columns} if return_dict else scores

    def compute(self, data: DataProto) -> tuple[torch.Tensor, dict[str, list[Any]]]:
        """Do as `compute_reward`, which is for any manager."""
        result = self._call_manager(data)
        if isinstance(result, torch.Tensor):
            result = {"reward_tensor": result}
        columns = {key: list(values) for key, values in result.get("reward_extra_info", {}).items()}
        _check_scores(data, result["reward_tensor"])
        self._check_columns(data, columns)
        return result["reward_tensor"], {key: [plain(value) for value in column] for key, column in columns.items()}

    def _call_manager(self, data: DataProto) -> Any:
        try:
            with _checked_scoring(self.reward_manager):
                return self.reward_manager(data, return_dict=True)
        except RewardError:
            raise
        except ScoreError as error:
            raise reward_error(error.problem, data, row_of(error.call, data)) from error
        except (Exception, SystemExit) as error:
            raise reward_error(raised(error), data, find_row(data, self._fails)) from error

    def _fails(self, data: DataProto) -> bool:
        try:
            self.reward_manager(data, return_dict=True)
        except (Exception, SystemExit):
            return True
        return False

    def _check_columns(self, data: DataProto, columns: dict[str, list[Any]]) -> None:
        for key, values in columns.items():
            if len(values) != len(data):
                problem = f"returned the key {key!r} for {len(values)} of {len(data)} rollouts; expected it for each"
                raise reward_error(problem, data, find_row(data, lambda row, key=key: self._lacks(row, key)))
            for row, value in enumerate(values):
                problem = column_problem(key, value)
                if problem is not None:
                    raise reward_error(problem, data, row)
        if self._column_names is None:
            self._column_names = set(columns)
        if self._column_names != set(columns):
            expected, found = (", ".join(sorted(names)) or "no keys" for names in (self._column_names, columns))
            raise reward_error(f"returned {found}, and {expected} for an earlier batch; expected the same", data, 0)

    def _lacks(self, data: DataProto, key: str) -> bool:
        result = self.reward_manager(data, return_dict=True)
        return key not in result.get("reward_extra_info", {})


@contextmanager
def _checked_scoring(reward_manager: Any) -> Iterator[None]:
    """Within the context, verl's managers check each reward as soon as their scoring function returns it.

    They then know for which row it was called. (`PrimeRewardManager` checks by itself.)
    """
    kinds = {
        NaiveRewardManager: (CheckedScores, KeysOfRewards()),
        DAPORewardManager: (CheckedScores, KeysOfRewards()),
        MathVerifyRewardManager: (CheckedScores, None),  # fills in what rows lack
        BatchRewardManager: (CheckedBatchScores, KeysOfRewards()),
    }
    if type(reward_manager) not in kinds:
        yield
        return
    checked_class, keys = kinds[type(reward_manager)]
    checked = checked_class(reward_manager.compute_score)
    checked.keys_so_far = keys
    with patch.object(reward_manager, "compute_score", checked):
        yield


def _check_scores(data: DataProto, scores: torch.Tensor) -> None:
    if len(scores) != len(data):
        raise reward_error(f"returned rewards for {len(scores)} of {len(data)} rollouts", data, None)
    bad_rows = torch.nonzero(~torch.isfinite(scores).all(dim=-1)).flatten().tolist()
    if bad_rows:
        raise RewardError(
            f"The reward function returned {scores[bad_rows[0]].sum().item()} for the prompt with "
            f"{describe_row(data, bad_rows[0])} ({len(bad_rows)} of {len(data)} rollouts); expected a finite number."
        )


def compute_reward(data: DataProto, reward_fn: Callable[..., Any]) -> tuple[torch.Tensor, dict[str, list[Any]]]:
    """Return the token-level rewards, (B, response_length) float, and the reward function's further columns.

    Raises:
        RewardError: the reward function raised; returned no finite number, or different keys for different rows; named
            a column that the trainer owns (`TRAINER_COLUMNS`), or an ``acc`` that is no finite number. The message
            names the prompt.
    """
    checked = reward_fn if isinstance(reward_fn, CheckedRewardManager) else CheckedRewardManager(reward_fn)
    return checked.compute(data)


def add_rewards(batch: DataProto, scores: torch.Tensor, columns: Mapping[str, Sequence[Any]]) -> None:
    """Add what `compute_reward` returned to ``batch``.

    Adds the tensor ``token_level_scores`` and a column per key; ``meta_info["reward_columns"]`` holds their names, by
    which they are told from columns of the data.
    """
    batch.batch["token_level_scores"] = scores
    for name, values in columns.items():
        column = np.array(values) if all(number(value) is not None for value in values) else _objects(values)
        batch.non_tensor_batch[name] = column
    batch.meta_info["reward_columns"] = sorted(columns)


def _objects(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


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


keep_upstream_names(globals())
