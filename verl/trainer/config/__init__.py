"""Overlay of ``verl.trainer.config``: upstream's config classes and the exploration config."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from knapsack_rl.presets import register_preset_resolver  # noqa: E402
from verl.trainer.config.algorithm import AlgoConfig, FilterGroupsConfig, KLControlConfig, PFPPOConfig  # noqa: E402
from verl.trainer.config.config import CriticConfig, FSDPCriticConfig, MegatronCriticConfig  # noqa: E402

# knapsack_trainer.yaml has such keys.
register_preset_resolver()

__all__ = [
    "AlgoConfig",
    "CriticConfig",
    "FilterGroupsConfig",
    "FSDPCriticConfig",
    "KLControlConfig",
    "MegatronCriticConfig",
    "PFPPOConfig",
]
