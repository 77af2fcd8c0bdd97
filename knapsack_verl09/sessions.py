"""The finished sessions of prompts, read from verl's TransferQueue: what came of their rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import transfer_queue as tq

from knapsack_rl.advantage_estimators import AdvantageEstimator
from knapsack_rl.arrays import Array
from knapsack_rl.outcomes import Outcomes
from knapsack_verl09.advantages import session_of, uid_of_session

__all__ = ["Sessions", "read_sessions", "reward_info"]

_FIELDS = ["rm_scores", "response_mask", "extra_fields", "token_level_rewards", "advantages"]


@dataclass(frozen=True, eq=False)
class Sessions:
    """B sessions, in any order.

    Attributes:
        names: B names of the sessions, ``{uid}_{session}``.
        scores: (B,) float, outcome rewards.
        rewards: (B,) float, what the advantage estimator compared: the score, less a KL penalty if one is taken off.
        verdicts: (B,) float, what decides about success: the reward function's ``acc``, or else the score.
        response_tokens: (B,) int64, of all outputs of the session together.
        has_advantage: (B,) bool, whether any of its tokens has an advantage; False where it was not trained on.
    """

    names: tuple[str, ...]
    scores: Array
    rewards: Array
    verdicts: Array
    response_tokens: Array
    has_advantage: Array

    @property
    def uids(self) -> tuple[str, ...]:
        """B names of their prompts."""
        return tuple(uid_of_session(name) for name in self.names)

    def of(self, uids: Sequence[str]) -> Sessions:
        """Those of the named prompts."""
        wanted = set(uids)
        kept = np.array([uid in wanted for uid in self.uids], dtype=bool)
        return Sessions(
            tuple(name for name, is_kept in zip(self.names, kept) if is_kept),
            self.scores[kept],
            self.rewards[kept],
            self.verdicts[kept],
            self.response_tokens[kept],
            self.has_advantage[kept],
        )

    def outcomes(self, uids: Sequence[str], adv_estimator: AdvantageEstimator, success_threshold: float) -> Outcomes:
        """What came of the prompts ``uids``, which are numbered in this order.

        Args:
            uids: the prompts; every session belongs to one of them.
            adv_estimator: tells which rollouts have a gradient.
            success_threshold: ``exploration.success_threshold``.
        """
        number = {uid: index for index, uid in enumerate(uids)}
        prompt_index = np.array([number[uid] for uid in self.uids], dtype=np.int64)
        return Outcomes(
            prompt_index=prompt_index,
            scores=self.scores,
            successes=self.verdicts > success_threshold,
            effective=adv_estimator.effective_rollouts(self.rewards, prompt_index, self.has_advantage[:, None]),
            response_tokens=self.response_tokens,
        )

    @classmethod
    def joined(cls, parts: Sequence[Sessions]) -> Sessions:
        """Several records as one."""
        return cls(
            tuple(name for part in parts for name in part.names),
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("scores", "rewards", "verdicts", "response_tokens", "has_advantage")
            ),
        )


def read_sessions(keys: Sequence[str], partition_id: str) -> Sessions | None:
    """Read the sessions of trajectories; None if there are none, or none has its reward.

    A session of several outputs earned what its last output did.

    Args:
        keys: of the trajectories, ``{uid}_{session}_{output}``.
        partition_id: the partition that holds them.
    """
    if not keys:
        return None
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=_FIELDS)
    if "rm_scores" not in set(data.keys()):
        return None
    present = set(data.keys())
    scores = [float(row.sum()) for row in data["rm_scores"]]
    rewards = [float(row.sum()) for row in data["token_level_rewards"]] if "token_level_rewards" in present else scores
    tokens = [int(row.sum()) for row in data["response_mask"]]
    infos = reward_info(data, len(keys))
    moved = [bool((row != 0).any()) for row in data["advantages"]] if "advantages" in present else [False] * len(keys)
    rows: dict[str, list[int]] = {}
    for row in sorted(range(len(keys)), key=lambda row: int(keys[row].rsplit("_", 1)[1])):
        rows.setdefault(session_of(keys[row]), []).append(row)
    last = [of_session[-1] for of_session in rows.values()]
    return Sessions(
        names=tuple(rows),
        scores=np.array([scores[row] for row in last]),
        rewards=np.array([rewards[row] for row in last]),
        verdicts=np.array([_verdict(infos[row], scores[row]) for row in last]),
        response_tokens=np.array([sum(tokens[row] for row in part) for part in rows.values()], dtype=np.int64),
        has_advantage=np.array([any(moved[row] for row in part) for part in rows.values()]),
    )


def reward_info(data: Any, count: int) -> list[dict[str, Any]]:
    """What the reward function told besides the score of each of ``count`` trajectories; empty where nothing."""
    if "extra_fields" not in set(data.keys()):
        return [{}] * count
    return [_plain(extra).get("reward_extra_info") or {} for extra in data["extra_fields"]]


def _plain(value: Any) -> dict[str, Any]:
    content = getattr(value, "data", value)
    return content if isinstance(content, dict) else {}


def _verdict(info: dict[str, Any], score: float) -> float:
    verdict = info.get("acc")
    return score if verdict is None else float(verdict)
