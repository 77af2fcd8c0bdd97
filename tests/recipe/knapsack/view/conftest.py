"""Runs to look at, and their pages."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from synthetic_run import SyntheticRun, build_run
from view_runs import make_index

from recipe.knapsack.view.prompt_texts import PromptTexts
from recipe.knapsack.view.run_index import RunIndex
from recipe.knapsack.view.view_server import ViewApplication, serve

SIZES = {"num_prompts": 200, "prompts_per_step": 20, "steps": 40, "planned_steps": 40, "data": True}


@pytest.fixture(scope="session")
def run_folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {
        allocator: build_run(root / allocator, SyntheticRun(allocator=allocator, dump_rollouts=40, **SIZES))
        for allocator in ("knapsack", "homogeneous")
    }


@pytest.fixture(scope="session")
def indexed(run_folders, tmp_path_factory) -> tuple[RunIndex, PromptTexts]:
    return make_index(tmp_path_factory.mktemp("index") / "index.sqlite", *run_folders.values())


@pytest.fixture(scope="module")
def address(indexed):
    server = serve(ViewApplication(*indexed), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()
