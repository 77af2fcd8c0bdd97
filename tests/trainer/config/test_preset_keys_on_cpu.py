"""Presets in the trainer's configuration: from the command line to what is in force."""

from __future__ import annotations

import re
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from knapsack_rl.presets import PRESETS
from verl.trainer.config.checks import ConfigError, exploration_config, find_config_errors, iterate_scalars
from verl.trainer.config.checks.facts import Facts
from verl.utils.run_config import save_run_config

ROOT = Path(__file__).parents[3]
KEYS = tuple(PRESETS["paper"])
OTHER = {"exploration.success_rate.estimator": "window", "algorithm.prompt_weight": "equal"}


def compose(*overrides: str):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=list(overrides))


def in_force(*overrides: str) -> dict[str, str]:
    config = compose(*overrides)
    return {key: OmegaConf.select(config, key) for key in KEYS}


def test_the_keys_of_the_presets_come_from_the_preset_and_no_others():
    defaults = dict(iterate_scalars(compose()))
    from_preset = {key: value for key, value in defaults.items() if str(value).startswith("${preset:")}
    assert from_preset == {key: f"${{preset:{key}}}" for key in KEYS}


def test_the_default_is_the_papers():
    assert in_force() == in_force("exploration.preset=paper") == in_force("exploration.preset=null") == PRESETS["paper"]


def test_a_preset_is_in_force():
    assert in_force("exploration.preset=recommended") == PRESETS["recommended"]
    config = exploration_config(compose("exploration.preset=recommended"))
    assert config.success_rate.estimator == "beta"


@pytest.mark.parametrize("preset", [*PRESETS, "null"])
@pytest.mark.parametrize("key", KEYS)
def test_a_single_key_overrides_it_before_and_after(preset, key):
    expected = {**(PRESETS["paper"] if preset == "null" else PRESETS[preset]), key: OTHER[key]}
    overrides = [f"exploration.preset={preset}", f"{key}={OTHER[key]}"]
    assert in_force(*overrides) == in_force(*reversed(overrides)) == expected


def test_the_runs_configuration_has_what_is_in_force(tmp_path):
    config = compose("exploration.preset=recommended", "algorithm.prompt_weight=equal")
    OmegaConf.resolve(config)
    save_run_config(config, tmp_path)
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["exploration"]["preset"] == "recommended"
    assert saved["exploration"]["success_rate"]["estimator"] == "beta"
    assert saved["algorithm"]["prompt_weight"] == "equal"
    # What is in force does not change when it is read again.
    assert exploration_config(OmegaConf.create(saved)).success_rate.estimator == "beta"


@pytest.mark.parametrize("preset", ["best", "Paper", "[paper]", "3"])
def test_an_unknown_preset_is_refused_in_one_line(preset):
    (error,) = find_config_errors(compose(f"exploration.preset={preset}"), compose(), Facts())
    assert isinstance(error, ConfigError) and "exploration.preset=" in str(error) and "\n" not in str(error)


def test_the_documentation_has_what_each_preset_sets():
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page.partition("<!-- presets: begin -->")[2].partition("<!-- presets: end -->")[0]
    header, _, *rows = [re.findall(r"`([^`]+)`", line) for line in table.strip().splitlines()]
    assert header == list(PRESETS)
    assert {row[0]: row[1:] for row in rows} == {key: [PRESETS[name][key] for name in PRESETS] for key in KEYS}
