"""Why Hydra could not compose a configuration, in the words of the person who wrote the override."""

from __future__ import annotations

import difflib
import re

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from knapsack_rl.messages import one_line
from verl.trainer.config.checks import iterate_scalars

__all__ = ["COMPOSITION_ERRORS", "explain_composition_error"]

_KEY = re.compile(r"[+~]{0,2}[\w./@:-]+")
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)


def explain_composition_error(error: Exception) -> str:
    """Reduce one of `COMPOSITION_ERRORS` to a line, with the nearest known key, or the override in quotes.

    >>> explain_composition_error(HydraException("Could not override 'exploration.n_upp'."))
    'exploration.n_upp is not a known key: did you mean exploration.n_up?'
    """
    if isinstance(error, OverrideParseException):
        return _explain_parse_error(error)
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown is None:
        return one_line(error)
    key = unknown.group(1)
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        known = [name for name, _ in iterate_scalars(hydra.compose("knapsack_trainer"))]
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"{key} is not a known key" + (f": did you mean {nearest[0]}?" if nearest else ".")


def _explain_parse_error(error: OverrideParseException) -> str:
    """Say how to quote the value of an override that Hydra cannot parse.

    >>> print(_explain_parse_error(OverrideParseException("a.b=x=y.parquet", "mismatched input '='")))
    a.b=x=y.parquet cannot be parsed: quote the value twice, once for the shell: "a.b='x=y.parquet'".
    """
    key, has_value, value = error.override.partition("=")
    if not has_value or value[:1] in ("'", '"', "[", "{") or not _KEY.fullmatch(key):
        return f"{error.override} cannot be parsed: {' '.join(str(error).split())}"
    quoted = value.replace("'", "\\'")
    return f"{error.override} cannot be parsed: quote the value twice, once for the shell: \"{key}='{quoted}'\"."
