"""What verl keeps beside a group of workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import ray

__all__ = ["log_dead", "register_center_of"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

_SECONDS_TO_ANSWER = 10.0


def register_center_of(worker_group: Any) -> ray.actor.ActorHandle:
    """The actor that knows on which node each worker of a group is; the group's first worker owns it.

    Raises:
        ValueError: there is none, or it has ended.
    """
    return ray.get_actor(f"{worker_group.name_prefix}_register_center")


def log_dead(workers: Sequence[ray.actor.ActorHandle]) -> None:
    """Log which workers have died, and what Ray knows of their end.

    Where one dies in a common operation, the others fail too, and the failure of one of those may come first. A worker
    that is at work answers late and is taken for alive.
    """
    answers = [worker.__ray_ready__.remote() for worker in workers]
    answered, _ = ray.wait(answers, num_returns=len(answers), timeout=_SECONDS_TO_ANSWER)
    for answer in answered:
        try:
            ray.get(answer)
        except ray.exceptions.ActorDiedError as death:
            logger.error("A worker has died, which may be why others failed: %s", death)
