"""Start-up checks of the kind of every value: a number for a number, a name out of those that verl knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from knapsack_rl.config import ConfigError
from knapsack_rl.options import is_integer, is_number
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import iterate_scalars
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, AdvantageEstimator

CHECKPOINT_CONTENTS = ("model", "optimizer", "extra", "hf_model")
_KL_ESTIMATES = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")


@dataclass(frozen=True)
class Kind:
    """What a key accepts.

    Attributes:
        accepted: in words.
        accepts: whether a value is accepted.
    """

    accepted: str
    accepts: Callable[[Any], bool]


def _integer_from(minimum: int) -> Kind:
    return Kind(f"an integer of at least {minimum}", lambda value: is_integer(value) and value >= minimum)


def _number_from(minimum: float) -> Kind:
    return Kind(f"a number of at least {minimum:g}", lambda value: is_number(value) and value >= minimum)


def _one_of(*names: str) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda value: value in names)


def _list_of_integers_from(minimum: int, example: str) -> Kind:
    def accepts(value: Any) -> bool:
        return isinstance(value, ListConfig) and all(is_integer(entry) and entry >= minimum for entry in value)

    return Kind(f"a list such as {example}", accepts)


COUNT = _integer_from(1)
INDEX = _integer_from(0)
INTEGER = Kind("an integer", is_integer)
RANKS = _list_of_integers_from(0, "[0,1]")
TEXT = Kind("text (quote it if it looks like a number)", lambda value: isinstance(value, str))
TEXTS = Kind("text or a list of texts", lambda value: isinstance(value, str | ListConfig))
SHARE = Kind("a number in [0, 1]", lambda value: is_number(value) and 0 <= value <= 1)
ABOVE_ZERO = Kind("a number above 0", lambda value: is_number(value) and value > 0)
KEPT_CHECKPOINTS = Kind(
    "null, 0 or -1 (keep all), or the number of checkpoints to keep",
    lambda value: is_integer(value) and value >= -1,
)

_ROLLOUT = "actor_rollout_ref.rollout"
_ACTOR = "actor_rollout_ref.actor"

KINDS_WITHOUT_DEFAULT: Mapping[str, Kind] = {
    f"{_ACTOR}.ppo_micro_batch_size": COUNT,
    f"{_ACTOR}.ppo_micro_batch_size_per_gpu": COUNT,
    "actor_rollout_ref.ref.log_prob_micro_batch_size": COUNT,
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": COUNT,
    f"{_ROLLOUT}.max_model_len": COUNT,
    f"{_ROLLOUT}.log_prob_micro_batch_size": COUNT,
    f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": COUNT,
    f"{_ROLLOUT}.micro_batch_size": COUNT,
    f"{_ROLLOUT}.engine_kwargs.vllm.swap_space": _number_from(0),
    f"{_ROLLOUT}.engine_kwargs.sglang.attention_backend": TEXT,
    f"{_ROLLOUT}.multi_turn.max_assistant_turns": COUNT,
    f"{_ROLLOUT}.multi_turn.max_user_turns": COUNT,
    f"{_ROLLOUT}.multi_turn.tool_config_path": TEXT,
    f"{_ROLLOUT}.multi_turn.interaction_config_path": TEXT,
    f"{_ROLLOUT}.multi_turn.completion_callback": TEXT,
    f"{_ROLLOUT}.agent.agent_loop_config_path": TEXT,
    f"{_ROLLOUT}.agent.custom_async_server.path": TEXT,
    f"{_ROLLOUT}.agent.custom_async_server.name": TEXT,
    f"{_ROLLOUT}.trace.backend": _one_of("mlflow", "weave"),
    "actor_rollout_ref.model.custom_chat_template": TEXT,
    "actor_rollout_ref.model.external_lib": TEXT,
    "actor_rollout_ref.model.exclude_modules": TEXTS,
    "trainer.total_training_steps": COUNT,
    "trainer.profile_steps": _list_of_integers_from(1, "[1,2]"),
    "trainer.worker_nsight_options.capture-range-end": TEXT,
    "trainer.rollout_data_dir": TEXT,
    "trainer.validation_data_dir": TEXT,
    "trainer.resume_from_path": TEXT,
    "trainer.default_hdfs_dir": TEXT,
    "trainer.max_actor_ckpt_to_keep": KEPT_CHECKPOINTS,
    "trainer.max_critic_ckpt_to_keep": KEPT_CHECKPOINTS,
    "data.tokenizer": TEXT,
    "data.val_batch_size": COUNT,
    "data.custom_cls.path": TEXT,
    "data.custom_cls.name": TEXT,
    "data.sampler.class_path": TEXT,
    "data.sampler.class_name": TEXT,
    "data.datagen.path": TEXT,
    "data.datagen.name": TEXT,
    "critic.optim.min_lr_ratio": SHARE,
    "critic.ppo_micro_batch_size": COUNT,
    "reward_model.micro_batch_size": COUNT,
    "reward_model.micro_batch_size_per_gpu": COUNT,
    "reward_model.max_length": COUNT,
    "reward_model.sandbox_fusion.url": TEXT,
    "custom_reward_function.path": TEXT,
    "ray_init.num_cpus": COUNT,
    "ray_init.timeline_json_file": TEXT,
    **{
        f"{section}.megatron.{name}": kind
        for section in (_ACTOR, "actor_rollout_ref.ref", "critic", "reward_model")
        for name, kind in (
            ("virtual_pipeline_model_parallel_size", COUNT),
            ("expert_tensor_parallel_size", COUNT),
            ("dist_checkpointing_path", TEXT),
        )
        if (section, name) != ("actor_rollout_ref.ref", "expert_tensor_parallel_size")
    },
    **{
        f"{section}.optim.{name}": INTEGER
        for section in (_ACTOR, "critic")
        for name in ("lr_warmup_steps", "lr_decay_steps", "lr_wsd_decay_steps")
    },
    **{
        f"{section}.profile.{name}": kind
        for section in (_ACTOR, "actor_rollout_ref.ref")
        for name, kind in (("profile_ranks", RANKS), ("save_path", TEXT))
    },
    f"{_ACTOR}.data_loader_seed": INDEX,
    f"{_ACTOR}.megatron.override_transformer_config.recompute_granularity": _one_of("full", "selective"),
    f"{_ACTOR}.megatron.override_transformer_config.recompute_method": _one_of("uniform", "block"),
    f"{_ACTOR}.megatron.override_transformer_config.recompute_num_layers": COUNT,
    # Read by verl though its configuration does not have them.
    "data.gen_batch_size": COUNT,
    "data.seed": INDEX,
}
"""Of the keys whose default is null, or that have none; null is accepted for each. (``exploration`` checks itself.)"""

KINDS: Mapping[str, Kind] = {
    **{
        key: COUNT
        for key in (
            "data.train_batch_size",
            "data.max_prompt_length",
            "data.max_response_length",
            "data.filter_overlong_prompts_workers",
            f"{_ACTOR}.ppo_mini_batch_size",
            f"{_ACTOR}.ppo_epochs",
            f"{_ACTOR}.ppo_max_token_len_per_gpu",
            f"{_ACTOR}.ulysses_sequence_parallel_size",
            f"{_ROLLOUT}.n",
            f"{_ROLLOUT}.val_kwargs.n",
            f"{_ROLLOUT}.tensor_model_parallel_size",
            f"{_ROLLOUT}.agent.num_workers",
            f"{_ROLLOUT}.max_num_batched_tokens",
            f"{_ROLLOUT}.max_num_seqs",
            "critic.ppo_mini_batch_size",
            "critic.ppo_epochs",
            "trainer.total_epochs",
            "trainer.nnodes",
            "trainer.n_gpus_per_node",
        )
    },
    "data.dataloader_num_workers": INDEX,
    "actor_rollout_ref.model.lora_rank": INDEX,
    **{
        key: _number_from(0)
        for key in (f"{_ACTOR}.optim.lr", f"{_ACTOR}.optim.weight_decay", "critic.optim.lr", f"{_ACTOR}.kl_loss_coef")
    },
    f"{_ACTOR}.grad_clip": ABOVE_ZERO,
    f"{_ROLLOUT}.gpu_memory_utilization": SHARE,
    f"{_ACTOR}.strategy": _one_of("fsdp", "fsdp2", "megatron"),
    f"{_ACTOR}.kl_loss_type": _one_of(*_KL_ESTIMATES),
    f"{_ACTOR}.policy_loss.loss_mode": Kind(
        f"one of {', '.join(['vanilla', *POLICY_LOSS_REGISTRY])}",
        lambda value: value == "vanilla" or value in POLICY_LOSS_REGISTRY,
    ),
    f"{_ACTOR}.optim.warmup_style": _one_of("constant", "cosine"),
    f"{_ROLLOUT}.name": _one_of("vllm", "sglang", "hf"),
    f"{_ROLLOUT}.multi_turn.tool_response_truncate_side": _one_of("left", "middle", "right"),
    f"{_ROLLOUT}.multi_turn.tokenization_sanity_check_mode": _one_of("disable", "strict", "ignore_strippable"),
    "actor_rollout_ref.model.fused_kernel_options.impl_backend": _one_of("triton", "torch"),
    "algorithm.adv_estimator": _one_of(*(str(estimator.value) for estimator in AdvantageEstimator)),
    "algorithm.kl_penalty": _one_of(*_KL_ESTIMATES),
    "algorithm.kl_ctrl.type": _one_of("fixed", "adaptive"),
    "critic.strategy": _one_of("fsdp", "fsdp2", "megatron"),
    "critic.optim.warmup_style": _one_of("constant", "cosine"),
    "reward_model.strategy": _one_of("fsdp", "fsdp2", "megatron"),
    "data.truncation": _one_of("error", "left", "right", "middle"),
    "trainer.resume_mode": _one_of("auto", "disable", "resume_path"),
    "trainer.use_legacy_worker_impl": _one_of("auto", "enable", "disable"),
}
"""Of keys with a default that do not accept every value of the default's type; a key that is not there is skipped."""

