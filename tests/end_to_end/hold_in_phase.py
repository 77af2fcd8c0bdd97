"""Holds a training run still in a chosen phase of a step, so that a test can kill it exactly there.

The run imports this file the ways users have: as ``actor_rollout_ref.model.external_lib`` in the workers, and as the
custom reward function. Environment: ``HOLD=update:3`` holds at the third call of that phase in a process, after
touching the file ``HOLD_MARKER``.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.knapsack.tiny import tiny_task
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager
from verl.workers.actor.dp_actor import DataParallelPPOActor
from verl.workers.rollout import HFRollout


def _hold_if_due(phase: str, call: int) -> None:
    held_phase, _, held_call = os.environ.get("HOLD", "").partition(":")
    if phase == held_phase and call == int(held_call):
        Path(os.environ["HOLD_MARKER"]).touch()
        time.sleep(3600)


def _holding(phase: str, function: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
    calls = itertools.count(1)

    @functools.wraps(function)
    def hold_and_call(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if not after:
            _hold_if_due(phase, call)
        result = function(*args, **kwargs)
        if after:
            _hold_if_due(phase, call)
        return result

    return hold_and_call


compute_score = _holding("reward", tiny_task.compute_score)
HFRollout.generate_sequences = _holding("rollout", HFRollout.generate_sequences)
DataParallelPPOActor.update_policy = _holding("update", DataParallelPPOActor.update_policy)
# Held when the weights are written, but neither the place in the data nor the mark that the checkpoint is whole.
FSDPCheckpointManager.save_checkpoint = _holding("saving", FSDPCheckpointManager.save_checkpoint, after=True)
