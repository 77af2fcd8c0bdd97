"""Overlay of ``verl.workers.fsdp_workers``: upstream's workers, able to run on a CPU and without flash-attn.

Three things upstream assumes are made to depend on the machine: the process group's backend, the attention
implementation, and the numeric type of the forward pass. Everything else is upstream's.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
import transformers
from omegaconf import DictConfig, open_dict

from verl import DataProto
from verl.single_controller.base.decorator import Dispatch, register
from verl.upstream import keep_upstream_names
from verl.upstream.workers import fsdp_workers as upstream_workers
from verl.upstream.workers.fsdp_workers import create_device_mesh, get_sharding_strategy
from verl.utils.device import get_device_name, get_nccl_backend
from verl.utils.flash_attention import available_attention_implementation, import_actor_and_critic
from verl.utils.gloo import divide_gradients, without_connection_messages
from verl.utils.newer_versions import apply_transformers_shims
from verl.utils.quiet import prints_to_log

__all__ = [
    "ActorRolloutRefWorker",
    "AsyncActorRolloutRefWorker",
    "CriticWorker",
    "RewardModelWorker",
    "create_device_mesh",
    "get_sharding_strategy",
]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

apply_transformers_shims()

_FULL_PRECISION = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


@contextmanager
def available_attention() -> Iterator[None]:
    """Within the context, models asked for with flash-attention are loaded with what the machine has.

    Upstream asks for ``flash_attention_2`` in code, where no config key reaches it.
    """
    implementation = available_attention_implementation()
    if implementation == "flash_attention_2":
        yield
        return

    def with_available(load: Any) -> Any:
        def load_with_available(*args: Any, **kwargs: Any) -> Any:
            if kwargs.get("attn_implementation") == "flash_attention_2":
                kwargs["attn_implementation"] = implementation
            return load(*args, **kwargs)

        return load_with_available

    loaders = (transformers.AutoConfig, transformers.AutoModelForTokenClassification)
    with patch.object(loaders[0], "from_pretrained", with_available(loaders[0].from_pretrained)):
        with patch.object(loaders[1], "from_pretrained", with_available(loaders[1].from_pretrained)):
            yield


@contextmanager
def pinned_memory_only_beside_a_gpu() -> Iterator[None]:
    """Within the context, FSDP2 modules built on a CPU are not offloaded to the CPU.

    Upstream always offloads the reference policy, to pinned memory, which only exists beside an accelerator.
    """
    if get_device_name() != "cpu":
        yield
        return
    with patch.object(upstream_workers, "CPUOffloadPolicy", lambda **_: None):
        yield


def compute_in_parameter_dtype(module: torch.nn.Module) -> None:
    """Keep ``module``'s forward pass out of the bfloat16 autocast that upstream's actor and critic run under.

    A GPU gains from bfloat16; on a CPU it costs accuracy and time. The backward pass follows the forward's types.
    """
    entered: list[bool] = []

    def leave_autocast(*_: Any) -> None:
        entered.append(torch.is_autocast_enabled("cpu"))
        torch.set_autocast_enabled("cpu", False)

    def restore_autocast(*_: Any) -> None:
        torch.set_autocast_enabled("cpu", entered.pop())

    module.register_forward_pre_hook(leave_autocast)
    module.register_forward_hook(restore_autocast, always_call=True)


def _has_full_precision(fsdp_config: DictConfig) -> bool:
    return fsdp_config.get("mixed_precision", {}).get("param_dtype") == "fp32"


def _full_precision_by_default(fsdp_config: DictConfig) -> None:
    with open_dict(fsdp_config):
        if fsdp_config.get("mixed_precision") is None:
            fsdp_config.mixed_precision = dict(_FULL_PRECISION)
        if fsdp_config.get("model_dtype") is None:
            fsdp_config.model_dtype = "fp32"


class _AnyDeviceWorker:
    """What every worker of the overlay adds to upstream's: a fitting process group and model set-up."""

    def __init__(self, config: DictConfig, *args: Any, **kwargs: Any) -> None:
        if get_device_name() == "cpu":
            self._join_cpu_process_group()
            for fsdp_config in self._fsdp_configs(config):
                _full_precision_by_default(fsdp_config)
        super().__init__(config, *args, **kwargs)

    @staticmethod
    def _join_cpu_process_group() -> None:
        # Upstream would ask for "cpu:gloo,cpu:gloo", which torch refuses; it leaves an existing group alone.
        if not torch.distributed.is_initialized():
            with without_connection_messages():
                torch.distributed.init_process_group(
                    backend=get_nccl_backend(),
                    rank=int(os.environ.get("RANK", 0)),
                    world_size=int(os.environ.get("WORLD_SIZE", 1)),
                    init_method=os.environ.get("DIST_INIT_METHOD", None),
                )

    @staticmethod
    def _fsdp_configs(config: DictConfig) -> list[DictConfig]:
        return [config.model.fsdp_config]

    def _full_precision_modules(self) -> list[torch.nn.Module]:
        return []

    def _trained_modules(self) -> list[torch.nn.Module]:
        return []

    def _import_rollout_engine(self) -> None:
        """Import what keeps the standard output that it finds when imported, before that is redirected."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        import_actor_and_critic()
        self._import_rollout_engine()
        on_cpu = get_device_name() == "cpu"
        messages = without_connection_messages() if on_cpu else nullcontext()
        with messages, available_attention(), pinned_memory_only_beside_a_gpu(), prints_to_log(logger):
            super().init_model()
        if on_cpu:
            divide_gradients(self._trained_modules())
            for module in self._full_precision_modules():
                compute_in_parameter_dtype(module)


class _AnyDeviceActor(_AnyDeviceWorker):
    @staticmethod
    def _fsdp_configs(config: DictConfig) -> list[DictConfig]:
        return [config.actor.fsdp_config, config.ref.fsdp_config]

    def _import_rollout_engine(self) -> None:
        if self._is_rollout and self.config.rollout.name == "vllm":
            import_module("verl.third_party.vllm")

    def _trained_modules(self) -> list[torch.nn.Module]:
        return [self.actor_module_fsdp] if self._is_actor else []

    def _full_precision_modules(self) -> list[torch.nn.Module]:
        policies = [(self._is_actor, "actor_module_fsdp", "actor"), (self._is_ref, "ref_module_fsdp", "ref")]
        return [
            getattr(self, module)
            for built, module, section in policies
            if built and _has_full_precision(self.config[section].fsdp_config)
        ]


class ActorRolloutRefWorker(_AnyDeviceActor, upstream_workers.ActorRolloutRefWorker):
    """Upstream's actor, rollout and reference worker, on a GPU or a CPU, that tells how long each worker generated."""

    @register(dispatch_mode=Dispatch.DP_COMPUTE_PROTO)
    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """Generate as upstream does; ``meta_info["worker_seconds"]`` holds the generation time of every worker."""
        with patch.object(self.rollout, "generate_sequences", _Stopwatch(self.rollout.generate_sequences)) as stopwatch:
            output = super().generate_sequences(prompts)
        seconds = torch.zeros(self.world_size, dtype=torch.float64)
        seconds[self.rank] = stopwatch.seconds
        torch.distributed.all_reduce(seconds)
        output.meta_info["worker_seconds"] = seconds.tolist()
        return output


class _Stopwatch:
    """A callable that remembers how long its latest call took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds = time.perf_counter() - start


class AsyncActorRolloutRefWorker(_AnyDeviceActor, upstream_workers.AsyncActorRolloutRefWorker):
    """Upstream's worker for asynchronous rollouts, on a GPU or a CPU, that tells why its part of the engine failed."""

    @register(dispatch_mode=Dispatch.DIRECT_ROLLOUT_METHOD)
    def rollout_failure(self) -> str | None:
        """Return the traceback of what failed first in the engine's worker of this process, or None."""
        return getattr(self.rollout, "failure", None)


class CriticWorker(_AnyDeviceWorker, upstream_workers.CriticWorker):
    """Upstream's critic, on a GPU or a CPU."""

    def _trained_modules(self) -> list[torch.nn.Module]:
        return [self.critic_module]

    def _full_precision_modules(self) -> list[torch.nn.Module]:
        return [self.critic_module] if _has_full_precision(self.config.model.fsdp_config) else []


class RewardModelWorker(_AnyDeviceWorker, upstream_workers.RewardModelWorker):
    """Upstream's reward model, on a GPU or a CPU."""


keep_upstream_names(globals())
