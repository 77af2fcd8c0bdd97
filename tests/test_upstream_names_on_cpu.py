"""Every name that upstream's modules have stays importable from the modules that replace them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock, patch

import pytest
import torch

import verl

OVERLAY = Path(verl.__file__).parent

# What the installed verl's modules hold, in a process that knows nothing of the overlay.
LIST_NAMES = """
import importlib, json, sys
names = {}
for module in json.load(sys.stdin):
    try:
        names[module] = sorted(vars(importlib.import_module(module)))
    except Exception:  # it needs a package that is not installed here
        names[module] = None
json.dump(names, open(sys.argv[1], "w"))
"""


def overlaid_modules() -> list[str]:
    """The modules that both have; without verl itself, which has a set-up of its own."""
    files = [file.relative_to(OVERLAY) for file in sorted(OVERLAY.rglob("*.py"))]
    both = [file for file in files if (verl.UPSTREAM_FOLDER / file).exists() and file != Path("__init__.py")]
    return [".".join(("verl", *file.with_suffix("").parts)).removesuffix(".__init__") for file in both]


@pytest.fixture(scope="module")
def upstream_names(tmp_path_factory) -> dict[str, list[str] | None]:
    folder = tmp_path_factory.mktemp("names")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", LIST_NAMES, folder / "names.json"],
        input=json.dumps(overlaid_modules()),
        text=True,
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return json.loads((folder / "names.json").read_text())


@pytest.mark.parametrize("module", overlaid_modules())
def test_every_name_of_upstreams_module_is_there(module, upstream_names):
    names = upstream_names[module]
    if names is None:
        pytest.skip("upstream's module cannot be imported here")
    ours = import_module(module)
    is_package = hasattr(ours, "__path__")
    missing = [name for name in names if not hasattr(ours, name) and not (is_package and find_spec(f"{module}.{name}"))]
    assert missing == []


def test_known_names_that_recipes_import():
    from verl.trainer.ppo.metric_utils import _compute_response_info
    from verl.trainer.ppo.ray_trainer import RayWorkerGroup
    from verl.trainer.ppo.reward import default_compute_score
    from verl.utils.reward_score import default_compute_score as the_overlays

    assert callable(_compute_response_info) and RayWorkerGroup.__name__ == "RayWorkerGroup"
    assert default_compute_score is the_overlays


def test_what_the_overlay_defines_is_its_own():
    from verl.trainer.ppo import metric_utils, reward
    from verl.upstream.trainer.ppo import metric_utils as upstream_metric_utils
    from verl.upstream.trainer.ppo import reward as upstream_reward

    assert reward.compute_reward is not upstream_reward.compute_reward
    assert metric_utils.process_validation_metrics is not upstream_metric_utils.process_validation_metrics


@pytest.mark.parametrize("name", ["_compute_response_info", "np"])
def test_a_patched_name_is_patched_for_upstreams_functions_until_the_patch_ends(name):
    """As upstream's own tests patch them."""
    from verl.trainer.ppo import metric_utils
    from verl.upstream.trainer.ppo import metric_utils as upstream_metric_utils

    before = getattr(metric_utils, name)
    with patch(f"verl.trainer.ppo.metric_utils.{name}") as replacement:
        assert getattr(metric_utils, name) is getattr(upstream_metric_utils, name) is replacement
    assert getattr(metric_utils, name) is getattr(upstream_metric_utils, name) is before


def test_upstreams_timing_metrics_call_a_patched_helper():
    from verl.trainer.ppo.metric_utils import compute_timing_metrics

    with patch("verl.trainer.ppo.metric_utils._compute_response_info") as info:
        info.return_value = {"prompt_length": torch.tensor([2.0]), "response_length": torch.tensor([10.0, 10.0])}
        metrics = compute_timing_metrics(MagicMock(), {"gen": 4.0})
    assert metrics["timing_s/gen"] == 4.0 and metrics["timing_per_token_ms/gen"] == pytest.approx(200.0)


def test_a_name_of_the_overlay_alone_is_patched_there_alone(monkeypatch):
    from verl.trainer.ppo import metric_utils
    from verl.upstream.trainer.ppo import metric_utils as upstream_metric_utils

    upstreams = upstream_metric_utils.process_validation_metrics
    monkeypatch.setattr("verl.trainer.ppo.metric_utils.process_validation_metrics", None)
    assert upstream_metric_utils.process_validation_metrics is upstreams
    monkeypatch.setattr(metric_utils, "of_a_test", 1, raising=False)
    assert not hasattr(upstream_metric_utils, "of_a_test")
