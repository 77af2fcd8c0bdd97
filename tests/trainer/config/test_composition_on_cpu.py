"""Overrides that Hydra cannot compose are explained in one line."""

from __future__ import annotations

import shlex

import hydra
import pytest

from verl.trainer.config import composition
from verl.trainer.config.composition import COMPOSITION_ERRORS, explain_composition_error


def compose(override: str):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=[override])


def test_an_override_with_an_unknown_key_is_explained_by_the_nearest_known_one():
    error = composition.HydraException("Could not override 'exploration.n_upp'.\nKey 'n_upp' is not in struct")
    assert explain_composition_error(error) == "exploration.n_upp is not a known key: did you mean exploration.n_up?"
    assert explain_composition_error(composition.HydraException("a\n  b")) == "a b"
    assert explain_composition_error(composition.HydraException("Could not override 'qqqq'")).endswith("known key.")


@pytest.mark.parametrize("name", ["a=b", "(one)", "für", "数据", "run[1]", "{a}", "it's", "a#b", "~a"])
def test_a_path_that_hydra_cannot_parse_is_shown_in_the_quotes_with_which_it_can(name):
    path = f"/data/{name}/train.parquet"
    with pytest.raises(COMPOSITION_ERRORS) as error:
        compose(f"data.train_files={path}")
    said = explain_composition_error(error.value)
    assert said.startswith(f"data.train_files={path} cannot be parsed: quote the value") and "\n" not in said
    # What the shell makes of what is proposed is composed to what was meant.
    (proposed,) = shlex.split(said.partition("for the shell: ")[2].removesuffix("."))
    assert compose(proposed).data.train_files == path


@pytest.mark.parametrize("override", ["data.train_files=[a.parquet", "data.train_files='a"])
def test_what_is_wrong_otherwise_is_said_in_one_line(override):
    with pytest.raises(COMPOSITION_ERRORS) as error:
        compose(override)
    said = explain_composition_error(error.value)
    assert said.startswith(f"{override} cannot be parsed: ") and "\n" not in said and "quote the value" not in said
