"""Overlay of ``verl.workers.rollout``: upstream's rollouts, with this fork's rollout for transformers models."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.workers.rollout.base import BaseRollout  # noqa: E402  (needs __path__)
from verl.workers.rollout.hf_rollout import HFRollout  # noqa: E402
from verl.workers.rollout.naive import NaiveRollout  # noqa: E402

__all__ = ["BaseRollout", "NaiveRollout", "HFRollout"]
