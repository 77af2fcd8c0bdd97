"""Presets: named sets of settings that any single key overrides.

A preset sets the same keys as every other, by their full names in a trainer's configuration. To add a key, give its
value here for each preset.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["DEFAULT_PRESET", "PRESETS", "preset_value", "register_preset_resolver", "with_preset"]

DEFAULT_PRESET = "paper"

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": MappingProxyType(
            {"exploration.success_rate.estimator": "previous_epoch", "algorithm.prompt_weight": "rows"}
        ),
        # Point estimates of the last epoch can lose against GRPO, a posterior did not (docs/results.md). Square-root
        # weights rest on the simulation there.
        "recommended": MappingProxyType(
            {"exploration.success_rate.estimator": "beta", "algorithm.prompt_weight": "sqrt"}
        ),
    }
)
"""What each preset sets."""


def preset_value(preset: str | None, key: str) -> Any:
    """What a preset sets a key to; without a preset (None), the key's own default, which is the paper's.

    Raises:
        KeyError: no such preset, or a key that presets do not set.

    >>> preset_value("recommended", "algorithm.prompt_weight")
    'sqrt'
    """
    return PRESETS[DEFAULT_PRESET if preset is None else preset][key]


def with_preset(preset: str | None, settings: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Nested settings with what a preset sets below ``section`` where they say nothing.

    Args:
        preset: its name, or None.
        settings: keys below ``section``, sections as mappings.
        section: the full name of the settings' section.

    Raises:
        KeyError: no such preset.

    >>> with_preset("recommended", {"n_up": 64, "success_rate": {"window": 8}}, "exploration")
    {'n_up': 64, 'success_rate': {'window': 8, 'estimator': 'beta'}}
    """
    filled = dict(settings)
    for key in PRESETS[DEFAULT_PRESET if preset is None else preset]:
        prefix, _, path = key.partition(".")
        if prefix == section:
            _set_where_missing(filled, path.split("."), preset_value(preset, key))
    return filled


def register_preset_resolver() -> None:
    """Have OmegaConf read ``${preset:KEY}`` as what ``exploration.preset`` sets the key to. Needs omegaconf.

    In a configuration file it is the value of that key. A user who sets the key replaces it. ``${preset_suffix:}``
    tells runs of different presets apart by name: ``_recommended``, and nothing for the default.
    """
    from omegaconf import DictConfig, OmegaConf

    def of_preset(key: str, _root_: DictConfig) -> object:
        return preset_value(_root_.exploration.preset, key)

    def suffix(_root_: DictConfig) -> str:
        preset = _root_.exploration.preset
        return "" if preset in (None, DEFAULT_PRESET) else f"_{preset}"

    OmegaConf.register_new_resolver("preset", of_preset, replace=True)
    OmegaConf.register_new_resolver("preset_suffix", suffix, replace=True)


def _set_where_missing(settings: dict[str, Any], path: list[str], value: Any) -> None:
    name, *rest = path
    if not rest:
        settings.setdefault(name, value)
        return
    inner = settings.get(name, {})
    if isinstance(inner, Mapping):  # what is no section is refused by who reads the settings
        settings[name] = dict(inner)
        _set_where_missing(settings[name], rest, value)
