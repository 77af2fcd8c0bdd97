"""What ``import verl`` loads in every process of a run, through the variable ``VERL_USE_EXTERNAL_MODULES``.

The trainers are registered where verl's own are imported, and nowhere else: rollout servers and workers that have no
use for a trainer do not pay for importing one.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import wrapt

__all__: list[str] = []


@wrapt.when_imported("verl.trainer.ppo.v1")
def _register_trainers(verls_trainers: ModuleType) -> None:
    import_module("knapsack_verl09.trainer")
