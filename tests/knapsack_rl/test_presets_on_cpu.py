"""Presets: what each sets, and that any single key overrides it."""

from __future__ import annotations

import doctest

import pytest

from knapsack_rl import ConfigError, ExplorationConfig, presets
from knapsack_rl.presets import PRESETS, preset_value, with_preset


def test_docstring_examples_hold():
    assert doctest.testmod(presets).failed == 0


def test_what_each_preset_sets():
    """Changing one changes what users get under its name: say so in the changelog, and in docs/configuration.md."""
    assert {name: dict(settings) for name, settings in PRESETS.items()} == {
        "paper": {"exploration.success_rate.estimator": "previous_epoch", "algorithm.prompt_weight": "rows"},
        "recommended": {"exploration.success_rate.estimator": "beta", "algorithm.prompt_weight": "sqrt"},
    }


def test_every_preset_sets_the_same_keys():
    assert len({frozenset(settings) for settings in PRESETS.values()}) == 1


@pytest.mark.parametrize("settings", [{}, {"preset": "paper"}, {"preset": None}])
def test_the_default_is_the_papers(settings):
    assert ExplorationConfig.from_mapping(settings) == ExplorationConfig()
    assert preset_value(settings.get("preset"), "algorithm.prompt_weight") == "rows"


def test_a_preset_gives_the_keys_that_are_not_set():
    recommended = ExplorationConfig.from_mapping({"preset": "recommended", "success_rate": {"discount": 0.8}})
    assert recommended == ExplorationConfig.from_mapping({"success_rate": {"estimator": "beta", "discount": 0.8}})


@pytest.mark.parametrize("preset", [*PRESETS, None])
def test_a_single_key_overrides_every_preset(preset):
    config = ExplorationConfig.from_mapping({"preset": preset, "success_rate": {"estimator": "window"}, "n_up": 7})
    assert (config.success_rate.estimator, config.n_up) == ("window", 7)


def test_settings_are_not_changed():
    settings = {"success_rate": {"window": 4}}
    with_preset("recommended", settings, "exploration")
    assert settings == {"success_rate": {"window": 4}}


@pytest.mark.parametrize("preset", ["recomended", "", 3, ["paper"]])
def test_an_unknown_preset_is_refused_with_those_that_there_are(preset):
    with pytest.raises(ConfigError, match="exploration.preset=.* expected null or one of paper, recommended"):
        ExplorationConfig.from_mapping({"preset": preset})


def test_a_section_that_is_none_is_refused_as_before():
    with pytest.raises(ConfigError, match="exploration.success_rate=3 is not accepted: expected a section of keys"):
        ExplorationConfig.from_mapping({"preset": "recommended", "success_rate": 3})
