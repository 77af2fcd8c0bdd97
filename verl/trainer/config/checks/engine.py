"""Start-up checks of ``actor_rollout_ref.rollout``: which engine runs how, on which device, in which version."""

from __future__ import annotations

from omegaconf import DictConfig
from packaging.version import Version

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.utils.newer_versions import LAST_SUPPORTED_VLLM
from verl.utils.vllm_platform import engine_can_sleep_on_cpu

_ROLLOUT = "actor_rollout_ref.rollout"
# From this version on, vLLM takes other arguments for adapters held in memory.
_VLLM_WITH_OTHER_ADAPTERS = Version("0.12")


def check_rollout_engine(config: DictConfig, facts: Facts) -> None:
    """Refuse a rollout engine in a mode, on a device or in a version in which it would fail after Ray has started.

    Raises:
        ConfigError: naming the key, the value and what to do.
    """
    rollout = config.actor_rollout_ref.rollout
    if rollout.mode not in ("sync", "async"):
        raise ConfigError(f"{_ROLLOUT}.mode={rollout.mode!r} is not accepted: expected sync or async.")
    if rollout.mode == "async":
        _check_async(config)
    if rollout.name == "vllm":
        _check_vllm(config, facts)


def _check_async(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    if rollout.name == "hf":
        raise ConfigError(
            f"{_ROLLOUT}.mode=async needs an engine that serves requests, and {_ROLLOUT}.name=hf does not: set "
            "mode=sync, or name=vllm."
        )
    if not config.data.return_raw_chat:
        raise ConfigError(
            f"{_ROLLOUT}.mode=async needs the messages of a prompt: set data.return_raw_chat=true, or mode=sync."
        )
    if not rollout.free_cache_engine:
        raise ConfigError(
            f"{_ROLLOUT}.mode=async with {_ROLLOUT}.free_cache_engine=false never gives the engine new weights (verl "
            "0.5.0 does so only when it wakes the engine): set free_cache_engine=true, or mode=sync."
        )
    if config.exploration.rollout_is_cap is not None and (
        rollout.name != "vllm" or rollout.agent.custom_async_server.path
    ):
        raise ConfigError(
            f"{_ROLLOUT}.mode=async runs with exploration.rollout_is_cap={config.exploration.rollout_is_cap} only with "
            f"{_ROLLOUT}.name=vllm and no {_ROLLOUT}.agent.custom_async_server: other servers do not return the "
            "rollout's log-probs. Set the cap to null, or mode=sync."
        )


def _check_vllm(config: DictConfig, facts: Facts) -> None:
    installed = facts.vllm
    if config.trainer.device == "cpu":
        _check_vllm_on_cpu(config.actor_rollout_ref.rollout, facts)
    _check_adapter(config)
    # On a cluster the machine that starts the run need not have vLLM: what is not here cannot be judged.
    if installed is not None and Version(installed.base_version) < LAST_SUPPORTED_VLLM:
        _check_older_vllm(config.actor_rollout_ref.rollout, installed)
    if installed is not None and installed > LAST_SUPPORTED_VLLM:
        _check_newer_vllm(config, installed)


def _check_vllm_on_cpu(rollout: DictConfig, facts: Facts) -> None:
    if facts.vllm is None:
        raise ConfigError(
            f"{_ROLLOUT}.name=vllm needs vLLM, which is not installed: make its environment for CPUs with `bash "
            f".ci/make_vllm_environment.sh .venv-vllm`, or set {_ROLLOUT}.name=hf."
        )
    if not facts.vllm_runs_on_cpu:
        raise ConfigError(
            f"{_ROLLOUT}.name=vllm on trainer.device=cpu needs a vLLM that is built for CPUs, and the installed "
            f"{facts.vllm} is built for GPUs: make an environment for CPUs with `bash .ci/make_vllm_environment.sh "
            f".venv-vllm`, or set {_ROLLOUT}.name=hf."
        )
    # Asked only here: a plug-in's answer takes an import of vLLM.
    if rollout.free_cache_engine and not engine_can_sleep_on_cpu():
        raise ConfigError(
            f"{_ROLLOUT}.free_cache_engine=true needs vLLM's sleep mode, which {facts.vllm} does not have on a CPU: "
            "set it to false."
        )


def _check_adapter(config: DictConfig) -> None:
    rollout, rank = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model.lora_rank
    if rank > 0 and rollout.mode == "sync" and rollout.load_format.startswith("dummy"):
        raise ConfigError(
            f"{_ROLLOUT}.load_format={rollout.load_format} with actor_rollout_ref.model.lora_rank={rank}: verl 0.5.0 "
            "would give the engine the base model first and generate without the adapter, also after a resume. Set "
            "load_format=safetensors."
        )


def _check_older_vllm(rollout: DictConfig, installed: Version) -> None:
    if rollout.calculate_log_probs:
        raise ConfigError(
            f"{_ROLLOUT}.calculate_log_probs=true needs vLLM {LAST_SUPPORTED_VLLM} or newer, for its log-probs of the "
            f"distribution that it samples from (logprobs_mode); {installed} is installed. Set it to false, or install "
            "requirements/vllm.txt."
        )


def _check_newer_vllm(config: DictConfig, installed: Version) -> None:
    alternative = f"install vLLM {LAST_SUPPORTED_VLLM} (requirements/vllm.txt)"
    if config.actor_rollout_ref.rollout.mode == "async":
        raise ConfigError(
            f"{_ROLLOUT}.mode=async does not run with vLLM {installed}: verl's server is written against modules that "
            f"vLLM {LAST_SUPPORTED_VLLM} has and later ones moved. Set mode=sync, or {alternative}."
        )
    if config.actor_rollout_ref.model.lora_rank > 0 and installed >= _VLLM_WITH_OTHER_ADAPTERS:
        raise ConfigError(
            f"actor_rollout_ref.model.lora_rank={config.actor_rollout_ref.model.lora_rank} does not run with vLLM "
            f"{installed}: verl hands adapters over in the way of vLLM {LAST_SUPPORTED_VLLM}. Set it to 0, or "
            f"{alternative}."
        )
