"""The groups of rollouts between their plan and their outcomes: verl returns them in its own time and order.

A group is a prompt's rollouts, under verl's uid. It leaves the replay buffer to be trained on, or because verl evicts
it: DAPO's filter, sessions that failed, staleness. Either way what its rollouts earned is learned.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from knapsack_rl.allocation import Allocation
from knapsack_rl.allocation_rules import rule_index
from knapsack_rl.explorer import Explorer, Plan
from knapsack_rl.outcomes import Outcomes
from knapsack_verl09.sessions import Sessions

__all__ = ["Groups", "PlannedGroup"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedGroup:
    """What was planned for a prompt.

    Attributes:
        prompt_id: its identity.
        epoch: in which it was planned.
        success_rate: the estimate that the plan used; None = unseen.
        predicted_share: of its rollouts, with a gradient; None = no forecast.
        expected_length: response tokens expected of a rollout; None = unknown.
        rule: what decided on its rollouts, of `PLACING_RULES`; None = not told.
    """

    prompt_id: str
    epoch: int
    success_rate: float | None
    predicted_share: float | None
    expected_length: float | None = None
    rule: str | None = None


class Groups:
    """Which groups are under way, and what came back since the last step.

    Args:
        explorer: learns from what came back.
        success_threshold: ``exploration.success_threshold``.
    """

    def __init__(self, explorer: Explorer, success_threshold: float) -> None:
        self._explorer = explorer
        self._success_threshold = success_threshold
        self._planned: dict[str, PlannedGroup] = {}
        self._returned: list[Sessions] = []
        self._fallback_rollouts = 0

    def __len__(self) -> int:
        """Number of groups under way."""
        return len(self._planned)

    def add(self, plan: Plan, uids: Sequence[str]) -> None:
        """The prompts of ``plan`` are on their way under these uids."""
        lengths = np.full(len(uids), np.nan) if plan.expected_lengths is None else plan.expected_lengths
        columns = (plan.success_rates, plan.predicted_shares, lengths)
        for uid, identity, *known in zip(uids, plan.prompt_ids, *map(_null_for_nan, columns), plan.rules, strict=True):
            self._planned[uid] = PlannedGroup(identity, plan.epoch, *known)
        self._fallback_rollouts += plan.allocation.placed["fallback"]

    @property
    def planned(self) -> Mapping[str, PlannedGroup]:
        """What was planned for the groups under way, by uid."""
        return MappingProxyType(self._planned)

    def take_back(self, uids: Sequence[str], sessions: Sessions | None) -> None:
        """The named groups left the buffer with these sessions; a group without any is forgotten."""
        if sessions is not None:
            known = [uid for uid in dict.fromkeys(sessions.uids) if uid in self._planned]
            if len(known) < len(set(sessions.uids)):
                logger.warning(
                    "%d groups came back that this run did not plan; nothing is learned from them.",
                    len(set(sessions.uids)) - len(known),
                )
            if known:
                self._returned.append(sessions.of(known))
        returned = {uid for part in self._returned for uid in part.uids}
        for uid in uids:
            if uid not in returned:
                self._planned.pop(uid, None)

    def learn(self, step: int) -> list[tuple[Plan, Outcomes]]:
        """Have the explorer observe what came back, and return it by the epochs of the plans, in their order.

        A budget in these plans is the number of rollouts that came, which failed sessions make less than was planned.

        Args:
            step: the training step that has it.
        """
        if not self._returned:
            return []
        sessions = Sessions.joined(self._returned)
        returned = set(sessions.uids)
        # In the order of the plan, by which the knapsack breaks ties: so a step can be planned anew from its history.
        uids = [uid for uid in self._planned if uid in returned]
        planned = {uid: self._planned.pop(uid) for uid in uids}
        explored = []
        for epoch in sorted({group.epoch for group in planned.values()}):
            of_epoch = [uid for uid in uids if planned[uid].epoch == epoch]
            outcomes = sessions.of(of_epoch).outcomes(of_epoch, self._explorer.adv_estimator, self._success_threshold)
            plan = _plan_of(
                [planned[uid] for uid in of_epoch],
                outcomes.rollouts_by_prompt(len(of_epoch)),
                # A group that is late counts in the epoch that has begun meanwhile: time never goes back.
                epoch=max(epoch, self._explorer.task_status.epoch),
                step=step,
                fallback_rollouts=self._fallback_rollouts,
            )
            self._fallback_rollouts = 0
            self._explorer.observe(plan, outcomes)
            explored.append((plan, outcomes))
        self._returned = []
        return explored

    def state_dict(self) -> dict[str, Any]:
        """The groups under way, as JSON takes them."""
        return {uid: asdict(group) for uid, group in self._planned.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the groups under way."""
        self._planned = {uid: PlannedGroup(**group) for uid, group in state.items()}


def _plan_of(
    groups: Sequence[PlannedGroup], rollouts: np.ndarray, *, epoch: int, step: int, fallback_rollouts: int
) -> Plan:
    placed = {"fallback": fallback_rollouts}
    rules = np.array([rule_index(group.rule) for group in groups])
    return Plan(
        prompt_ids=tuple(group.prompt_id for group in groups),
        epoch=epoch,
        step=step,
        success_rates=np.array([group.success_rate for group in groups], dtype=np.float64),
        allocation=Allocation(rollouts, np.nan, np.nan, placed, rules),
        predicted_shares=np.array([group.predicted_share for group in groups], dtype=np.float64),
        order=np.repeat(np.arange(len(groups)), rollouts),
        expected_lengths=np.array([group.expected_length for group in groups], dtype=np.float64),
    )


def _null_for_nan(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
