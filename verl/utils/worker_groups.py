"""The worker processes of a trainer, and what verl keeps beside them."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from typing import Any

import ray

__all__ = ["log_dead", "register_center_of", "release_workers", "workers_of"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

_SECONDS_TO_ANSWER = 10.0


def workers_of(trainer: Any) -> list[ray.actor.ActorHandle]:
    """Each worker process of one of verl's PPO trainers once, however many groups it serves."""
    return list({worker._actor_id: worker for group in _groups_of(trainer) for worker in group.workers}.values())


def release_workers(trainer: Any) -> None:
    """End a trainer's worker processes; without this Ray reports their end with the run as a failure.

    A group's register center belongs to its first worker and has to end before it: Ray would end it as an orphan,
    by a signal that it may report.
    """
    # Groups of the same processes share a register center.
    for group in {group.name_prefix: group for group in _groups_of(trainer)}.values():
        _end_actor(register_center_of(group))
    for worker in workers_of(trainer):
        ray.kill(worker)


def _groups_of(trainer: Any) -> list[Any]:
    groups = [trainer.actor_rollout_wg]
    groups += [trainer.critic_wg] if trainer.use_critic else []
    groups += [trainer.ref_policy_wg] if trainer.use_reference_policy and not trainer.ref_in_actor else []
    return groups + ([trainer.rm_wg] if trainer.use_rm else [])


def _end_actor(actor: ray.actor.ActorHandle) -> None:
    """Let an actor end itself, as `ray.kill` does not, and wait until it has."""
    with contextlib.suppress(ray.exceptions.RayActorError):
        ray.get(actor.__ray_terminate__.remote())


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
