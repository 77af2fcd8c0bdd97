"""Fixtures and helpers of the tests that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

PROMPTS_PER_STEP, STEPS_PER_EPOCH = 16, 4


@pytest.fixture
def few_prompts(warm_start: Path, tmp_path: Path) -> str:
    """The override for a training set of which an epoch takes four steps."""
    file = tmp_path / "few.parquet"
    pd.read_parquet(warm_start / "train.parquet").head(PROMPTS_PER_STEP * STEPS_PER_EPOCH).to_parquet(file)
    return f"data.train_files={file}"


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    """What the workers of a run with ``external_lib=report_worker`` say of themselves, in the order of their ranks."""
    folder = tmp_path / "workers"
    folder.mkdir()
    monkeypatch.setenv("WORKERS", str(folder))
    return lambda: [json.loads(file.read_text()) for file in sorted(folder.iterdir())]
