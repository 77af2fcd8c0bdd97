"""Rollout with a transformers model: ``actor_rollout_ref.rollout.name=hf``, on CPUs and accelerators.

Replaces upstream's rollout of the same name. What comes out is what the actor's own forward pass says: positions count
from each prompt's first token, every input row yields one sequence, tokens are drawn in ``rollout.dtype``, and the
log-probability of each token is reported. See `verl.workers.rollout.decoding` for how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch
import torch.distributed
from tensordict import TensorDict
from torch import nn

from verl import DataProto
from verl.upstream import keep_upstream_names
from verl.utils.device import get_torch_device
from verl.utils.torch_dtypes import PrecisionType
from verl.utils.torch_functional import get_response_mask
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.decoding import Decoder, Responses
from verl.workers.rollout.replica import ModelReplica
from verl.workers.rollout.sampling import TokenSampler, make_generator, resolve_sampling_params

__all__ = ["HFRollout"]

MEMORY_FRACTION = 0.25
"""Part of a rank's memory that the KV cache and the logits of the rows decoded at once may take by default.

Of all its memory, not of what happens to be free: which rows are decoded together decides which random numbers they
get, and a resumed run has to draw the same ones.
"""

DROPPED_INPUTS = ("raw_prompt_ids", "multi_modal_data")
"""Per-row inputs of inference engines that are not returned with the responses (as with the vLLM rollout)."""


class HFRollout(BaseRollout):
    """Generates responses with the actor's own weights, by transformers.

    Args:
        module: the actor: a transformers causal language model, plain or wrapped by FSDP1 or FSDP2.
        config: ``actor_rollout_ref.rollout``. Read here: ``response_length``, ``dtype`` (weights are cast to it for
            decoding), ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``val_kwargs``, ``ignore_eos``, ``seed``
            (default 0), ``micro_batch_size`` (rows decoded at once at most; default: what a quarter of the memory
            holds).

    Raises:
        TypeError: ``module`` holds no transformers model.
    """

    def __init__(self, module: nn.Module, config: Any) -> None:
        super().__init__()
        self.module = module
        self.config = config
        self._dtype = PrecisionType.to_dtype(config.get("dtype", "bfloat16"))
        self._replica = ModelReplica(module)

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """Generate one response per prompt row; the module keeps its weights, its sharding and its train or eval mode.

        Sampling is seeded by ``seed``, ``global_steps`` and ``validate`` of ``meta_info`` and by the rank: the same
        call with the same weights gives the same responses, also after a resume.

        Args:
            prompts: ``batch`` with left-padded ``input_ids``, ``attention_mask``, ``position_ids``, each
                (rows, prompt_length) int64. ``meta_info`` with ``eos_token_id`` (an id or several), ``pad_token_id``
                (None, as many models' generation configs say: the end of sequence pads);
                optional ``do_sample``, ``validate``, ``temperature``, ``top_k``, ``top_p``, ``response_length``,
                ``seed``, ``global_steps``.

        Returns:
            ``prompts`` (rows, prompt_length), ``responses`` (rows, response_length, padded on the right), and both
            together as ``input_ids``, ``attention_mask``, ``position_ids`` (rows, prompt_length + response_length);
            ``rollout_log_probs`` (rows, response_length) float32, of the temperature-scaled distribution before top-k
            and top-p, 0 on padding. Non-tensor inputs come back but for those that only feed inference engines.

        Raises:
            ValueError: a prompt is not left-padded, inputs are multi-modal, there is no end of sequence, or a parameter
                is out of range.
            FloatingPointError: the model's logits are not finite.
        """
        _refuse_multi_modal(prompts)
        meta_info = prompts.meta_info
        input_ids = prompts.batch["input_ids"]
        device = input_ids.device
        eos_token_ids = _end_of_sequence_ids(meta_info)
        pad_token_id = meta_info["pad_token_id"]
        response_length = meta_info.get("response_length", self.config.response_length)
        sampler = TokenSampler(
            resolve_sampling_params(self.config, meta_info), make_generator(device, *self._seeds(meta_info))
        )
        with self._replica.loaded(device, self._dtype) as model:
            decoder = Decoder(
                model,
                sampler,
                eos_token_ids=[] if self.config.get("ignore_eos", False) else eos_token_ids,
                pad_token_id=eos_token_ids[0] if pad_token_id is None else pad_token_id,
                response_length=response_length,
                max_rows=self._max_rows(model, input_ids.shape[1] + response_length, device),
            )
            responses = decoder.generate(input_ids, prompts.batch["attention_mask"])
        if device.type != "cpu":
            get_torch_device().empty_cache()
        return _assemble(prompts, responses, eos_token_ids)

    def _seeds(self, meta_info: Mapping[str, Any]) -> tuple[int, int, int, int]:
        return (
            meta_info.get("seed", self.config.get("seed", 0)),
            meta_info.get("global_steps", 0),
            int(meta_info.get("validate", False)),
            torch.distributed.get_rank() if torch.distributed.is_initialized() else 0,
        )

    def _max_rows(self, model: nn.Module, sequence_length: int, device: torch.device) -> int:
        configured = self.config.get("micro_batch_size", None)
        if configured is not None:
            return configured
        row_bytes = bytes_per_row(model.config, sequence_length, self._dtype)
        return max(1, int(MEMORY_FRACTION * _memory_of_rank(device)) // row_bytes)


def bytes_per_row(model_config: Any, sequence_length: int, dtype: torch.dtype) -> int:
    """Memory that decoding one row takes at most: its KV cache at full length and float32 work on its logits."""
    config = model_config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    cache_bytes = 2 * config.num_hidden_layers * key_value_heads * head_dim * sequence_length * dtype.itemsize
    float32_copies_of_logits = 5
    return cache_bytes + float32_copies_of_logits * 4 * config.vocab_size


def _memory_of_rank(device: torch.device) -> int:
    if device.type == "cpu":
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        return psutil.virtual_memory().total // ranks
    return get_torch_device().mem_get_info()[1]


def _end_of_sequence_ids(meta_info: Mapping[str, Any]) -> list[int]:
    token_ids = meta_info["eos_token_id"]
    if token_ids is None:
        raise ValueError("eos_token_id of the prompts is None; set it in the model's generation_config.json")
    return [token_ids] if isinstance(token_ids, int) else list(token_ids)


def _refuse_multi_modal(prompts: DataProto) -> None:
    if "multi_modal_data" in prompts.non_tensor_batch or prompts.batch["position_ids"].dim() != 2:
        raise ValueError("rollout.name=hf generates from text only; use rollout.name=vllm for multi-modal prompts")


def _assemble(prompts: DataProto, responses: Responses, eos_token_ids: list[int]) -> DataProto:
    input_ids, attention_mask = prompts.batch["input_ids"], prompts.batch["attention_mask"]
    position_ids = prompts.batch["position_ids"]
    rows, response_length = responses.token_ids.shape
    response_mask = get_response_mask(responses.token_ids, eos_token=eos_token_ids, dtype=attention_mask.dtype)
    steps = torch.arange(1, response_length + 1, device=position_ids.device)
    batch = TensorDict(
        {
            "prompts": input_ids,
            "responses": responses.token_ids,
            "input_ids": torch.cat([input_ids, responses.token_ids], dim=-1),
            "attention_mask": torch.cat([attention_mask, response_mask], dim=-1),
            "position_ids": torch.cat([position_ids, position_ids[:, -1:] + steps], dim=-1),
            "rollout_log_probs": responses.log_probs,
        },
        batch_size=rows,
    )
    returned = {name: value for name, value in prompts.non_tensor_batch.items() if name not in DROPPED_INPUTS}
    return DataProto(batch=batch, non_tensor_batch=returned)


keep_upstream_names(globals())
