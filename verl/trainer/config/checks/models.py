"""Start-up checks of the model: its configuration, tokenizer, chat template and weights are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import is_remote, refuse_home_sign, uses_critic

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS_FOR_HUB = 10.0


def check_models(config: DictConfig, facts: Facts) -> None:
    """Refuse models that are missing, incomplete, or nowhere on the hub; remote paths are left alone."""
    _check_model("actor_rollout_ref.model.path", str(config.actor_rollout_ref.model.path), facts)
    if uses_critic(config):
        _check_model("critic.model.path", str(config.critic.model.path), facts)
    if config.reward_model.enable:
        _check_model("reward_model.model.path", str(config.reward_model.model.path), facts)


def _check_model(key: str, path: str, facts: Facts) -> None:
    folder = Path(path).expanduser()
    if is_remote(path) or not facts.trains_here:
        return  # for a dry run the configuration alone may be here
    if folder.is_dir():
        refuse_home_sign(key, path)
        _check_folder(key, path, folder)
    elif not HUB_NAME.fullmatch(path) or path.count(".") == len(path):
        raise ConfigError(f"{key}={path} does not exist: give a transformers model's folder or a hub name.")
    elif facts.environment.get("VERL_USE_MODELSCOPE", "false").lower() not in ("true", "1"):
        _check_hub_name(key, path, facts)


def _check_folder(key: str, path: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{key}={path} has no config.json: expected a transformers model.")
    if not has_tokenizer(folder):
        raise ConfigError(
            f"{key}={path} has no tokenizer ({', '.join(_TOKENIZER_FILES[:3])}, ...): copy the files of its "
            "tokenizer there."
        )
    for name in _INDEX_FILES:
        if (folder / name).is_file():
            _check_shards(key, path, folder / name)
            return
    if not any((folder / name).is_file() for name in _WEIGHT_FILES):
        raise ConfigError(f"{key}={path} has no weights ({' or '.join(_WEIGHT_FILES)}): download the whole model.")


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a file of a tokenizer in ``folder``."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _check_shards(key: str, path: str, index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{key}={path} has a damaged {index.name}: download the model again.") from error
    missing = sorted(shard for shard in shards if not (index.parent / shard).is_file())
    if missing:
        raise ConfigError(
            f"{key}={path} lacks {len(missing)} of its {len(shards)} files of weights ({missing[0]}, ...): download "
            "the "
            "rest."
        )


def _check_hub_name(key: str, name: str, facts: Facts) -> None:
    """Refuse a hub name that is neither in the cache nor, within some seconds, on the hub."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
    from requests.exceptions import RequestException

    environment = facts.environment
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
    except HFValidationError as error:
        raise ConfigError(f"{key}={name} is neither a folder here nor a name on the hub.") from error
    remedy = f"download it where there is one (huggingface-cli download {name}), or give the folder of a model"
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise ConfigError(f"{key}={name} is not in the cache, and HF_HUB_OFFLINE forbids the network: {remedy}.")
    try:
        HfApi(endpoint=environment.get("HF_ENDPOINT")).model_info(name, timeout=_SECONDS_FOR_HUB)
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{key}={name} is neither a folder here nor a model on the hub that you may see: correct the name, or log "
            "in (huggingface-cli login) if it is private."
        ) from error
    except HfHubHTTPError as error:
        raise ConfigError(
            f"{key}={name} cannot be had from the hub ({error.response.status_code}): {remedy}."
        ) from error
    except (RequestException, OSError) as error:
        raise ConfigError(f"{key}={name} is no folder here, and the hub cannot be reached: {remedy}.") from error
