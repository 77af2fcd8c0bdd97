"""Rows of verl's data schema."""

from __future__ import annotations

from typing import Any


def row(number: int = 0, **columns: Any) -> dict[str, Any]:
    """A row of verl's schema; ``columns`` replace its own, and those that are `...` are left out."""
    own = {
        "data_source": "sums",
        "prompt": [{"role": "user", "content": f"{number}+1="}],
        "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
        "extra_info": {"index": number},
    }
    return {name: value for name, value in {**own, **columns}.items() if value is not ...}
