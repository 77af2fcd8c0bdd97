"""The shims for newer vLLM and transformers: idle with the versions verl 0.5 supports, in effect with later ones."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from packaging.version import Version

from verl.utils import newer_versions
from verl.utils.newer_versions import (
    LAST_SUPPORTED_VLLM,
    TRANSFORMERS_SHIMS,
    VLLM_SHIMS,
    Shim,
    reload_weights,
    reloads_weights_from_iterator,
    removed_engine_options,
)

RELOAD_LOGGER = logging.getLogger("vllm.model_executor.model_loader.reload.layerwise")
LAST_SUPPORTED_TRANSFORMERS = Version("4.57.6")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that a version of vLLM and of transformers is installed."""

    def pretend(vllm: str | Version, transformers: str | Version) -> None:
        versions = {"vllm": Version(str(vllm)), "transformers": Version(str(transformers))}
        monkeypatch.setattr(newer_versions, "installed_version", lambda *names: versions[names[0]])

    return pretend


def test_no_shim_is_active_with_the_versions_that_verl_supports(installed):
    installed(LAST_SUPPORTED_VLLM, LAST_SUPPORTED_TRANSFORMERS)
    assert not any(shim.is_needed for shim in VLLM_SHIMS + TRANSFORMERS_SHIMS)
    assert removed_engine_options({"disable_mm_preprocessor_cache": False}) == []


def test_every_shim_is_active_with_the_versions_that_it_was_written_for(installed):
    installed("0.28.0", "5.18.0")
    assert all(shim.is_needed for shim in VLLM_SHIMS + TRANSFORMERS_SHIMS)


def test_no_shim_is_active_without_the_package():
    assert not Shim(("no-such-distribution",), "0", lambda: None).is_needed


def test_a_moved_module_is_importable_by_its_old_name(monkeypatch):
    name = "packaging.old_home.of_versions"
    apply = newer_versions._module_with(name, Version=lambda: Version)
    for added in (name, "packaging.old_home"):
        monkeypatch.delitem(sys.modules, added, raising=False)
    try:
        apply()
        module = sys.modules[name]
        from packaging.old_home.of_versions import Version as imported

        assert imported is Version
        apply()
        assert sys.modules[name] is module
    finally:
        for added in (name, "packaging.old_home"):
            sys.modules.pop(added, None)


def test_only_options_that_ask_for_what_vllm_does_anyway_are_dropped(installed):
    installed("0.28.0", "5.18.0")
    assert removed_engine_options({"disable_mm_preprocessor_cache": False, "swap_space": 4}) == [
        "disable_mm_preprocessor_cache"
    ]
    assert removed_engine_options({"disable_mm_preprocessor_cache": True}) == []


class Runner:
    """A model runner of vLLM whose output layer holds a packed copy of the embedding that it is tied to."""

    def __init__(self) -> None:
        embedding = torch.nn.Embedding(2, 2)
        head = SimpleNamespace(weight=embedding.weight, packed=embedding.weight.detach().clone())
        head.quant_method = SimpleNamespace(process_weights_after_loading=self._pack)
        self.model = SimpleNamespace(lm_head=head, model=SimpleNamespace(embed_tokens=embedding))

    @staticmethod
    def _pack(head: SimpleNamespace) -> None:
        head.packed = head.weight.detach().clone()

    def reload_weights(self, weights_iterator=None) -> None:
        RELOAD_LOGGER.warning("%s: Failed to load weights", "ParallelLMHead")
        RELOAD_LOGGER.warning("anything else")
        for _, weight in weights_iterator:
            self.model.model.embed_tokens.weight.data.copy_(weight)


def test_a_tied_output_layer_gets_the_new_weights():
    runner = Runner()
    reload_weights(runner, [("embed_tokens.weight", torch.eye(2))])
    torch.testing.assert_close(runner.model.lm_head.packed, torch.eye(2))


def test_only_the_warning_about_layers_without_weights_is_left_out(monkeypatch):
    monkeypatch.setattr(RELOAD_LOGGER, "isEnabledFor", lambda level: True)
    heard: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    RELOAD_LOGGER.addHandler(handler)
    try:
        reload_weights(Runner(), [("embed_tokens.weight", torch.eye(2))])
        RELOAD_LOGGER.warning("%s: Failed to load weights", "after the reload")
    finally:
        RELOAD_LOGGER.removeHandler(handler)
    assert heard == ["anything else", "after the reload: Failed to load weights"]


def test_an_output_layer_of_its_own_is_left_to_vllm():
    runner = Runner()
    head = runner.model.lm_head
    head.weight = head.weight.detach().clone()
    before = head.packed
    reload_weights(runner, [("embed_tokens.weight", torch.eye(2))])
    assert head.packed is before


def test_weights_are_reloaded_only_where_vllm_takes_them_from_an_iterator():
    assert reloads_weights_from_iterator(Runner())
    assert not reloads_weights_from_iterator(SimpleNamespace(reload_weights=lambda: None))
    assert not reloads_weights_from_iterator(SimpleNamespace())
