"""Overlay of ``verl.workers.rollout.vllm_rollout.vllm_async_server``: an engine that fails aloud and tells log-probs.

Upstream's server generates tokens. This one tells their log-probs too, has the actor's LoRA adapter, and does not
generate more than a response holds.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import ray
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest

from verl.upstream import keep_upstream_names
from verl.upstream.workers.rollout.vllm_rollout import vllm_async_server as upstream
from verl.utils.quiet import prints_to_log
from verl.workers.rollout.vllm_rollout.engine_core import StrictScheduler, WatchesWorkers
from verl.workers.sharding_manager.fsdp_vllm import ADAPTER_ID

__all__ = ["AsyncvLLMServer", "WatchfulExecutor"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

_ADAPTER = LoRARequest(lora_name="actor", lora_int_id=ADAPTER_ID, lora_path="in memory")


class WatchfulExecutor(WatchesWorkers, upstream.ExternalZeroMQDistributedExecutor):
    """Upstream's executor, which raises as soon as one worker fails or is gone."""


@ray.remote(num_cpus=1)
class AsyncvLLMServer(upstream.AsyncvLLMServer.__ray_metadata__.modified_class):
    """Upstream's server of one engine."""

    async def init_engine(self) -> None:
        """Start the engine's process."""
        with prints_to_log(logger):
            await super().init_engine()

    def _create_engine_config(self, engine_args: Any) -> Any:
        engine_args.scheduler_cls = f"{StrictScheduler.__module__}.{StrictScheduler.__qualname__}"
        if self.config.rollout.calculate_log_probs:
            engine_args.logprobs_mode = "processed_logprobs"
        if self._has_adapter:
            engine_args.enable_lora = True
            engine_args.max_loras = 1
            engine_args.max_lora_rank = self.config.model.lora_rank
        vllm_config = super()._create_engine_config(engine_args)
        if engine_args.distributed_executor_backend is upstream.ExternalZeroMQDistributedExecutor:
            vllm_config.parallel_config.distributed_executor_backend = WatchfulExecutor
        return vllm_config

    @property
    def _has_adapter(self) -> bool:
        return self.config.model.get("lora_rank", 0) > 0

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> list[int]:
        """Return the tokens that answer ``prompt_ids``."""
        return (await self._generated(prompt_ids, sampling_params, request_id)).token_ids

    async def generate_with_log_probs(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str
    ) -> tuple[list[int], list[float]]:
        """Return the tokens that answer ``prompt_ids`` and the log-prob of each in the distribution sampled from."""
        output = await self._generated(prompt_ids, {**sampling_params, "logprobs": 0}, request_id)
        log_probs = [choices[token].logprob for token, choices in zip(output.token_ids, output.logprobs, strict=True)]
        return list(output.token_ids), log_probs

    async def _generated(self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str) -> Any:
        room = self.max_model_len - len(prompt_ids)
        requests = self.engine.generate(
            prompt=TokensPrompt(prompt_token_ids=prompt_ids),
            sampling_params=SamplingParams(
                max_tokens=min(room, self.config.rollout.response_length), detokenize=False, **sampling_params
            ),
            request_id=request_id,
            lora_request=_ADAPTER if self._has_adapter else None,
        )
        async for request in requests:
            last = request
        return last.outputs[0]


keep_upstream_names(globals())
