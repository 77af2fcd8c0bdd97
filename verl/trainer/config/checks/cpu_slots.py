"""How many of Ray's CPU slots a run on a CPU occupies, and the start-up check that it gets them.

With fewer it would wait for one for ever.
"""

from __future__ import annotations

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import world_size

__all__ = ["check_cpu_slots", "cpu_slots"]


def cpu_slots(config: DictConfig) -> int:
    """Return the CPU slots of the task runner, the workers, the asynchronous servers, and of one short task.

    The short task is the asynchronous reward's; agent loops need a slot while they start.

    Example:
        >>> from omegaconf import OmegaConf
        >>> config = {
        ...     "trainer": {"nnodes": 1, "n_gpus_per_node": 2},
        ...     "actor_rollout_ref": {"rollout": {"mode": "async", "tensor_model_parallel_size": 1}},
        ... }
        >>> cpu_slots(OmegaConf.create(config))
        6
    """
    rollout = config.actor_rollout_ref.rollout
    workers = world_size(config)
    servers = workers // rollout.tensor_model_parallel_size if rollout.mode == "async" else 0
    return 1 + workers + servers + 1


def check_cpu_slots(config: DictConfig, facts: Facts) -> None:
    """Refuse a number of CPU slots for a cluster of this run's own with which it would wait for ever.

    Raises:
        ConfigError: naming the key, the value and the least that is needed.
    """
    slots = config.ray_init.num_cpus
    if config.trainer.device != "cpu" or slots is None:
        return
    if slots < cpu_slots(config):
        raise ConfigError(
            f"ray_init.num_cpus={slots} is too few for trainer.device=cpu: the task runner, the workers, a server for "
            f"each engine with rollout.mode=async, and the reward need {cpu_slots(config)}. Raise it or set it to null."
        )
