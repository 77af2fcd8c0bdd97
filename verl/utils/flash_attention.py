"""What depends on flash-attn being installed: the attention implementation, and verl's imports from the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from verl.utils.device import get_device_name

PACKAGE = "flash_attn"
_PADDING_MODULE = f"{PACKAGE}.bert_padding"
_PADDING_FUNCTIONS = ("index_first_axis", "pad_input", "rearrange", "unpad_input")
# Upstream's modules that import the padding functions wherever there is a GPU, used or not.
_IMPORTERS = ("verl.workers.actor.dp_actor", "verl.workers.critic.dp_critic")


def is_flash_attention_installed() -> bool:
    """Whether flash-attn 2 is there. (flash-attn-4 has the same import name, and none of the modules verl needs.)"""
    package = find_spec(PACKAGE)
    folders = package.submodule_search_locations if package is not None else None
    return folders is not None and PathFinder.find_spec(_PADDING_MODULE, folders) is not None


def available_attention_implementation() -> str:
    """Return ``flash_attention_2`` where it can run (a GPU and the flash-attn package), else ``sdpa``."""
    can_run = get_device_name() != "cpu" and is_flash_attention_installed()
    return "flash_attention_2" if can_run else "sdpa"


def import_actor_and_critic() -> None:
    """Import upstream's actor and critic; on a GPU without flash-attn too, as long as padding is not removed.

    Upstream imports flash-attn's functions for removing padding at the top of these modules. Without the package they
    get placeholders, which raise an ImportError that says what to install when they are called.
    """
    if get_device_name() != "cuda" or is_flash_attention_installed():
        return
    placeholders = {PACKAGE: _module(PACKAGE), _PADDING_MODULE: _module(_PADDING_MODULE)}
    for name in _PADDING_FUNCTIONS:
        setattr(placeholders[_PADDING_MODULE], name, _missing(name))
    imported = {name: sys.modules[name] for name in placeholders if name in sys.modules}  # of flash-attn-4
    sys.modules.update(placeholders)
    try:
        for importer in _IMPORTERS:
            import_module(importer)
    finally:
        for name in placeholders:
            del sys.modules[name]
        sys.modules.update(imported)


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, loader=None, is_package=name == PACKAGE)
    return module


def _missing(name: str) -> Callable[..., NoReturn]:
    def raise_import_error(*_: Any, **__: Any) -> NoReturn:
        raise ImportError(
            f"{_PADDING_MODULE}.{name} is needed with use_remove_padding=true: install flash-attn (see "
            "requirements/vllm.txt) or set actor_rollout_ref.model.use_remove_padding=false."
        )

    return raise_import_error
