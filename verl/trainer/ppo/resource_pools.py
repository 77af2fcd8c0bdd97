"""Ray resource pools of CPU slots, for workers that have no GPU."""

from __future__ import annotations

import ray

from verl.single_controller.ray import RayResourcePool

__all__ = ["check_cpu_slots", "cpu_pool"]


def cpu_pool(name: str, processes_on_nodes: list[int]) -> RayResourcePool:
    """A pool of one CPU slot per worker; ``processes_on_nodes`` tells how many workers each node has."""
    return RayResourcePool(process_on_nodes=processes_on_nodes, use_gpu=False, max_colocate_count=1, name_prefix=name)


def check_cpu_slots(num_workers: int) -> None:
    """Refuse a Ray cluster with fewer free CPU slots than workers.

    Raises:
        ValueError: naming both numbers and the keys that change them.
    """
    available = ray.available_resources().get("CPU", 0)
    if available < num_workers:
        raise ValueError(
            f"The Ray cluster has {available:g} free CPU slots, fewer than the {num_workers} workers of "
            "trainer.nnodes * trainer.n_gpus_per_node: lower these or raise ray_init.num_cpus."
        )
