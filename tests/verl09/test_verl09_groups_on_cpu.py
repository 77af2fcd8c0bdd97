"""Groups between plan and outcomes, the advantages, and how sessions are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transfer_queue

from knapsack_rl import ExplorationConfig, Explorer
from knapsack_verl09.advantages import adjust_advantages
from knapsack_verl09.groups import Groups
from knapsack_verl09.sessions import Sessions, read_sessions


def explorer() -> Explorer:
    return Explorer(ExplorationConfig(n_up=16), rollouts_per_prompt=4)


def sessions(**scores: list[float]) -> Sessions:
    """Sessions of prompts by their scores, all of three tokens."""
    uids = tuple(uid for uid, of_uid in scores.items() for _ in of_uid)
    values = np.array([score for of_uid in scores.values() for score in of_uid], dtype=float)
    return Sessions(uids, values, values, values, np.full(len(values), 3), np.zeros(len(values), dtype=bool))


def test_what_came_back_is_learned_and_not_what_was_planned():
    planner = explorer()
    groups = Groups(planner, 0.0)
    groups.add(planner.plan(["p", "q", "r"], epoch=0, step=1), ["u1", "u2", "u3"])
    groups.take_back(["u3"], sessions(u3=[0.0, 0.0]))  # evicted, two of its four sessions failed
    groups.take_back(["u1", "u2"], sessions(u1=[1.0, 0.0, 1.0, 1.0], u2=[1.0]))
    [(plan, outcomes)] = groups.learn(step=1)
    assert dict(zip(plan.prompt_ids, plan.budgets.tolist())) == {"r": 2, "p": 4, "q": 1}
    assert len(outcomes.scores) == 7 and len(groups) == 0
    assert plan.rules == ["unseen"] * 3
    rates = planner.task_status.success_rates(["p", "q", "r"], epoch=1)
    assert rates.tolist() == [0.75, 1.0, 0.0]
    assert groups.learn(step=2) == []


def test_groups_are_recorded_in_the_order_of_their_plan_whatever_order_they_return_in():
    planner = explorer()
    groups = Groups(planner, 0.0)
    groups.add(planner.plan(["p", "q", "r"], epoch=0, step=1), ["u1", "u2", "u3"])
    groups.take_back(["u3"], sessions(u3=[1.0, 1.0]))
    groups.take_back(["u2", "u1"], sessions(u2=[0.0, 1.0, 1.0], u1=[0.0]))
    [(plan, outcomes)] = groups.learn(step=1)
    assert plan.prompt_ids == ("p", "q", "r") and plan.budgets.tolist() == [1, 3, 2]
    assert outcomes.prompt_index.tolist().count(1) == 3 and outcomes.scores[outcomes.prompt_index == 1].sum() == 2.0


def test_a_group_whose_sessions_all_failed_is_forgotten():
    planner = explorer()
    groups = Groups(planner, 0.0)
    groups.add(planner.plan(["p", "q"], epoch=0, step=1), ["u1", "u2"])
    groups.take_back(["u1"], None)
    assert len(groups) == 1
    groups.take_back(["u2"], sessions(u2=[1.0]))
    groups.learn(step=1)
    assert np.isnan(planner.task_status.success_rates(["p"], epoch=1)[0])


def test_groups_of_two_epochs_are_learned_in_order_and_late_ones_in_the_epoch_that_has_begun():
    planner = explorer()
    groups = Groups(planner, 0.0)
    groups.add(planner.plan(["p", "late"], epoch=0, step=1), ["u1", "u2"])
    groups.add(planner.plan(["q"], epoch=1, step=1), ["u3"])
    groups.take_back(["u3", "u1"], sessions(u3=[1.0], u1=[0.0]))
    assert [plan.epoch for plan, _ in groups.learn(step=1)] == [0, 1]
    groups.take_back(["u2"], sessions(u2=[1.0, 1.0]))
    assert [plan.epoch for plan, _ in groups.learn(step=2)] == [1]
    assert planner.task_status.success_rates(["p", "q", "late"], epoch=2).tolist() == [0.0, 1.0, 1.0]


def test_groups_that_nobody_planned_are_left_out(caplog):
    groups = Groups(explorer(), 0.0)
    groups.take_back(["u1"], sessions(u1=[1.0]))
    assert groups.learn(step=1) == [] and "1 groups came back that this run did not plan" in caplog.text


def test_groups_under_way_survive_a_checkpoint():
    planner = explorer()
    before, after = Groups(planner, 0.0), Groups(planner, 0.0)
    before.add(planner.plan(["p", "q"], epoch=3, step=9), ["u1", "u2"])
    after.load_state_dict(before.state_dict())
    assert after.state_dict() == before.state_dict() and len(after) == 2
    after.take_back(["u1"], sessions(u1=[1.0]))
    assert after.learn(step=9)[0][0].epoch == 3


def test_a_checkpoint_of_a_version_that_did_not_record_rules_is_taken():
    before, after = Groups(explorer(), 0.0), Groups(explorer(), 0.0)
    before.add(explorer().plan(["p", "q"], epoch=0, step=1), ["u1", "u2"])
    state = before.state_dict()
    del state["u1"]["rule"]
    after.load_state_dict(state)
    after.take_back(["u1", "u2"], sessions(u1=[1.0], u2=[0.0]))
    [(plan, _)] = after.learn(step=1)
    assert dict(zip(plan.prompt_ids, plan.rules)) == {"p": None, "q": "unseen"}


def test_a_session_alone_has_no_advantage_and_a_padding_free_group_keeps_its_own():
    keys = ["a_0_0", "a_1_0", "b_0_0", "b_0_1"]  # b: one session of two outputs
    values = [torch.tensor([6.0, 6.0]), torch.tensor([-1.0]), torch.tensor([1.0]), torch.tensor([1.0, 1.0])]
    adjusted, clipped = adjust_advantages(values, keys, adv_clip=5.0, compares_group=True)
    assert [row.tolist() for row in adjusted] == [[5.0, 5.0], [-1.0], [0.0], [0.0, 0.0]]
    assert clipped == pytest.approx(2 / 6)
    kept, clipped = adjust_advantages(values, keys, adv_clip=None, compares_group=False)
    assert [row.tolist() for row in kept] == [row.tolist() for row in values] and clipped == 0


def test_prompts_count_by_their_weight_after_the_clip():
    keys = ["a_0_0", "a_1_0", *(f"b_{session}_0" for session in range(8))]
    adjusted, _ = adjust_advantages(
        [torch.tensor([6.0])] * len(keys), keys, adv_clip=5.0, compares_group=True, prompt_weight="equal"
    )
    pulls = torch.cat(adjusted)
    assert pulls[:2].sum() == pytest.approx(pulls[2:].sum()) and pulls.mean() == pytest.approx(5.0)


def test_a_session_is_read_by_its_last_output_and_its_verdict(monkeypatch):
    rows = {
        "a_0_0": {"rm_scores": [0.0, 0.3], "response_mask": [1, 1], "extra": {"reward_extra_info": {"acc": True}}},
        "a_1_1": {"rm_scores": [0.0], "response_mask": [1], "extra": {"reward_extra_info": {"acc": False}}},
        "a_1_0": {"rm_scores": [1.0], "response_mask": [1], "extra": {}},
        "b_0_0": {"rm_scores": [-1.0], "response_mask": [0], "extra": {}},
    }

    def kv_batch_get(keys, partition_id, select_fields):
        return {
            "rm_scores": [torch.tensor(rows[key]["rm_scores"]) for key in keys],
            "response_mask": [torch.tensor(rows[key]["response_mask"]) for key in keys],
            "extra_fields": [rows[key]["extra"] for key in keys],
        }

    monkeypatch.setattr(transfer_queue, "kv_batch_get", kv_batch_get)
    read = read_sessions(list(rows), "train")
    assert read.uids == ("a", "a", "b")
    assert read.scores.tolist() == pytest.approx([0.3, 0.0, -1.0])
    assert read.verdicts.tolist() == [1.0, 0.0, -1.0]
    assert read.response_tokens.tolist() == [2, 2, 0]
    assert read_sessions([], "train") is None
