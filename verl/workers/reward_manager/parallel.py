"""The reward manager ``prime``: scores the rows of a batch in parallel processes, and does not hide what fails there.

Upstream's turns each failure into a reward of 0: exceptions, time-outs, unknown data sources, dictionaries, and every
function that comes from a file, because the processes cannot find it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch

from verl import DataProto
from verl.workers.reward_manager.prime import PrimeRewardManager as UpstreamPrimeRewardManager
from verl.workers.reward_manager.reward_checks import (
    KeysOfRewards,
    number,
    raised,
    reward_error,
    reward_problem,
)

__all__ = ["PrimeRewardManager"]

logger = logging.getLogger(__name__)

MOST_PROCESSES = 64
TIME_LIMIT = 300.0

_ENDED = "ended its process, for this row or for one scored beside it (by a crash, or for want of memory?)"

_score: Callable[..., Any] | None = None
"""In a scoring process: the function that scores."""


@dataclass(frozen=True)
class _Outcome:
    """What a call came to: a reward, or a problem and where it arose."""

    reward: Any = None
    problem: str | None = None
    traceback: str | None = None

    def cause(self) -> RuntimeError | None:
        return None if self.traceback is None else RuntimeError(f"in a scoring process:\n{self.traceback}")


class PrimeRewardManager(UpstreamPrimeRewardManager):
    """Scores each row of a batch in one of several processes and puts the score on the last token of its response.

    Choose it by ``reward_model.reward_manager=prime``; ``reward_model.reward_kwargs`` sets ``num_processes`` and
    ``time_limit``.

    Args:
        tokenizer: decodes the responses.
        num_examine: how many rows of each data source are logged (level INFO) per batch.
        compute_score: called with (data source, response, ground truth, extra info); returns a number, a sequence
            that begins with one, or a dictionary with the key ``score``. Default: verl's default.
        reward_fn_key: the column that holds the data source.
        num_processes: processes at most. Default: the machine's CPUs, 64 at most.
        time_limit: seconds in which at least one of the running calls has to return.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_examine: int,
        compute_score: Callable[..., Any] | None = None,
        reward_fn_key: str = "data_source",
        num_processes: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        super().__init__(tokenizer, num_examine, compute_score, reward_fn_key)
        self.num_processes = num_processes or min(os.cpu_count() or 1, MOST_PROCESSES)
        self.time_limit = time_limit

    def verify(self, data: DataProto) -> list[float]:
        """Return the scores of all rows; they are also the tensor ``acc`` of ``data``, as upstream's.

        Raises:
            RewardError: as `__call__`.
        """
        return self._scores(data, self._rewards(data))

    def __call__(self, data: DataProto, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
        """Score ``data``.

        Args:
            data: (N, response length) ``responses``, with ``attention_mask`` over prompts and responses, and the
                columns ``reward_model`` (``ground_truth``), ``extra_info`` and ``reward_fn_key``.
            return_dict: whether to return ``reward_tensor`` and ``reward_extra_info`` in a dictionary.

        Returns:
            The (N, response length) float32 reward tensor, zero but for the last token of each response. The extra
            information holds a list of N values per key of the function's dictionaries.

        Raises:
            RewardError: the function raised, its process ended, it took too long, or it returned what is no reward.
        """
        if "rm_scores" in data.batch.keys():
            scores = data.batch["rm_scores"]
            return {"reward_tensor": scores, "reward_extra_info": {}} if return_dict else scores
        rewards = self._rewards(data)
        scores = self._scores(data, rewards)
        responses = data.batch["responses"]
        lengths = data.batch["attention_mask"][:, data.batch["prompts"].shape[-1] :].sum(dim=-1)
        tensor = torch.zeros_like(responses, dtype=torch.float32)
        tensor[torch.arange(len(data)), (lengths - 1).clamp(min=0)] = torch.tensor(scores, dtype=torch.float32)
        if not return_dict:
            return tensor
        keys = list(rewards[0]) if isinstance(rewards[0], dict) else []
        return {"reward_tensor": tensor, "reward_extra_info": {key: [row[key] for row in rewards] for key in keys}}

    def _scores(self, data: DataProto, rewards: list[Any]) -> list[float]:
        scores = [number(reward["score"] if isinstance(reward, dict) else reward) for reward in rewards]
        data.batch["acc"] = torch.tensor(scores, dtype=torch.float32, device=data.batch["prompts"].device)
        return scores

    def _rewards(self, data: DataProto) -> list[Any]:
        """Return the reward of each row, a number or a dictionary."""
        columns = data.non_tensor_batch
        responses = self.tokenizer.batch_decode(data.batch["responses"], skip_special_tokens=True)
        truths = [row["ground_truth"] for row in columns["reward_model"]]
        extra_infos = columns.get("extra_info", [None] * len(data))
        calls = list(zip(columns[self.reward_fn_key], responses, truths, extra_infos, strict=True))
        keys = KeysOfRewards()
        rewards = []
        for row, reward in enumerate(self._call_in_processes(calls, data)):
            problem = keys.problem(reward)
            if problem is not None:
                raise reward_error(problem, data, row)
            rewards.append(reward)
        self._log_examples(calls, rewards)
        return rewards

    def _call_in_processes(self, calls: list[tuple[Any, ...]], data: DataProto) -> list[Any]:
        executor = ProcessPoolExecutor(
            max_workers=min(self.num_processes, len(calls)),
            mp_context=multiprocessing.get_context("fork"),  # the function need not be sent, nor libraries imported
            initializer=_keep_function,
            initargs=(self.compute_score,),
        )
        futures = [executor.submit(_call, call) for call in calls]
        processes = list(executor._processes.values())
        try:
            return self._wait_for(futures, data)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        finally:
            executor.shutdown(cancel_futures=True)

    def _wait_for(self, futures: list[Future], data: DataProto) -> list[Any]:
        """Return all results; raise what went wrong first, naming the row that it went wrong for."""
        finished: SimpleQueue[int] = SimpleQueue()
        for row, future in enumerate(futures):
            future.add_done_callback(lambda _, row=row: finished.put(row))
        for _ in futures:
            try:
                row = finished.get(timeout=self.time_limit)
            except Empty:  # calls start in their order: the first that has not returned is running
                row = next(row for row, future in enumerate(futures) if not future.done())
                limit = f"{self.time_limit:g} s (reward_model.reward_kwargs.time_limit)"
                raise reward_error(f"did not return within {limit}", data, row) from None
            error = futures[row].exception()
            if isinstance(error, BrokenProcessPool):
                raise reward_error(_ENDED, data, row) from error
            if error is not None:  # the reward cannot be sent from process to process
                raise reward_error(raised(error), data, row) from error
            outcome = futures[row].result()
            if outcome.problem is not None:
                raise reward_error(outcome.problem, data, row) from outcome.cause()
        return [future.result().reward for future in futures]

    def _log_examples(self, calls: list[tuple[Any, ...]], rewards: list[Any]) -> None:
        logged: dict[str, int] = {}
        for (source, response, truth, _), reward in zip(calls, rewards, strict=True):
            if logged.get(source, 0) < self.num_examine:
                logged[source] = logged.get(source, 0) + 1
                logger.info("[response] %s\n[truth] %s\n[reward] %s", response, truth, reward)


def _keep_function(compute_score: Callable[..., Any]) -> None:
    global _score
    _score = compute_score


def _call(call: tuple[Any, ...]) -> _Outcome:
    try:
        reward = _score(*call)
    except (Exception, SystemExit) as error:
        # As text: an exception of any class need not survive the way to another process.
        return _Outcome(problem=raised(error), traceback=traceback.format_exc())
    reward = reward[0] if isinstance(reward, list | tuple) and reward else reward
    problem = reward_problem(reward)
    return _Outcome(reward=reward if problem is None else None, problem=problem)
