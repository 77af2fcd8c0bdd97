"""Overlay of ``verl.workers.reward_manager``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.workers.reward_manager.registry import (  # noqa: E402, I001  (needs __path__)
    REWARD_MANAGER_REGISTRY,
    get_reward_manager_cls,
    register,
)
from verl.workers.reward_manager.batch import BatchRewardManager  # noqa: E402
from verl.workers.reward_manager.dapo import DAPORewardManager  # noqa: E402
from verl.workers.reward_manager.math_verify import MathVerifyRewardManager  # noqa: E402
from verl.workers.reward_manager.naive import NaiveRewardManager  # noqa: E402
from verl.workers.reward_manager.parallel import PrimeRewardManager  # noqa: E402
from verl.workers.reward_manager import prime  # noqa: E402

# Upstream's prime manager, which hides failures, has registered itself on its import.
prime.PrimeRewardManager = REWARD_MANAGER_REGISTRY["prime"] = PrimeRewardManager

__all__ = [
    "BatchRewardManager",
    "DAPORewardManager",
    "MathVerifyRewardManager",
    "NaiveRewardManager",
    "PrimeRewardManager",
    "get_reward_manager_cls",
    "register",
]
