"""Batched decoding with a transformers language model: shared prompt prefill, KV cache, finished rows dropped."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import Cache, PreTrainedModel

Sampler = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

DROP_FRACTION = 0.1
"""Finished rows are dropped once they are this part of the running ones: dropping copies the KV cache of the others."""

ACCELERATOR_CHECK_INTERVAL = 16
"""Decoding steps between two looks at which rows have finished on an accelerator: each look waits for the device."""


class Responses(NamedTuple):
    """What was generated, one row per prompt row.

    Attributes:
        token_ids: (rows, response_length) int64, padded on the right after the end of sequence.
        log_probs: (rows, response_length) float32 log-probability of each token as the sampler reports it, 0 on
            padding.
    """

    token_ids: torch.Tensor
    log_probs: torch.Tensor


class DistinctPrompts(NamedTuple):
    """The different prompts of a batch.

    Attributes:
        token_ids: (prompts, width) int64, left-padded to the longest prompt.
        attention_mask: (prompts, width) int64, 0 on padding.
        index_of_row: (rows,) int64, which of the prompts each row of the batch holds.
    """

    token_ids: torch.Tensor
    attention_mask: torch.Tensor
    index_of_row: torch.Tensor


def find_distinct_prompts(input_ids: torch.Tensor, attention_mask: torch.Tensor, pad_token_id: int) -> DistinctPrompts:
    """The different prompts among ``input_ids`` (rows, prompt_length), left-padded; what padding holds does not matter.

    Raises:
        ValueError: a row is empty or padded on the right.

    >>> ids, mask = torch.tensor([[0, 7, 8], [0, 0, 9], [5, 7, 8]]), torch.tensor([[0, 1, 1], [0, 0, 1], [0, 1, 1]])
    >>> prompts = find_distinct_prompts(ids, mask, pad_token_id=0)
    >>> prompts.token_ids.tolist(), prompts.index_of_row.tolist()
    ([[0, 9], [7, 8]], [1, 0, 1])
    """
    if not bool((attention_mask[:, -1] == 1).all()):
        raise ValueError(
            "every prompt must be left-padded and hold a token: the attention mask ends with a 0 in some row"
        )
    width = int(attention_mask.sum(dim=-1).max())
    padding = -1
    tagged = input_ids[:, -width:].masked_fill(attention_mask[:, -width:] == 0, padding)
    distinct, index_of_row = torch.unique(tagged, dim=0, return_inverse=True)
    is_token = distinct != padding
    return DistinctPrompts(distinct.masked_fill(~is_token, pad_token_id), is_token.long(), index_of_row)


def pack_prompts(rows_per_prompt: Sequence[int], max_rows: int) -> Iterator[range]:
    """Split prompts into runs of at most ``max_rows`` rows together; a prompt with more rows is a run of its own.

    >>> [list(run) for run in pack_prompts([3, 2, 9, 1, 1], max_rows=5)]
    [[0, 1], [2], [3, 4]]
    """
    start, rows = 0, 0
    for prompt, count in enumerate(rows_per_prompt):
        if rows and rows + count > max_rows:
            yield range(start, prompt)
            start, rows = prompt, 0
        rows += count
    yield range(start, len(rows_per_prompt))


@dataclass
class _RunningRows:
    """The rows still being decoded; every field is indexed by running row."""

    output_rows: torch.Tensor
    logits: torch.Tensor
    cache: Cache
    attention_mask: torch.Tensor
    next_positions: torch.Tensor
    is_finished: torch.Tensor

    def keep(self, indices: torch.Tensor) -> None:
        """Drop every row but those at ``indices``; ``logits`` are of the step before and are not kept."""
        self.output_rows = self.output_rows[indices]
        self.cache.batch_select_indices(indices)
        self.attention_mask = self.attention_mask[indices]
        self.next_positions = self.next_positions[indices]
        self.is_finished = self.is_finished[indices]


class Decoder:
    """Generates one response per prompt row with a causal language model.

    Args:
        model: a transformers causal language model in eval mode, unsharded.
        sampler: maps logits (rows, vocabulary) to tokens (rows,) and log-probabilities (rows,).
        eos_token_ids: each of these tokens ends a response; empty means that nothing does.
        pad_token_id: fills a response after its end.
        response_length: tokens of a response at most.
        max_rows: rows decoded at once at most.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sampler: Sampler,
        *,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
        response_length: int,
        max_rows: int,
    ) -> None:
        if response_length < 1:
            raise ValueError(f"response_length is {response_length}; it must be at least 1")
        if max_rows < 1:
            raise ValueError(f"the micro-batch size of the rollout is {max_rows}; it must be at least 1")
        self._model = model
        self._sampler = sampler
        self._eos_token_ids = list(eos_token_ids)
        self._pad_token_id = pad_token_id
        self._response_length = response_length
        self._max_rows = max_rows
        forward_parameters = inspect.signature(model.forward).parameters
        self._last_logits_only = {"logits_to_keep": 1} if "logits_to_keep" in forward_parameters else {}

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Responses:
        """Generate for left-padded prompts (rows, prompt_length); each distinct prompt is prefilled once.

        Raises:
            ValueError: a prompt is empty or not left-padded.
            FloatingPointError: the model's logits are not finite.
        """
        prompts = find_distinct_prompts(input_ids, attention_mask, self._pad_token_id)
        responses = self._empty_responses(len(input_ids), input_ids.device)
        rows_by_prompt = prompts.index_of_row.argsort(stable=True)
        rows_per_prompt = prompts.index_of_row.bincount().tolist()
        first_row = 0
        for run in pack_prompts(rows_per_prompt, self._max_rows):
            row_count = sum(rows_per_prompt[run.start : run.stop])
            rows = rows_by_prompt[first_row : first_row + row_count]
            self._generate_run(prompts, run, rows, responses)
            first_row += row_count
        _check_finite(responses.log_probs)
        return responses

    def _empty_responses(self, rows: int, device: torch.device) -> Responses:
        shape = (rows, self._response_length)
        return Responses(
            torch.full(shape, self._pad_token_id, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=torch.float32, device=device),
        )

    def _generate_run(self, prompts: DistinctPrompts, run: range, rows: torch.Tensor, responses: Responses) -> None:
        attention_mask = prompts.attention_mask[run.start : run.stop]
        logits, cache = self._prefill(prompts.token_ids[run.start : run.stop], attention_mask)
        parts = rows.split(self._max_rows)
        for part in parts:
            index = prompts.index_of_row[part] - run.start
            # Only a single prompt with many rows comes in several parts, so the copied cache is that of one row.
            part_cache = cache if len(parts) == 1 else copy.deepcopy(cache)
            part_cache.batch_select_indices(index)
            self._decode(
                _RunningRows(
                    output_rows=part,
                    logits=logits[index],
                    cache=part_cache,
                    attention_mask=self._extended_mask(attention_mask[index]),
                    next_positions=attention_mask[index].sum(dim=-1),
                    is_finished=torch.zeros(len(part), dtype=torch.bool, device=part.device),
                ),
                responses,
            )

    def _extended_mask(self, attention_mask: torch.Tensor) -> torch.Tensor:
        """The prompt's mask followed by ones for the response."""
        return torch.nn.functional.pad(attention_mask, (0, self._response_length), value=1)

    def _prefill(self, token_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, Cache]:
        position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        return self._forward(token_ids, attention_mask, position_ids, cache=None)

    def _decode(self, running: _RunningRows, responses: Responses) -> None:
        """Sample a token for every running row, write it to ``responses``, feed it back; until all rows have ended."""
        eos_token_ids = torch.tensor(self._eos_token_ids, dtype=torch.int64, device=running.output_rows.device)
        prompt_width = running.cache.get_seq_length()
        for step in range(self._response_length):
            tokens, log_probs = self._sampler(running.logits)
            tokens = tokens.masked_fill(running.is_finished, self._pad_token_id)
            responses.token_ids[running.output_rows, step] = tokens
            responses.log_probs[running.output_rows, step] = log_probs.masked_fill(running.is_finished, 0.0)
            running.is_finished |= torch.isin(tokens, eos_token_ids)
            if step + 1 == self._response_length:
                return
            if self._looks_at_finished(step, tokens.device):
                kept = (~running.is_finished).nonzero().squeeze(-1)
                if len(kept) == 0:
                    return
                if len(kept) <= (1 - DROP_FRACTION) * len(tokens):
                    running.keep(kept)
                    tokens = tokens[kept]
            running.logits, running.cache = self._forward(
                tokens.unsqueeze(-1),
                running.attention_mask[:, : prompt_width + step + 1],
                running.next_positions.unsqueeze(-1),
                running.cache,
            )
            running.next_positions += 1

    @staticmethod
    def _looks_at_finished(step: int, device: torch.device) -> bool:
        return device.type == "cpu" or (step + 1) % ACCELERATOR_CHECK_INTERVAL == 0

    def _forward(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, cache: Cache | None
    ) -> tuple[torch.Tensor, Cache]:
        """Logits (rows, vocabulary) after the last of ``token_ids`` and the cache with all of them."""
        output = self._model(
            input_ids=token_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            **self._last_logits_only,
        )
        if output.logits is None:
            raise ValueError(
                f"{type(self._model).__name__} returned no logits: verl's fused kernels replace them by log-probs; "
                "set actor_rollout_ref.model.use_fused_kernels=False to use rollout.name=hf"
            )
        return output.logits[:, -1], output.past_key_values


def _check_finite(log_probs: torch.Tensor) -> None:
    bad_rows = (~log_probs.isfinite()).any(dim=-1)
    if bool(bad_rows.any()):
        raise FloatingPointError(
            f"the model's logits are not finite for {int(bad_rows.sum())} of {len(log_probs)} rows; "
            "the weights have probably diverged: resume from an earlier checkpoint with a lower learning rate"
        )
