"""An unsharded copy of an FSDP-wrapped model to decode with, so that no rank waits for another between two tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from verl.utils.fsdp_utils import load_fsdp_model_to_gpu, offload_fsdp_model_to_cpu


class ModelReplica:
    """The model inside ``module``, without FSDP; it holds weights only within `loaded`.

    Args:
        module: a transformers model, plain or with LoRA adapters, that may be wrapped by FSDP1 or FSDP2.

    Raises:
        TypeError: there is no transformers model inside ``module``.
    """

    def __init__(self, module: nn.Module) -> None:
        self._source = module
        self._model = _build_without_weights(_unwrap(module)).eval()
        self._empty_state = self._model.state_dict()
        self._parameter_names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype) -> Iterator[nn.Module]:
        """The model in eval mode with the present weights, on ``device``, parameters in ``dtype``.

        Every rank has to enter, since sharded weights are gathered here; nothing after that communicates. Weights that
        are whole on this rank already, in this place and type, are shared and not copied: do not change them.
        """
        state = gather_state(self._source, device, dtype, self._parameter_names)
        self._model.load_state_dict(state, assign=True)
        del state
        self._model.to(device)
        try:
            yield self._model
        finally:
            self._model.load_state_dict(self._empty_state, assign=True)


def gather_state(
    module: nn.Module, device: torch.device, dtype: torch.dtype, parameter_names: set[str]
) -> dict[str, torch.Tensor]:
    """The unsharded state dict of ``module`` on ``device``; the entries of ``parameter_names`` in ``dtype``.

    A collective operation where the module is sharded over several ranks. Tied weights stay one tensor.
    """
    # The state holds the parameters themselves, so that tied weights are one object and gathered once.
    state = _fsdp1_state(module, device) if isinstance(module, FSDP) else module.state_dict(keep_vars=True)
    gathered: dict[tuple[int, torch.dtype], torch.Tensor] = {}
    result = {}
    for name, value in state.items():
        target_dtype = dtype if name in parameter_names else value.dtype
        key = (id(value), target_dtype)
        if key not in gathered:
            gathered[key] = _unshard(value.detach(), device).to(device=device, dtype=target_dtype)
        result[name] = gathered[key]
    return result


def _unshard(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    if not isinstance(value, DTensor):
        return value
    if value.device_mesh.size() == 1:
        return value.to_local()
    # The process group gathers on the device it was made for; with parameters offloaded the shards are elsewhere.
    return value.to(device).full_tensor()


def _fsdp1_state(module: FSDP, device: torch.device) -> dict[str, torch.Tensor]:
    is_offloaded = next(module.parameters()).device.type != device.type
    if is_offloaded:
        load_fsdp_model_to_gpu(module)
    try:
        return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=False))
    finally:
        if is_offloaded:
            offload_fsdp_model_to_cpu(module)


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, FSDP) else module


def _build_without_weights(model: nn.Module) -> nn.Module:
    """A new model of the same architecture: parameters on the meta device, buffers (rotary embedding) computed."""
    if _is_peft_model(model):
        from peft import get_peft_model

        base = _build_without_weights(model.get_base_model())
        with init_empty_weights(include_buffers=False):
            return get_peft_model(base, copy.deepcopy(model.peft_config[model.active_adapter]))
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"rollout.name=hf decodes with transformers models, but the actor is a {type(model).__name__}; "
            "use rollout.name=vllm for it"
        )
    with init_empty_weights(include_buffers=False):
        return _architecture(model)(copy.deepcopy(model.config))


def _architecture(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The model's class; FSDP2 replaces it by a subclass of itself and ``FSDPModule``."""
    return next(candidate for candidate in type(model).__mro__ if not issubclass(candidate, FSDPModule))


def _is_peft_model(model: nn.Module) -> bool:
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")
