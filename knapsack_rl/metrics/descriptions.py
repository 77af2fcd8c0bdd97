"""What a reader of a training curve needs to know about one metric."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MetricDescription"]


class MetricDescription(NamedTuple):
    """What a reader of a training curve needs to know about one metric."""

    unit: str
    meaning: str
    when_wrong: str
