"""Turning next-token logits into tokens: the sampling parameters of a rollout call and the sampler they define."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn.

    Attributes:
        temperature: logits are divided by it; 0 means greedy decoding.
        top_k: sample among the ``top_k`` likeliest tokens; 0 or below means all (vLLM writes -1, transformers 0).
        top_p: sample among the likeliest tokens whose probabilities add up to ``top_p``; 1 means all.

    Raises:
        ValueError: the temperature is negative, or ``top_p`` is not in (0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"rollout temperature is {self.temperature}; it must be 0 (greedy) or positive")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"rollout top_p is {self.top_p}; it must be in (0, 1], 1 samples among all tokens")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


def resolve_sampling_params(rollout_config: Any, meta_info: Mapping[str, Any]) -> SamplingParams:
    """The sampling parameters of one call to ``generate_sequences``.

    ``do_sample=False`` (in ``meta_info``, else in the config) is greedy. Otherwise a call with ``validate=True``
    samples by ``rollout.val_kwargs`` and any other by ``rollout``, where ``meta_info`` may override each value.

    Args:
        rollout_config: ``actor_rollout_ref.rollout``.
        meta_info: of the prompts; verl's trainer sets ``do_sample`` and ``validate`` there.
    """
    if not meta_info.get("do_sample", rollout_config.get("do_sample", True)):
        return SamplingParams(temperature=0.0)
    if meta_info.get("validate", False):
        source = rollout_config.val_kwargs
        overrides: Mapping[str, Any] = {}
    else:
        source = rollout_config
        overrides = meta_info
    return SamplingParams(
        temperature=overrides.get("temperature", source.get("temperature", 1.0)),
        top_k=overrides.get("top_k", source.get("top_k", 0)),
        top_p=overrides.get("top_p", source.get("top_p", 1.0)),
    )


def make_generator(device: torch.device, *seeds: int) -> torch.Generator:
    """A random generator on ``device`` that is a function of all the ``seeds`` (non-negative integers)."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator(device=device).manual_seed(int(state >> np.uint64(1)))


class TokenSampler:
    """Draws one token per row of logits and reports its log-probability.

    The log-probability is that of the temperature-scaled distribution before top-k and top-p, which is what the actor
    recomputes as ``old_log_probs``. Greedy decoding reports it at temperature 1.

    Args:
        params: the sampling parameters.
        generator: source of randomness, on the device of the logits.
    """

    def __init__(self, params: SamplingParams, generator: torch.Generator) -> None:
        self._params = params
        self._generator = generator
        self._filters = LogitsProcessorList()
        if params.top_k > 0:
            self._filters.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            self._filters.append(TopPLogitsWarper(params.top_p))

    def __call__(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (rows,) int64 and their log-probabilities (rows,) float32 for ``logits`` (rows, vocabulary)."""
        scaled = logits.float()
        if self._params.is_greedy:
            tokens = scaled.argmax(dim=-1)
        else:
            scaled = scaled / self._params.temperature
            tokens = self._sample(scaled)
        log_probs = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(dim=-1)
        return tokens, log_probs

    def _sample(self, scaled_logits: torch.Tensor) -> torch.Tensor:
        """Gumbel-max sampling: unlike ``torch.multinomial`` it needs no probabilities and no check on the host."""
        allowed_logits = self._filters(None, scaled_logits)
        exponentials = torch.empty_like(scaled_logits).exponential_(generator=self._generator)
        # A float32 exponential can underflow to 0; its infinite Gumbel value would make NaN of a filtered token.
        gumbels = exponentials.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_()
        return (allowed_logits + gumbels).argmax(dim=-1)
