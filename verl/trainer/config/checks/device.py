"""Start-up checks of the machine: its GPUs, the Ray cluster that would be joined, the number of workers."""

from __future__ import annotations

from urllib.parse import urlsplit

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import world_size

QUICKSTART = "make quickstart"


def check_device(config: DictConfig, facts: Facts) -> None:
    """Refuse a device that this machine, or the Ray cluster it would start, does not have."""
    device = config.trainer.device
    if device not in ("cuda", "npu", "cpu"):
        raise ConfigError(f"trainer.device={device!r} is not accepted: expected cuda, npu or cpu.")
    if device == "cuda" and facts.trains_here and not facts.has_gpu and facts.cluster is None:
        raise ConfigError(
            "trainer.device='cuda' needs a GPU and this machine has none: run on a GPU machine or a Ray cluster "
            f"(RAY_ADDRESS), or try the same trainer on the CPU with `{QUICKSTART}`."
        )


def check_cluster(config: DictConfig, facts: Facts) -> None:
    """Refuse a Ray cluster that does not answer: Ray would try for minutes before it says so."""
    cluster = facts.cluster
    if cluster is None or cluster.answers or not facts.trains_here:
        return
    is_named = cluster.named_by == "RAY_ADDRESS"
    if config.trainer.device == "cpu" and not is_named:
        return  # on a CPU a cluster is joined only when it is named
    if not _has_port(cluster.address):
        raise ConfigError(
            f"{cluster.named_by}={cluster.address} is not accepted: expected host:port, ray://host:port, auto or local."
        )
    remedy = (
        "start it (`ray start --head`), correct the address, or unset RAY_ADDRESS to start a cluster for this run"
        if is_named
        else "it was left by a cluster that has ended; run `ray stop`, or delete the file"
    )
    raise ConfigError(f"{cluster.named_by}={cluster.address}: no Ray cluster answers there: {remedy}.")


def _has_port(address: str) -> bool:
    try:
        target = urlsplit(address if "://" in address else f"ray://{address}")
        return bool(target.hostname and target.port)
    except ValueError:
        return False


def check_workers(config: DictConfig, facts: Facts) -> None:
    """Refuse a number of workers that the rollout engine cannot be split over, and what a CPU cannot run."""
    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    if world_size(config) % rollout.tensor_model_parallel_size:
        raise ConfigError(
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not "
            f"divide the {world_size(config)} workers: expected a divisor."
        )
    has_flash_attention = "flash_attn" in facts.packages
    if config.trainer.device == "cuda" and model.use_remove_padding and facts.has_gpu and not has_flash_attention:
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding=true needs flash-attn, which is not installed: install it (see "
            "requirements/vllm.txt) or set it to false."
        )
    if config.trainer.device == "cpu":
        _check_cpu(config)


def _check_cpu(config: DictConfig) -> None:
    strategy = config.actor_rollout_ref.actor.strategy
    if strategy != "fsdp2":
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={strategy!r} does not run on trainer.device=cpu: set it to fsdp2."
        )
    if config.actor_rollout_ref.model.use_remove_padding:
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding=true does not run on trainer.device=cpu (it needs flash-attn): "
            "set it to false."
        )
