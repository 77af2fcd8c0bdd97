"""Overlay of ``verl.trainer.config``: upstream's config classes and the exploration config."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.trainer.config.algorithm import AlgoConfig, FilterGroupsConfig, KLControlConfig, PFPPOConfig  # noqa: E402
from verl.trainer.config.config import CriticConfig, FSDPCriticConfig, MegatronCriticConfig  # noqa: E402

__all__ = [
    "AlgoConfig",
    "CriticConfig",
    "FilterGroupsConfig",
    "FSDPCriticConfig",
    "KLControlConfig",
    "MegatronCriticConfig",
    "PFPPOConfig",
]
