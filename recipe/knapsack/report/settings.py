"""Settings of a run as flat, dotted names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten_settings"]


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten_settings(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
