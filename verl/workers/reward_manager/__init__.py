"""Overlay of ``verl.workers.reward_manager``; what is not here comes from the installed verl."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.workers.reward_manager.registry import get_reward_manager_cls, register  # noqa: E402, I001  (needs __path__)
from verl.workers.reward_manager.batch import BatchRewardManager  # noqa: E402
from verl.workers.reward_manager.dapo import DAPORewardManager  # noqa: E402
from verl.workers.reward_manager.math_verify import MathVerifyRewardManager  # noqa: E402
from verl.workers.reward_manager.naive import NaiveRewardManager  # noqa: E402
from verl.workers.reward_manager.prime import PrimeRewardManager  # noqa: E402

__all__ = [
    "BatchRewardManager",
    "DAPORewardManager",
    "MathVerifyRewardManager",
    "NaiveRewardManager",
    "PrimeRewardManager",
    "get_reward_manager_cls",
    "register",
]
