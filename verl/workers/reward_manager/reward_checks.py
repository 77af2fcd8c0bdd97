"""What a reward has to be, checked when it arrives: a failure names its prompt instead of becoming a reward of 0.

A reward is a number, or a dictionary with the key ``score`` whose further keys become columns of the batch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import torch

from verl import DataProto

__all__ = [
    "TRAINER_COLUMNS",
    "CheckedBatchScores",
    "CheckedScores",
    "KeysOfRewards",
    "RewardError",
    "ScoreError",
    "column_problem",
    "describe_row",
    "find_row",
    "number",
    "plain",
    "raised",
    "reward_error",
    "reward_problem",
    "row_of",
]

TRAINER_COLUMNS = ("uid", "prompt_index", "prompt_id", "reward")
"""Columns that the trainer makes itself: which rows belong together, and in validation what each earned."""


class RewardError(RuntimeError):
    """The reward function raised, or returned what is no reward; the message names the prompt."""


class ScoreError(Exception):
    """What is wrong with one call of a scoring function; ``call`` holds the row's part of its arguments."""

    def __init__(self, problem: str, call: Mapping[str, Any] | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.call = call or {}  # the default lets it be unpickled


def describe_row(data: DataProto, row: int) -> str:
    """Name the prompt of a row by what its data says of it."""
    columns = data.non_tensor_batch
    reward_model = columns["reward_model"][row] if "reward_model" in columns else {}
    shown = {
        "data_source": columns["data_source"][row] if "data_source" in columns else None,
        "ground_truth": reward_model.get("ground_truth") if isinstance(reward_model, dict) else None,
        "extra_info": columns["extra_info"][row] if "extra_info" in columns else None,
        "prompt_id": columns["prompt_id"][row] if "prompt_id" in columns else None,
    }
    return ", ".join(f"{key}={value!r}" for key, value in shown.items() if value is not None)


def reward_error(problem: str, data: DataProto, row: int | None) -> RewardError:
    """Return the error that says what the reward function did and for which prompt; None is the batch as a whole.

    What ``problem`` says to be expected (after "; expected") comes last.
    """
    where = "on the batch as a whole" if row is None else f"for the prompt with {describe_row(data, row)}"
    what, expects, expected = problem.partition("; expected")
    return RewardError(f"The reward function {what} {where}{expects}{expected}.")


def number(value: Any) -> float | None:
    """Return ``value`` as a float: a number, a truth value, or a NumPy or torch scalar of either; else None.

    Example:
        >>> number(np.float32(0.5)), number(True), number("0.5"), number(None)
        (0.5, 1.0, None, None)
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        value = value.item() if math.prod(value.shape) == 1 else None
    return float(value) if isinstance(value, Real) else None


def plain(value: Any) -> Any:
    """Return ``value`` as JSON can hold it: NumPy's and torch's as Python's own, unknown objects as their text.

    Example:
        >>> plain({"right": np.bool_(True), "parts": np.array([1, 2])})
        {'right': True, 'parts': [1, 2]}
    """
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return float(value) if isinstance(value, Real) else str(value)


def column_problem(key: str, value: Any) -> str | None:
    """Say what is wrong with a row's value in a reward function's column, or return None."""
    if key in TRAINER_COLUMNS:
        owned = ", ".join(TRAINER_COLUMNS)
        return f"returned the key {key!r}, which the trainer owns; expected a name other than {owned}"
    if key == "acc":
        accuracy = number(value)
        if accuracy is None or not math.isfinite(accuracy):
            return f"returned acc={value!r}; expected a finite number or a truth value, which says whether it succeeded"
    return None


def reward_problem(reward: Any) -> str | None:
    """Say what is wrong with one row's reward, or return None."""
    if inspect.isawaitable(reward):
        if inspect.iscoroutine(reward):
            reward.close()
        return (
            "is asynchronous: it returned a coroutine that is never awaited; expected a plain function that "
            "returns the score (it may call asyncio.run)"
        )
    columns = reward if isinstance(reward, Mapping) else {"score": reward}
    if "score" not in columns:
        return f"returned a dictionary without the key 'score'; expected it beside {_listed(columns) or 'any others'}"
    score = number(columns["score"])
    if score is None or not math.isfinite(score):
        return f"returned {_shortened(columns['score'])}; expected a finite number"
    return next(filter(None, (column_problem(key, value) for key, value in columns.items())), None)


class KeysOfRewards:
    """The keys of the rewards seen so far, which all have to be the same: each becomes a column of the batch."""

    def __init__(self) -> None:
        self._keys: frozenset[str] | None = None

    def problem(self, reward: Any) -> str | None:
        """Say in which keys ``reward`` differs from the first one, or return None."""
        keys = frozenset(reward) if isinstance(reward, Mapping) else frozenset()
        self._keys = keys if self._keys is None else self._keys
        if keys == self._keys:
            return None
        return (
            f"returned {_kind(keys)}, and {_kind(self._keys)} for rows before it; expected the same keys for every row"
        )


class CheckedScores(partial):
    """A scoring function for single rows, called as verl calls it; raises `ScoreError` for what is no reward.

    ``keys_so_far`` holds the keys of the rewards so far; None accepts differing keys.
    """

    keys_so_far: KeysOfRewards | None = None

    def __call__(self, *args: Any, **call: Any) -> Any:
        try:
            reward = super().__call__(*args, **call)
        except (Exception, SystemExit) as error:
            raise ScoreError(raised(error), call) from error
        problem = reward_problem(reward) or (self.keys_so_far.problem(reward) if self.keys_so_far else None)
        if problem is not None:
            raise ScoreError(problem, call)
        return _with_assignable_score(reward)


class CheckedBatchScores(partial):
    """A scoring function for whole batches, called as verl's batch manager calls it; as `CheckedScores`."""

    keys_so_far: KeysOfRewards | None = None

    def __call__(self, *args: Any, **call: Any) -> Any:
        rewards = super().__call__(*args, **call)
        problem = reward_problem(rewards) if inspect.isawaitable(rewards) else None
        if problem is None and not hasattr(rewards, "__len__"):
            problem = f"returned {_shortened(rewards)}; expected one reward for each response, in a list"
        if problem is None and len(rewards) != len(call["solution_strs"]):
            problem = f"returned {len(rewards)} rewards for {len(call['solution_strs'])} responses"
        if problem is not None:
            raise ScoreError(problem, {})
        for row, reward in enumerate(rewards):
            problem = reward_problem(reward) or (self.keys_so_far.problem(reward) if self.keys_so_far else None)
            if problem is not None:
                raise ScoreError(problem, {"row": row})
        return [_with_assignable_score(reward) for reward in rewards]


def _with_assignable_score(reward: Any) -> Any:
    """Return ``reward`` with a score of Python's: a torch tensor takes no ``np.float32``."""
    if isinstance(reward, Mapping):
        return {**reward, "score": _with_assignable_score(reward["score"])}
    return reward if isinstance(reward, int | float) else number(reward)


def raised(error: BaseException) -> str:
    """Say what a reward function raised."""
    return f"raised {type(error).__name__}: {error}"


def row_of(call: Mapping[str, Any], data: DataProto) -> int | None:
    """Return the row of ``data`` that a scoring function was called for, or None if it cannot be told."""
    if "row" in call:
        return call["row"]
    columns = data.non_tensor_batch
    for row in range(len(data)):
        same_info = "extra_info" not in columns or columns["extra_info"][row] is call.get("extra_info")
        truth = columns["reward_model"][row].get("ground_truth") if "reward_model" in columns else None
        if call and same_info and truth is call.get("ground_truth"):
            return row
    return None


def find_row(data: DataProto, fails: Callable[[DataProto], bool]) -> int | None:
    """Return the first row of ``data`` that ``fails`` alone, or None."""
    return next((row for row in range(len(data)) if fails(data.select_idxs(np.array([row])))), None)


def _kind(keys: frozenset[str]) -> str:
    return f"a dictionary with the keys {_listed(keys)}" if keys else "a plain number"


def _listed(keys: Any) -> str:
    return ", ".join(sorted(map(repr, keys)))


def _shortened(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
