"""Limits that workers would meet after loading the model are refused at start-up, as are unknown names."""

from __future__ import annotations

import hydra
import pytest

from verl.trainer.config.checks import INDEPENDENT, ConfigError, Facts, find_config_errors, longest_sequence
from verl.trainer.config.checks.budgets import check_mini_batches
from verl.trainer.config.checks.kinds import check_values

MINI_BATCH = "actor_rollout_ref.actor.ppo_mini_batch_size"
ACTOR_TOKENS = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
LOG_PROB_TOKENS = "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu"
ENGINE_TOKENS = "actor_rollout_ref.rollout.max_num_batched_tokens"


def compose(*overrides: str):
    batches = ["data.train_batch_size=128", f"{MINI_BATCH}=64"]
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=[*batches, *overrides])


def refusals(*overrides: str) -> list[str]:
    config, said = compose(*overrides), []
    for check in (check_values, check_mini_batches, *INDEPENDENT):
        try:
            check(config, Facts(trains_here=False))
        except ConfigError as error:
            said.append(str(error))
    return said


def test_the_longest_sequence_is_prompt_and_response():
    assert longest_sequence(compose("data.max_prompt_length=1000", "data.max_response_length=24")) == 1024


def test_defaults_are_within_all_limits():
    assert refusals() == []


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.actor.strategy=fsdp3",
        "actor_rollout_ref.rollout.name=vlm",
        "trainer.resume_mode=always",
        "trainer.use_legacy_worker_impl=disabled",
        "reward_model.reward_manager=math",
    ],
)
def test_an_unknown_name_is_refused(override):
    (said,) = refusals(override)
    key, value = override.split("=")
    assert f"{key}={value!r}" in said and "\n" not in said


@pytest.mark.parametrize(
    ("key", "bound", "broken"),
    [(ACTOR_TOKENS, 1024, 1023), (ENGINE_TOKENS, 1024, 1023), (MINI_BATCH, 128, 129)],
)
def test_a_limit_is_refused_only_beyond_its_bound(key, bound, broken):
    settings = ("actor_rollout_ref.actor.use_dynamic_bsz=true", f"{LOG_PROB_TOKENS}=1024")
    (said,) = refusals(*settings, f"{key}={broken}")
    assert f"{key}={broken}" in said and "\n" not in said
    assert refusals(*settings, f"{key}={bound}") == []


def test_the_actor_of_megatron_has_the_same_limits():
    """Its section knows no sequence parallelism of Ulysses."""
    megatron = ("actor@actor_rollout_ref.actor=megatron_actor", "actor_rollout_ref.actor.strategy=megatron")
    assert refusals(*megatron) == []
    (said,) = refusals(*megatron, "actor_rollout_ref.actor.use_dynamic_bsz=true", f"{ACTOR_TOKENS}=1023")
    assert f"{ACTOR_TOKENS}=1023" in said


def test_resampling_by_score_is_refused():
    (said,) = refusals("algorithm.use_pf_ppo=true")
    assert "algorithm.use_pf_ppo=true" in said


def test_sequences_may_be_shared_by_the_gpus_of_ulysses():
    dynamic = ("actor_rollout_ref.actor.use_dynamic_bsz=true", f"{ACTOR_TOKENS}=512")
    assert any("512" in said for said in refusals(*dynamic))
    shared = "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"
    assert not any("actor.ppo_max_token_len_per_gpu" in said for said in refusals(*dynamic, shared))


def test_further_checks_are_made_only_of_what_the_first_ones_accept():
    config = compose(
        "data.train_files=hdfs://train",
        "data.val_files=hdfs://test",
        "actor_rollout_ref.model.path=hdfs://model",
        "actor_rollout_ref.actor.use_dynamic_bsz=true",
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=true",
        "actor_rollout_ref.rollout.n=8",
        "reward_model.reward_manager=math",
    )

    def refuse(config, facts):
        raise ConfigError("too large")

    said = list(map(str, find_config_errors(config, compose(), Facts(trains_here=False), [refuse])))
    assert len(said) == 2 and "reward_manager='math'" in said[0] and said[1] == "too large"
    config.trainer.n_gpus_per_node = 0
    (only,) = find_config_errors(config, compose(), Facts(trains_here=False), [refuse])
    assert "trainer.n_gpus_per_node=0" in str(only)
