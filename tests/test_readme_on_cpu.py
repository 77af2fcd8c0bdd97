"""What the README says of the code is true of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from knapsack_rl.config import DynamicSamplingConfig, ExplorationConfig, SuccessRateConfig
from recipe.knapsack.report.metric_table import with_metric_table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_metric_table_is_that_of_the_code():
    assert with_metric_table(README) == README, "run: python -m recipe.knapsack.metric_table README.md"


def test_every_exploration_key_is_in_the_configuration_table_with_its_default():
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer").exploration
    sections = [
        ("", ExplorationConfig),
        ("success_rate.", SuccessRateConfig),
        ("dynamic_sampling.", DynamicSamplingConfig),
    ]
    for prefix, section in sections:
        for field in fields(section):
            if field.name in ("success_rate", "dynamic_sampling"):
                continue
            key = f"exploration.{prefix}{field.name}"
            row = re.search(rf"^\| `{re.escape(key)}` \| `([^`]*)` \|", README, re.MULTILINE)
            assert row, f"{key} is not in the README's configuration table"
            value = config[prefix.rstrip(".")][field.name] if prefix else config[field.name]
            default = {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))
            assert row.group(1) == default, f"{key}: the README says {row.group(1)}, the default is {default}"


def leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by their full keys."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_every_key_that_is_not_upstreams_is_in_the_configuration_table_with_its_default():
    ours = yaml.safe_load((ROOT / "verl/trainer/config/knapsack_trainer.yaml").read_text())
    del ours["defaults"], ours["hydra"]
    with hydra.initialize_config_module("verl.upstream.trainer.config", version_base=None):
        upstreams = leaves(OmegaConf.to_container(hydra.compose("ppo_trainer"), resolve=False))
    added = {key: value for key, value in leaves(ours).items() if key not in upstreams}
    assert {"exploration.n_up", "algorithm.adv_clip"} <= set(added) and "algorithm.adv_estimator" not in added
    table = dict(re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", README, re.MULTILINE))
    assert {key: yaml.safe_load(table.get(key, "not in the README")) for key in added} == added


@pytest.mark.parametrize("pattern", [r"\]\(([^)#]+)\)", r'src="([^"]+)"'])
def test_every_file_the_readme_links_to_exists(pattern):
    linked = [target for target in re.findall(pattern, README) if "://" not in target]
    assert [target for target in linked if not (ROOT / target).exists()] == []


def test_every_command_of_a_recipe_exists():
    modules = set(re.findall(r"python3? -m (recipe\.[\w.]+)", README))
    # A package is a command by its `__main__`, which is what `python -m` runs of it.
    commands = {name: find_spec(name) for name in modules}
    lacking = [
        name
        for name, spec in commands.items()
        if spec is None or (spec.submodule_search_locations and find_spec(f"{name}.__main__") is None)
    ]
    assert modules and lacking == []
