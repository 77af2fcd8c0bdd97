"""Overlay of ``verl.trainer.config``: upstream's config classes and the exploration config."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from omegaconf import DictConfig, OmegaConf  # noqa: E402

from knapsack_rl.presets import preset_value  # noqa: E402
from verl.trainer.config.algorithm import AlgoConfig, FilterGroupsConfig, KLControlConfig, PFPPOConfig  # noqa: E402
from verl.trainer.config.config import CriticConfig, FSDPCriticConfig, MegatronCriticConfig  # noqa: E402


def _of_preset(key: str, _root_: DictConfig) -> object:
    return preset_value(_root_.exploration.preset, key)


# ${preset:KEY} in knapsack_trainer.yaml: a key that the user sets replaces it, and the preset has no say then.
OmegaConf.register_new_resolver("preset", _of_preset, replace=True)

__all__ = [
    "AlgoConfig",
    "CriticConfig",
    "FilterGroupsConfig",
    "FSDPCriticConfig",
    "KLControlConfig",
    "MegatronCriticConfig",
    "PFPPOConfig",
]
