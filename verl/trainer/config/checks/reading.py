"""What several start-up checks read from a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from knapsack_rl.config import ConfigError, ExplorationConfig, check_preset

DATA_KEYS = ("train_files", "val_files")
REMOTE_PREFIXES = ("hdfs://", "s3://", "gs://", "http://", "https://")


def exploration_config(config: DictConfig) -> ExplorationConfig:
    """Return the ``exploration`` section as a checked, frozen dataclass."""
    check_preset(config.exploration.get("preset"))  # before it is looked up; runs of earlier versions have none
    return ExplorationConfig.from_mapping(OmegaConf.to_container(config.exploration, resolve=True))


def iterate_scalars(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every leaf that is no list, without resolving interpolations."""
    items = config.items_ex(resolve=False) if isinstance(config, DictConfig) else ()
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from iterate_scalars(value, f"{name}.")
        elif not isinstance(value, ListConfig):
            yield name, value


def only_validates(config: DictConfig) -> bool:
    """Whether the run validates once and ends, without a training step."""
    return bool(config.trainer.get("val_only", False) and config.trainer.get("val_before_train", True))


def uses_critic(config: DictConfig) -> bool:
    """Whether a critic is trained."""
    return config.algorithm.adv_estimator == "gae"


def world_size(config: DictConfig) -> int:
    """Number of worker processes."""
    return config.trainer.n_gpus_per_node * config.trainer.nnodes


def prompts_per_batch(config: DictConfig) -> int:
    """Prompts that the data loader hands out at a time."""
    return config.data.get("gen_batch_size") or config.data.train_batch_size


def data_parallel_size(config: DictConfig) -> int:
    """Return the parts of a mini-batch: workers that share a sequence or a model have the same rows."""
    actor = config.actor_rollout_ref.actor
    if actor.strategy == "megatron":
        parallel = actor.megatron
        sharing = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
        sharing *= parallel.context_parallel_size
    else:
        sharing = actor.get("ulysses_sequence_parallel_size", 1)
    return max(1, world_size(config) // sharing)


def longest_sequence(config: DictConfig) -> int:
    """Tokens of the longest sequence that can occur: prompt and response."""
    return config.data.max_prompt_length + config.data.max_response_length


def is_remote(path: str) -> bool:
    """Whether ``path`` is on another file system, which the checks leave alone."""
    return path.startswith(REMOTE_PREFIXES)


def refuse_home_sign(key: str, path: str) -> None:
    """Refuse a path that begins with ~: verl and the libraries below it take it for a folder of that name."""
    if path.startswith("~"):
        raise ConfigError(f"{key}={path} begins with ~, which verl does not expand: write {Path(path).expanduser()}.")


def data_paths(config: DictConfig, key: str) -> list[str]:
    """Return the paths under ``data.<key>``, which holds one or a list of them."""
    paths = config.data[key]
    return [str(path) for path in (paths if isinstance(paths, ListConfig | list | tuple) else [paths])]


def local_data_files(config: DictConfig, key: str) -> list[Path]:
    """Return those files of ``data.<key>`` that are on this machine."""
    local = [Path(path).expanduser() for path in data_paths(config, key) if not is_remote(path)]
    return [path for path in local if path.is_file()]


def run_folder(config: DictConfig) -> Path:
    """Folder of the run: its checkpoints, metrics and configuration."""
    return Path(str(config.trainer.default_local_dir)).absolute()
