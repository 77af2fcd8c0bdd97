"""Overlay of ``verl.workers.critic``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.workers.critic.base import BasePPOCritic  # noqa: E402, I001  (needs __path__; dp_critic needs the base)
from verl.workers.critic.dp_critic import DataParallelPPOCritic  # noqa: E402

__all__ = ["BasePPOCritic", "DataParallelPPOCritic"]
