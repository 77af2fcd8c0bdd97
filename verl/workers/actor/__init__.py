"""Overlay of ``verl.workers.actor``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.workers.actor.base import BasePPOActor  # noqa: E402, I001  (needs __path__; dp_actor needs the base)
from verl.workers.actor.dp_actor import DataParallelPPOActor  # noqa: E402

__all__ = ["BasePPOActor", "DataParallelPPOActor"]
