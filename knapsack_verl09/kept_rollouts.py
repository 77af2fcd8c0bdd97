"""Keeps sessions of the batches that are trained on to be read (``exploration.dump_rollouts``), as on verl 0.5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transfer_queue as tq

from knapsack_rl.rollout_keeper import RolloutWriter, rows_to_keep
from knapsack_verl09.advantages import session_of
from knapsack_verl09.groups import PlannedGroup
from knapsack_verl09.sessions import Sessions, reward_info

__all__ = ["RolloutKeeper"]


class RolloutKeeper(RolloutWriter):
    """Keeps sessions as ``exploration.dump_rollouts`` asks for; the writing happens beside the training."""

    def keep(
        self,
        step: int,
        sessions: Sessions,
        keys: Sequence[str],
        partition_id: str,
        planned: Mapping[str, PlannedGroup],
        *,
        least_epoch: int = 0,
    ) -> None:
        """Keep sessions of the batch that a step trains on, which has its rewards and advantages.

        Args:
            step: the training step.
            sessions: of the batch.
            keys: of their trajectories, as they are trained on; a session of several is kept as one text.
            partition_id: the partition that holds them.
            planned: what was planned, by uid; sessions of other groups are left out.
            least_epoch: the epoch in which a group that is late counts.

        Raises:
            OSError: those of an earlier step could not be written.
        """
        if self.config.dump_rollouts is None:
            return
        sessions = sessions.of([uid for uid in dict.fromkeys(sessions.uids) if uid in planned])
        if not sessions.uids:
            return
        is_success = sessions.verdicts > self.config.success_threshold
        uids, prompt_index = np.unique(sessions.uids, return_inverse=True)
        rows, columns = rows_to_keep(
            self.config,
            step,
            prompt_index,
            is_success,
            estimates=np.array([planned[uid].success_rate for uid in uids], dtype=np.float64),
            budgets=np.bincount(prompt_index),
            successes=np.bincount(prompt_index, weights=is_success).astype(np.int64),
        )
        read = _read([sessions.names[row] for row in rows], keys, partition_id)
        groups = [planned[uid] for uid in uids[prompt_index[rows]]]
        columns |= {
            "prompt_id": np.array([group.prompt_id for group in groups]),
            "score": sessions.scores[rows],
            "response_tokens": sessions.response_tokens[rows],
            **{name: [session[name] for session in read] for name in ("acc", "pred", "advantage")},
        }
        epochs = np.array([max(group.epoch, least_epoch) for group in groups])
        self.write(step, epochs, columns, [session["response"] for session in read])


def _read(names: Sequence[str], keys: Sequence[str], partition_id: str) -> list[dict[str, Any]]:
    """What the sessions' trajectories hold, in the order of ``names``: acc, pred, advantage, token ids of the response.

    The advantage is the mean over the tokens of all outputs that are the model's.
    """
    outputs: dict[str, list[str]] = {name: [] for name in names}
    for key in sorted(keys, key=lambda key: int(key.rsplit("_", 1)[1])):
        if session_of(key) in outputs:
            outputs[session_of(key)].append(key)
    wanted = [key for of_session in outputs.values() for key in of_session]
    fields = ["responses", "response_mask", "advantages", "extra_fields"]
    data = tq.kv_batch_get(keys=wanted, partition_id=partition_id, select_fields=fields)
    infos = reward_info(data, len(wanted))
    columns = (list(data["responses"]), list(data["response_mask"]), list(data["advantages"]), infos)
    place = {key: row for row, key in enumerate(wanted)}
    sessions = []
    for of_session in outputs.values():
        responses, masks, advantages, info = ([column[place[key]] for key in of_session] for column in columns)
        tokens = sum(int(mask.sum()) for mask in masks)
        total = sum(float((values * mask).sum()) for values, mask in zip(advantages, masks, strict=True))
        acc, pred = info[-1].get("acc"), info[-1].get("pred")
        sessions.append(
            {
                "acc": None if acc is None else float(acc),
                "pred": None if pred is None else str(pred),
                "advantage": total / max(tokens, 1),
                "response": torch.cat(responses).tolist(),
            }
        )
    return sessions