# Their default is a whole number, and others are accepted too.
_REAL = (f"{_ACTOR}.entropy_coeff", f"{_ROLLOUT}.top_p", f"{_ROLLOUT}.val_kwargs.temperature")
_REAL += ("trainer.esi_redundant_time", "actor_rollout_ref.model.lora_alpha", "critic.model.lora_alpha")
_REAL += ("algorithm.kl_ctrl.horizon", "trainer.ray_wait_register_center_timeout")
# Their default is a number, and null switches them off or leaves them to another key.
_NULLABLE = ("algorithm.adv_clip", f"{_ACTOR}.clip_ratio_low", f"{_ACTOR}.clip_ratio_high")
# Their default is a text, and a list of texts is accepted too.
_LISTABLE = (
    "data.train_files",
    "data.val_files",
    "actor_rollout_ref.model.target_modules",
    "critic.model.target_modules",
)


def check_types(config: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value whose type differs from the default's, and what a key without a default cannot be.

    Args:
        config: the composed configuration with the user's overrides.
        defaults: the same configuration without them; it tells the type each key should have.
    """
    for key, default in iterate_scalars(defaults):
        is_interpolated = isinstance(default, str) and default.startswith("${")
        if default is not None and not is_interpolated:
            _check_type(key, OmegaConf.select(config, key), default)
    for key, kind in KINDS_WITHOUT_DEFAULT.items():
        value = OmegaConf.select(config, key)
        if value is not None and not kind.accepts(value):
            raise _refusal(key, value, kind.accepted)


def _check_type(key: str, value: Any, default: Any) -> None:
    expected = ""
    if value is None:
        if isinstance(default, int | float) and key not in _NULLABLE:
            expected = "true or false" if isinstance(default, bool) else "a number"
    elif isinstance(default, bool):
        expected = "" if isinstance(value, bool) else "true or false"
    elif is_integer(default) and key not in _REAL and not key.startswith("exploration."):
        expected = "" if is_integer(value) else "a number" if not is_number(value) else "a whole number"
    elif is_number(default) or key in _REAL:
        expected = "" if is_number(value) else "a number"
    elif isinstance(default, str) and not (key in _LISTABLE and isinstance(value, ListConfig)):
        expected = "" if isinstance(value, str) else TEXT.accepted
    if expected:
        shown = str(default).lower() if isinstance(default, bool) else default
        raise _refusal(key, value, f"{expected} (default {shown})")


def _refusal(key: str, value: Any, accepted: str) -> ConfigError:
    return ConfigError(f"{key}={_shown(value)} is not accepted: expected {accepted}.")


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def check_values(config: DictConfig, facts: Facts) -> None:
    """Refuse a value that its key does not accept, for the keys of `KINDS`."""
    for key, kind in KINDS.items():
        value = OmegaConf.select(config, key)
        if value is not None and not kind.accepts(value):
            raise _refusal(key, value, kind.accepted)


def check_checkpoint_contents(config: DictConfig, facts: Facts) -> None:
    """Refuse names of parts of a checkpoint that verl does not know: it would save or load nothing without a word."""
    for key, part in _checkpoint_contents(config):
        if part not in CHECKPOINT_CONTENTS:
            raise _refusal(key, part, f"a list of {', '.join(CHECKPOINT_CONTENTS)}")


def _checkpoint_contents(config: DictConfig) -> Iterator[tuple[str, Any]]:
    for section in (_ACTOR, "critic"):
        for name in ("save_contents", "load_contents"):
            key = f"{section}.checkpoint.{name}"
            parts = OmegaConf.select(config, key)
            if isinstance(parts, ListConfig):
                yield from ((key, part) for part in parts)
            elif parts is not None:
                yield key, parts
