"""The reward manager ``math_verify``: scores a batch at once, its mathematics in parallel processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from verl import DataProto
from verl.utils.reward_score import default_compute_score, math_reward
from verl.utils.reward_score.verifier_pool import TIME_LIMIT, shared_verifier_pool
from verl.workers.reward_manager.registry import register

logger = logging.getLogger(__name__)

Result = dict[str, Any]


@register("math_verify")
class MathVerifyRewardManager:
    """Scores a batch of responses and puts each score on the last token of its response.

    Rows of the data sources in :mod:`verl.utils.reward_score.math_reward` are verified together. All other rows go
    one by one to ``compute_score``, and so do all rows when ``compute_score`` is the user's own function. Choose it by
    ``reward_model.reward_manager=math_verify``; ``reward_model.reward_kwargs`` sets ``num_workers`` and ``time_limit``.

    Args:
        tokenizer: decodes the responses.
        num_examine: how many rows of each data source are logged (level INFO) per batch.
        compute_score: scores one response, called with ``data_source``, ``solution_str``, ``ground_truth``,
            ``extra_info``; returns a number or a dictionary with the key ``score``. Default: verl's default.
        reward_fn_key: the column that holds the data source.
        num_workers: processes that run math-verify. Default: the CPUs available, 16 at most.
        time_limit: seconds for one verification; a response that takes longer scores 0.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_examine: int,
        compute_score: Callable[..., float | Result] | None = None,
        reward_fn_key: str = "data_source",
        num_workers: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self.tokenizer = tokenizer
        self.num_examine = num_examine
        self.compute_score = compute_score or default_compute_score
        self.reward_fn_key = reward_fn_key
        self.num_workers = num_workers
        self.time_limit = time_limit

    def __call__(self, data: DataProto, return_dict: bool = False) -> torch.Tensor | dict[str, Any]:
        """Score ``data``.

        Args:
            data: (N, response length) ``responses``, with ``attention_mask`` over prompts and responses, and the
                columns ``reward_model`` (``ground_truth``), ``extra_info`` and ``reward_fn_key``.
            return_dict: whether to return ``reward_tensor`` and ``reward_extra_info`` in a dictionary.

        Returns:
            The (N, response length) float32 reward tensor, zero but for the last token of each response. The extra
            information holds a list of N values per key; ``score``, ``acc`` and ``pred`` are always there.
        """
        if "rm_scores" in data.batch.keys():
            rewards = data.batch["rm_scores"]
            return {"reward_tensor": rewards} if return_dict else rewards
        lengths = _response_lengths(data)
        responses = self._decode(data, lengths)
        results = self._score(data, responses)
        self._log_examples(data, responses, results)
        rewards = _rewards_on_last_tokens(data.batch["responses"], lengths, [result["score"] for result in results])
        return {"reward_tensor": rewards, "reward_extra_info": _columns(results)} if return_dict else rewards

    def _decode(self, data: DataProto, lengths: list[int]) -> list[str]:
        rows = data.batch["responses"].tolist()
        return self.tokenizer.batch_decode(
            [row[:length] for row, length in zip(rows, lengths, strict=True)], skip_special_tokens=True
        )

    def _score(self, data: DataProto, responses: list[str]) -> list[Result]:
        sources = [str(source) for source in data.non_tensor_batch[self.reward_fn_key]]
        ground_truths = [row["ground_truth"] for row in data.non_tensor_batch["reward_model"]]
        extra_infos = data.non_tensor_batch.get("extra_info", [None] * len(data))
        together = self._rows_verified_together(sources)
        results: list[Result] = [{}] * len(data)
        for row in set(range(len(data))) - set(together):
            result = self.compute_score(
                data_source=sources[row],
                solution_str=responses[row],
                ground_truth=ground_truths[row],
                extra_info=extra_infos[row],
            )
            results[row] = _with_standard_keys(result)
        if together:
            pool = shared_verifier_pool(self.num_workers, self.time_limit)
            columns = (_take(column, together) for column in (sources, responses, ground_truths))
            for row, score in zip(together, math_reward.compute_scores(*columns, pool=pool), strict=True):
                results[row] = dict(score)
        return results

    def _rows_verified_together(self, sources: list[str]) -> list[int]:
        function = self.compute_score.func if isinstance(self.compute_score, partial) else self.compute_score
        if function is not default_compute_score:
            return []
        return [row for row, source in enumerate(sources) if math_reward.is_supported(source)]

    def _log_examples(self, data: DataProto, responses: list[str], results: list[Result]) -> None:
        logged: dict[str, int] = {}
        for row, source in enumerate(data.non_tensor_batch[self.reward_fn_key] if self.num_examine else ()):
            if logged.get(source, 0) >= self.num_examine:
                continue
            logged[source] = logged.get(source, 0) + 1
            prompt = self.tokenizer.decode(data.batch["prompts"][row], skip_special_tokens=True)
            truth = data.non_tensor_batch["reward_model"][row]["ground_truth"]
            logger.info("[prompt] %s\n[response] %s\n[truth] %s\n%s", prompt, responses[row], truth, results[row])


def _response_lengths(data: DataProto) -> list[int]:
    prompt_length = data.batch["attention_mask"].shape[-1] - data.batch["responses"].shape[-1]
    return data.batch["attention_mask"][:, prompt_length:].sum(dim=-1).tolist()


def _rewards_on_last_tokens(responses: torch.Tensor, lengths: list[int], scores: list[float]) -> torch.Tensor:
    rewards = torch.zeros_like(responses, dtype=torch.float32)
    last_tokens = torch.tensor(lengths, device=responses.device).sub(1).clamp(min=0)
    rewards[torch.arange(len(lengths)), last_tokens] = torch.tensor(scores, dtype=torch.float32, device=rewards.device)
    return rewards


def _with_standard_keys(result: float | Result) -> Result:
    scored = dict(result) if isinstance(result, dict) else {"score": float(result)}
    return {"acc": scored["score"], "pred": "", **scored}


def _columns(results: list[Result]) -> dict[str, list[Any]]:
    """One list per key, each as long as the batch; a row without a key has "" or NaN, after the kind of the others."""
    keys = dict.fromkeys(key for result in results for key in result)
    return {key: _column(key, results) for key in keys}


def _column(key: str, results: list[Result]) -> list[Any]:
    example = next(result[key] for result in results if key in result)
    missing = "" if isinstance(example, str) else float("nan")
    return [result.get(key, missing) for result in results]


def _take(column: Sequence[Any], rows: list[int]) -> list[Any]:
    return [column[row] for row in rows]
