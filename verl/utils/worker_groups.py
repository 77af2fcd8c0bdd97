"""What verl keeps beside a group of workers."""

from __future__ import annotations

from typing import Any

import ray

__all__ = ["register_center_of"]


def register_center_of(worker_group: Any) -> ray.actor.ActorHandle:
    """The actor that knows on which node each worker of a group is; the group's first worker owns it.

    Raises:
        ValueError: there is none, or it has ended.
    """
    return ray.get_actor(f"{worker_group.name_prefix}_register_center")
