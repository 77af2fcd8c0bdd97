"""Overrides that Hydra cannot compose are explained in one line."""

from __future__ import annotations

from verl.trainer.config import composition
from verl.trainer.config.composition import explain_composition_error


def test_an_override_with_an_unknown_key_is_explained_by_the_nearest_known_one():
    error = composition.HydraException("Could not override 'exploration.n_upp'.\nKey 'n_upp' is not in struct")
    assert explain_composition_error(error) == "exploration.n_upp is not a known key: did you mean exploration.n_up?"
    assert explain_composition_error(composition.HydraException("a\n  b")) == "a b"
    assert explain_composition_error(composition.HydraException("Could not override 'qqqq'")).endswith("known key.")
