"""Rollout with vLLM: ``actor_rollout_ref.rollout.name=vllm``; upstream's, made reproducible.

Two things are added to upstream's: what is sampled is a function of the seed, the step and the weights, so that a
resumed run continues as the killed one would have; and reported log-probs are those of the distribution that was
sampled from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from verl import DataProto
from verl.utils.device import get_torch_device
from verl.utils.newer_versions import removed_engine_options
from verl.workers.rollout.vllm_rollout.vllm_rollout_spmd import vLLMRollout as UpstreamRollout

__all__ = ["vLLMRollout"]


class vLLMRollout(UpstreamRollout):  # noqa: N801  (verl's name)
    """Upstream's rollout by a vLLM engine in the worker's process.

    Args:
        model_path: folder of the model.
        config: ``actor_rollout_ref.rollout``.
        tokenizer: the model's tokenizer.
        model_hf_config: the model's transformers config.
    """

    def __init__(self, model_path: str, config: DictConfig, tokenizer: Any, model_hf_config: Any, **kwargs: Any):
        super().__init__(model_path, engine_config(config), tokenizer, model_hf_config, **kwargs)

    def generate_sequences(self, prompts: DataProto, **kwargs: Any) -> DataProto:
        """Generate one response per prompt row, as upstream does.

        The same call with the same weights gives the same responses, also in another process, as long as vLLM's KV
        cache holds the same number of blocks (which rows are decoded together decides which random numbers they get).

        Args:
            prompts: as upstream's; of ``meta_info``, ``seed``, ``global_steps`` and ``validate`` seed the sampling.

        Returns:
            As upstream's. ``rollout_log_probs`` (rows, response_length) float32, if ``calculate_log_probs``: of the
            distribution sampled from, 0 on padding.
        """
        with seeded_sampling(*self._seeds(prompts.meta_info)):
            output = super().generate_sequences(prompts, **kwargs)
        if "rollout_log_probs" in output.batch:
            response_mask = output.batch["attention_mask"][:, -output.batch["responses"].shape[1] :]
            output.batch["rollout_log_probs"] = output.batch["rollout_log_probs"] * response_mask
        return output

    def _seeds(self, meta_info: Mapping[str, Any]) -> tuple[int, int, int, int]:
        return (
            meta_info.get("seed", self.config.get("seed", 0)),
            meta_info.get("global_steps", 0),
            int(meta_info.get("validate", False)),
            # Ranks of one tensor-parallel engine hold the same rows and have to sample the same tokens.
            torch.distributed.get_rank() // self.config.get("tensor_model_parallel_size", 1),
        )


@contextmanager
def seeded_sampling(*seeds: int) -> Iterator[None]:
    """Within the context, vLLM's random numbers are a function of ``seeds`` (non-negative integers).

    The generators are seeded that requests without a seed of their own draw from: the device's, and NumPy's, which
    vLLM's second model runner takes the seeds of its requests from. A seed for each request would cost one small kernel
    per row and token.
    """
    state = np.random.SeedSequence(seeds).generate_state(2, np.uint64)
    numpy_state, device_state = np.random.get_state(), get_torch_device().get_rng_state()
    np.random.seed(int(state[0] & np.uint64(0xFFFFFFFF)))
    get_torch_device().manual_seed(int(state[1] >> np.uint64(1)))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        get_torch_device().set_rng_state(device_state)


def engine_config(config: DictConfig) -> DictConfig:
    """Return a copy of ``config`` (``actor_rollout_ref.rollout``) whose ``engine_kwargs.vllm`` suit the installed vLLM.

    With ``calculate_log_probs`` vLLM is asked for log-probs of the distribution that it samples from; by default it
    reports those at temperature 1. ``engine_kwargs.vllm.logprobs_mode``, where set, is left as it is.
    """
    config = copy.deepcopy(config)
    engine_kwargs = "engine_kwargs.vllm"
    if config.calculate_log_probs and OmegaConf.select(config, f"{engine_kwargs}.logprobs_mode") is None:
        OmegaConf.update(config, f"{engine_kwargs}.logprobs_mode", "processed_logprobs", force_add=True)
    for name in removed_engine_options(OmegaConf.select(config, engine_kwargs) or {}):
        # Upstream leaves out what is null.
        OmegaConf.update(config, f"{engine_kwargs}.{name}", None)
    return config
