"""Every key accepts values of its kind only, also those whose default is null."""

from __future__ import annotations

import hydra
import pytest
from omegaconf import OmegaConf

from verl.trainer.config.checks import ConfigError, Facts, iterate_scalars
from verl.trainer.config.checks.kinds import KINDS, KINDS_WITHOUT_DEFAULT, check_checkpoint_contents, check_types
from verl.trainer.config.checks.kinds import check_values as check_values_of

MEGATRON = (
    "actor@actor_rollout_ref.actor=megatron_actor",
    "ref@actor_rollout_ref.ref=megatron_ref",
    "critic=megatron_critic",
    "reward_model=megatron_reward_model",
)
KEEP = "trainer.max_actor_ckpt_to_keep"


@pytest.fixture(scope="module")
def megatron():
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=list(MEGATRON))


@pytest.fixture
def type_refusal(config_with, composed):
    def said(key, value) -> str:
        try:
            check_types(config_with({key: value}), composed)
        except ConfigError as error:
            return str(error)
        return ""

    return said


def test_every_key_whose_default_is_null_has_a_kind(composed, megatron):
    without_default = {
        key
        for config in (composed, megatron)
        for key, default in iterate_scalars(config)
        if default is None and not key.startswith("exploration.")
    }
    assert without_default - KINDS_WITHOUT_DEFAULT.keys() == set()


def test_every_key_with_a_kind_exists(composed, megatron):
    known = {key for config in (composed, megatron) for key, _ in iterate_scalars(config)}
    read_without_default = {"data.gen_batch_size", "data.seed"}
    assert (KINDS.keys() | KINDS_WITHOUT_DEFAULT.keys()) - known == read_without_default


def test_the_defaults_are_accepted(composed, megatron):
    for config in (composed, megatron):
        check_types(config, config)
        check_values_of(config, Facts())
        check_checkpoint_contents(config, Facts())


@pytest.mark.parametrize("key", [KEEP, "trainer.max_critic_ckpt_to_keep"])
def test_how_many_checkpoints_are_kept(type_refusal, key):
    for accepted in (None, -1, 0, 1, 12):
        assert type_refusal(key, accepted) == ""
    for refused in ("all", 1.5, -2, True, "3", [2]):
        said = type_refusal(key, refused)
        assert key in said and "keep all" in said


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer.total_training_steps", 1.5, "an integer"),
        ("trainer.total_training_steps", 0, "at least 1"),
        ("trainer.total_training_steps", "all", "an integer"),
        ("data.val_batch_size", -1, "at least 1"),
        ("actor_rollout_ref.rollout.max_model_len", "long", "an integer"),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", 0.5, "an integer"),
        ("trainer.rollout_data_dir", 5, "text"),
        ("trainer.profile_steps", 3, "a list"),
        ("trainer.profile_steps", [0], "a list"),
        ("ray_init.num_cpus", "four", "an integer"),
        ("critic.optim.min_lr_ratio", 2, "[0, 1]"),
        ("data.gen_batch_size", 0, "at least 1"),
        ("data.train_batch_size", 16.5, "a whole number"),
        ("data.train_batch_size", None, "a number"),
        ("actor_rollout_ref.actor.optim.lr", "fast", "a number"),
        ("actor_rollout_ref.actor.optim.lr", float("nan"), "a number"),
        ("actor_rollout_ref.actor.use_kl_loss", "yes", "true or false"),
        ("actor_rollout_ref.actor.use_kl_loss", None, "true or false"),
        ("trainer.experiment_name", 2024, "text"),
        ("trainer.default_local_dir", ["a", "b"], "text"),
    ],
)
def test_what_is_not_of_the_kind_is_refused(type_refusal, key, value, expected):
    said = type_refusal(key, value)
    assert said.startswith(f"{key}=") and expected in said and "\n" not in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_rollout_ref.rollout.top_p", 0.9),
        ("actor_rollout_ref.actor.entropy_coeff", 0.001),
        ("actor_rollout_ref.rollout.val_kwargs.temperature", 0.6),
        ("actor_rollout_ref.actor.optim.lr", 1),
        ("actor_rollout_ref.actor.clip_ratio_low", None),
        ("algorithm.adv_clip", None),
        ("data.train_files", ["a.parquet", "b.parquet"]),
        ("actor_rollout_ref.model.target_modules", ["q_proj"]),
        ("trainer.profile_steps", [1, 2]),
        ("critic.model.path", "model"),
    ],
)
def test_other_kinds_that_a_key_takes_are_accepted(type_refusal, key, value):
    assert type_refusal(key, value) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("actor_rollout_ref.actor.kl_loss_type", "low_var"),
        ("actor_rollout_ref.actor.kl_loss_type", "full"),
        ("algorithm.kl_penalty", "kl2"),
        ("algorithm.kl_ctrl.type", "adaptiv"),
        ("algorithm.adv_estimator", "grpo2"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "clip-cov"),
        ("actor_rollout_ref.actor.optim.warmup_style", "linear"),
        ("data.truncation", "center"),
        ("trainer.resume_mode", "force"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(refusal, key, value):
    said = refusal(check_values_of, {key: value})
    assert said.startswith(f"{key}={value!r} is not accepted: expected one of ")


@pytest.mark.parametrize("section", ["actor_rollout_ref.actor", "critic"])
def test_parts_of_a_checkpoint_that_verl_does_not_know_are_refused(refusal, section):
    known = {f"{section}.checkpoint.save_contents": ["model", "hf_model"]}
    assert refusal(check_checkpoint_contents, known) == ""
    said = refusal(check_checkpoint_contents, {f"{section}.checkpoint.save_contents": ["model", "optimiser"]})
    assert "'optimiser'" in said and "optimizer" in said


def test_the_configuration_is_not_changed(composed):
    before = OmegaConf.to_yaml(composed)
    check_types(composed, composed)
    assert OmegaConf.to_yaml(composed) == before
