"""Batch sizes that do not fit each other, groups of one rollout and greedy rollouts are refused."""

from __future__ import annotations

import pytest

from verl.trainer.config.checks.budgets import check_dynamic_sampling, check_mini_batches
from verl.trainer.config.checks.estimators import check_groups
from verl.trainer.config.checks.sampling import check_sampling

MINI, N = "actor_rollout_ref.actor.ppo_mini_batch_size", "actor_rollout_ref.rollout.n"
GPUS, BATCH, DRAWN = "trainer.n_gpus_per_node", "data.train_batch_size", "data.gen_batch_size"
BUDGET, ALLOCATOR = "exploration.total_budget", "exploration.allocator"
SMALL = {BATCH: 16, N: 8, GPUS: 1}
ROLLOUT = "actor_rollout_ref.rollout"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({MINI: 3}, ["=3 does not divide data.train_batch_size=16", "nearest legal: 2 or 4"]),
        ({MINI: 12}, ["=12 does not divide", "nearest legal: 8 or 16"]),
        ({MINI: 31}, ["=31 exceeds data.train_batch_size=16", "nearest legal: 16"]),
        ({MINI: 16, DRAWN: 24}, ["does not divide data.gen_batch_size=24", "12 or 24"]),
        ({MINI: 5, GPUS: 4, N: 1, BATCH: 20}, ["gives 5 rows", "4 data-parallel workers", "nearest legal: 4 or 20"]),
        ({MINI: 4, BUDGET: 120}, ["does not divide exploration.total_budget=120", "nearest legal: 3 or 5"]),
        ({MINI: 4, BUDGET: [[1, 128], [9, 120]]}, ["exploration.total_budget=120"]),
        (
            {MINI: 8, "critic.ppo_mini_batch_size": 5, "algorithm.adv_estimator": "gae"},
            ["critic.ppo_mini_batch_size=5", "4 or 8"],
        ),
    ],
)
def test_mini_batches_that_do_not_divide_a_step_are_refused_with_the_nearest_legal(refusal, settings, said):
    message = refusal(check_mini_batches, {**SMALL, **settings})
    assert all(part in message for part in said), message


@pytest.mark.parametrize(
    "settings",
    [
        {MINI: 16},
        {MINI: 2, GPUS: 4},
        {MINI: 12, DRAWN: 24},
        {MINI: 4, BUDGET: [[1, 128], [9, 64]]},
        # Dynamic sampling trains on the rows of train_batch_size prompts, however many it draws.
        {MINI: 16, DRAWN: 24, "exploration.dynamic_sampling.enable": True},
        {MINI: 3, "trainer.val_only": True},
    ],
)
def test_mini_batches_that_divide_a_step_are_accepted(refusal, settings):
    assert refusal(check_mini_batches, {**SMALL, **settings}) == ""


def test_dynamic_sampling_must_be_able_to_draw_what_it_trains_on(refusal):
    dynamic = {**SMALL, "exploration.dynamic_sampling.enable": True, DRAWN: 4}
    assert refusal(check_dynamic_sampling, dynamic) == ""
    said = refusal(check_dynamic_sampling, {**dynamic, "exploration.dynamic_sampling.max_generations": 3})
    assert "12 prompts, fewer than data.train_batch_size=16" in said and "at least 4" in said
    assert "cannot be shared by 3 workers" in refusal(check_dynamic_sampling, {**dynamic, GPUS: 3})


@pytest.mark.parametrize("estimator", ["grpo", "grpo_passk", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline"])
def test_an_estimator_that_compares_a_group_refuses_groups_of_one(refusal, estimator):
    settings = {**SMALL, "algorithm.adv_estimator": estimator}
    for value in ("reinforce", "some.module:value"):
        said = refusal(check_groups, {**settings, "exploration.n_low": 1, "exploration.value": value})
        assert "exploration.n_low=1" in said and estimator in said and "at least 2" in said
    said = refusal(check_groups, {**settings, ALLOCATOR: "homogeneous", N: 1})
    assert f"{N}=1" in said and "at least 2" in said
    said = refusal(check_groups, {**settings, ALLOCATOR: "homogeneous", BUDGET: [[1, 128], [5, 31]]})
    assert f"{BUDGET}=31 for 16 prompts" in said and "at least 32" in said
    # Of 24 prompts that are drawn, 8 of a budget of 40 would have one rollout.
    said = refusal(check_groups, {**settings, ALLOCATOR: "homogeneous", BUDGET: 40, DRAWN: 24})
    assert f"{BUDGET}=40 for 24 prompts" in said


@pytest.mark.parametrize("estimator", ["reinforce_plus_plus", "remax", "gae"])
def test_an_estimator_that_compares_no_group_accepts_groups_of_one(refusal, estimator):
    settings = {**SMALL, "algorithm.adv_estimator": estimator}
    assert refusal(check_groups, {**settings, "exploration.n_low": 1}) == ""
    assert refusal(check_groups, {**settings, ALLOCATOR: "homogeneous", N: 1}) == ""


def test_groups_of_two_and_validation_alone_are_accepted(refusal):
    assert refusal(check_groups, {**SMALL, ALLOCATOR: "homogeneous", BUDGET: 32}) == ""
    assert refusal(check_groups, {**SMALL, "exploration.n_low": 2}) == ""
    assert refusal(check_groups, {**SMALL, ALLOCATOR: "homogeneous", N: 1, "trainer.val_only": True}) == ""


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("temperature", 0, "only validation may be greedy"),
        ("temperature", 0.0, "only validation may be greedy"),
        ("temperature", -1.0, "above 0"),
        ("do_sample", False, "Set it to true"),
        ("top_p", 0, "(0, 1]"),
        ("top_p", 1.5, "(0, 1]"),
        ("top_k", -2, "-1 or 0"),
        ("top_k", 2.5, "-1 or 0"),
        ("val_kwargs.temperature", -1, "0 (greedy)"),
        ("val_kwargs.top_p", 2, "(0, 1]"),
    ],
)
def test_sampling_parameters_that_cannot_train_are_refused(refusal, key, value, said):
    message = refusal(check_sampling, {f"{ROLLOUT}.{key}": value})
    assert message.startswith(f"{ROLLOUT}.{key}={str(value).lower()}") and said in message


def test_validation_may_be_greedy(refusal):
    assert refusal(check_sampling, {f"{ROLLOUT}.val_kwargs.temperature": 0}) == ""
    assert refusal(check_sampling, {f"{ROLLOUT}.temperature": 0.6, f"{ROLLOUT}.top_k": 50}) == ""
    assert refusal(check_sampling, {f"{ROLLOUT}.temperature": 0, "trainer.val_only": True}) == ""
