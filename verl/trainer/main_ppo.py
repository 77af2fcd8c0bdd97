"""Overlay of ``verl.trainer.main_ppo``: ``python3 -m verl.trainer.main_ppo`` trains with Knapsack RL.

Checks the configuration, starts or joins Ray, and runs the trainer in a Ray actor, on GPUs or on a CPU.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
import ray
from omegaconf import DictConfig, OmegaConf, open_dict
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.utils.data import Dataset, RandomSampler, Sampler
from torchdata.stateful_dataloader.sampler import RandomSampler as ResumableRandomSampler

import knapsack_rl
import verl
from verl.trainer.config.checks import (
    ConfigError,
    check_config,
    find_config_notices,
    joins_existing_cluster,
    look_around,
)
from verl.trainer.config.checks.cpu_slots import cpu_slots
from verl.trainer.config.checks.reading import run_folder
from verl.trainer.config.checks.resume import finished_run, kept_settings
from verl.trainer.config.composition import COMPOSITION_ERRORS, explain_composition_error
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.ppo.ray_trainer import RayPPOTrainer, ResourcePoolManager, Role
from verl.trainer.ppo.reward import load_reward_manager
from verl.upstream import keep_upstream_names
from verl.upstream.trainer.main_ppo import create_rl_dataset
from verl.upstream.trainer.main_ppo import create_rl_sampler as create_upstream_sampler
from verl.utils.device import is_cuda_available
from verl.utils.processes import end_cluster_with_this_process
from verl.utils.quiet import prints_to_log
from verl.utils.run_config import save_run_config
from verl.utils.run_lock import RunFolderInUse, hold_run_folder
from verl.utils.worker_groups import release_workers

__all__ = ["TaskRunner", "create_rl_dataset", "create_rl_sampler", "main", "run_ppo"]

logger = logging.getLogger(__name__)
logger.setLevel(os.getenv("VERL_LOGGING_LEVEL", "WARN"))

_QUIET_LIBRARIES = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "VERL_LOGGING_LEVEL": "WARN",
}
_CPU_OBJECT_STORE_BYTES = 512 * 1024**2


@hydra.main(config_path="config", config_name="knapsack_trainer", version_base=None)
def main(config: DictConfig) -> None:
    """Check the configuration and train."""
    defaults = hydra.compose(config_name=hydra.core.hydra_config.HydraConfig.get().job.config_name)
    facts = look_around()
    try:
        with prints_to_log(logger):
            check_config(config, defaults, facts)
            finished = finished_run(config, facts)
            notices = find_config_notices(config)
    except ConfigError as error:
        sys.exit(_refusal(str(error)))
    if finished is not None:
        print(finished)
        return
    notices += keep_settings_of_resumed_run(config)
    for notice in notices:
        print(f"warning: {notice}", file=sys.stderr)
    try:
        with hold_run_folder(run_folder(config)):
            run_ppo(config)
    except RunFolderInUse as error:
        sys.exit(_refusal(str(error)))


def keep_settings_of_resumed_run(config: DictConfig) -> list[str]:
    """Put into ``config`` what a resumed run keeps from its checkpoint; return a line for each setting it concerns."""
    kept = kept_settings(config)
    for setting in kept:
        OmegaConf.update(config, setting.key, setting.in_force, force_add=True)
    return list(map(str, kept))


def command_line() -> None:
    """Run :func:`main`; a configuration that cannot run ends with its reasons on standard error and exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except COMPOSITION_ERRORS as error:
        sys.exit(_refusal(explain_composition_error(error)))


def _refusal(reason: str) -> int:
    for line in reason.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return 2


def run_ppo(config: DictConfig) -> None:
    """Start or join Ray and run the training in a :class:`TaskRunner`.

    Raises:
        ray.exceptions.RayTaskError: the training failed; its cause is in the message.
    """
    if not ray.is_initialized():
        _start_ray(config)
    profile_steps = config.trainer.get("profile_steps")
    # Beside the driver, where the files that the configuration names by relative paths are; elsewhere if that is full.
    driver_node = ray.get_runtime_context().get_node_id()
    options: dict[str, Any] = {"scheduling_strategy": NodeAffinitySchedulingStrategy(driver_node, soft=True)}
    if is_cuda_available and profile_steps:
        options["runtime_env"] = {"nsight": OmegaConf.to_container(config.trainer.controller_nsight_options)}
    runner = TaskRunner.options(**options).remote()
    ray.get(runner.run.remote(config))
    timeline_file = config.ray_init.get("timeline_json_file")
    if timeline_file:
        ray.timeline(filename=timeline_file)


def _runtime_env(joins_cluster: bool) -> dict[str, Any]:
    """Return the environment of Ray's workers, in which ``import verl`` must find this overlay."""
    runtime_env = get_ppo_ray_runtime_env()
    settings = runtime_env["env_vars"]
    settings.update({name: value for name, value in _QUIET_LIBRARIES.items() if name not in os.environ})
    if joins_cluster:
        # Nodes that do not have the checkout get the files of both packages through Ray.
        runtime_env["py_modules"] = [str(verl.OVERLAY_FOLDER), str(Path(knapsack_rl.__file__).parent)]
    else:
        paths = [str(verl.OVERLAY_FOLDER.parent), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        settings["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return runtime_env


def _start_ray(config: DictConfig) -> None:
    on_cpu = config.trainer.device == "cpu"
    # On a CPU a cluster is joined only when it is named: a test run must not end up on somebody's GPUs' cluster.
    joins_cluster = bool(os.environ.get("RAY_ADDRESS")) if on_cpu else joins_existing_cluster()
    arguments: dict[str, Any] = {"runtime_env": _runtime_env(joins_cluster), "num_cpus": config.ray_init.num_cpus}
    if on_cpu and not joins_cluster:
        # A cluster of our own, of as many slots as the run occupies, whatever the machine has.
        arguments.update(
            address="local",
            num_cpus=config.ray_init.num_cpus or max(cpu_slots(config), os.cpu_count() or 1),
            num_gpus=0,
            include_dashboard=False,
            logging_level=logging.ERROR,
            object_store_memory=_CPU_OBJECT_STORE_BYTES,
        )
    cluster = ray.init(**arguments)
    if not joins_cluster:
        end_cluster_with_this_process(cluster.address_info["session_dir"])


@ray.remote(num_cpus=1)
class TaskRunner:
    """The Ray actor in which the trainer runs."""

    def run(self, config: DictConfig) -> None:
        """Build the trainer's parts and train."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_actionable)
        OmegaConf.resolve(config)
        save_run_config(config, run_folder(config))
        with prints_to_log(logger):
            trainer = _build_trainer(config)
            trainer.init_workers()
        trainer.fit()
        release_workers(trainer)


def _is_actionable(record: logging.LogRecord) -> bool:
    # verl warns at second 0 of waiting for its own actor; a time-out would raise.
    return not record.getMessage().startswith("Waiting for register center actor")


def _build_trainer(config: DictConfig, trainer_class: type = RayPPOTrainer) -> Any:
    from verl.utils import hf_processor, hf_tokenizer
    from verl.utils.dataset.rl_dataset import collate_fn
    from verl.utils.fs import copy_to_local

    model = config.actor_rollout_ref.model
    local_path = copy_to_local(model.path, use_shm=model.get("use_shm", False))
    trust_remote_code = config.data.get("trust_remote_code", False)
    tokenizer = hf_tokenizer(local_path, trust_remote_code=trust_remote_code)
    processor = hf_processor(local_path, trust_remote_code=trust_remote_code, use_fast=True)
    roles, worker_group_class = _worker_roles(config)
    reward_kwargs = config.reward_model.get("reward_kwargs", {})
    train_dataset = create_rl_dataset(
        config.data.train_files, _with_raw_chat(config.data), tokenizer, processor, is_train=True
    )
    return trainer_class(
        config=config,
        tokenizer=tokenizer,
        processor=processor,
        role_worker_mapping={role: ray.remote(worker) for role, worker in roles.items()},
        resource_pool_manager=_resource_pools(config, list(roles)),
        ray_worker_group_cls=worker_group_class,
        reward_fn=load_reward_manager(config, tokenizer, num_examine=0, **reward_kwargs),
        val_reward_fn=load_reward_manager(config, tokenizer, num_examine=1, **reward_kwargs),
        train_dataset=train_dataset,
        val_dataset=create_rl_dataset(config.data.val_files, config.data, tokenizer, processor, is_train=False),
        collate_fn=collate_fn,
        train_sampler=create_rl_sampler(config.data, train_dataset),
    )


def _with_raw_chat(data_config: DictConfig) -> DictConfig:
    """Ask the training set for each prompt's messages: they are what a prompt's identity is computed from."""
    data_config = data_config.copy()
    with open_dict(data_config):
        data_config.return_raw_chat = True
    return data_config


def _worker_roles(config: DictConfig) -> tuple[dict[Role, type], type]:
    """Return the worker class of every role that the configuration needs, and the worker group class."""
    if config.actor_rollout_ref.actor.strategy == "megatron":
        from verl.single_controller.ray.megatron import NVMegatronRayWorkerGroup as worker_group_class
        from verl.workers import megatron_workers as workers
    else:
        from verl.single_controller.ray import RayWorkerGroup as worker_group_class
        from verl.workers import fsdp_workers as workers
    is_async = config.actor_rollout_ref.rollout.mode == "async"
    roles = {
        Role.ActorRollout: workers.AsyncActorRolloutRefWorker if is_async else workers.ActorRolloutRefWorker,
        Role.Critic: _critic_class(config, workers),
    }
    if config.reward_model.enable:
        roles[Role.RewardModel] = _reward_model_class(config)
    if config.algorithm.use_kl_in_reward or config.actor_rollout_ref.actor.use_kl_loss:
        roles[Role.RefPolicy] = workers.ActorRolloutRefWorker
    return roles, worker_group_class


def _reward_model_class(config: DictConfig) -> type:
    if config.reward_model.strategy == "megatron":
        from verl.workers.megatron_workers import RewardModelWorker
    else:
        from verl.workers.fsdp_workers import RewardModelWorker
    return RewardModelWorker


def _critic_class(config: DictConfig, workers: Any) -> type:
    if config.trainer.get("use_legacy_worker_impl", "auto") == "disable":
        from verl.workers.roles import CriticWorker

        return CriticWorker
    return workers.CriticWorker


def _resource_pools(config: DictConfig, roles: list[Role]) -> ResourcePoolManager:
    pool = "global_pool"
    return ResourcePoolManager(
        resource_pool_spec={pool: [config.trainer.n_gpus_per_node] * config.trainer.nnodes},
        mapping={role: pool for role in roles},
        use_gpu=config.trainer.device != "cpu",
    )


def create_rl_sampler(data_config: DictConfig, dataset: Dataset) -> Sampler:
    """Return upstream's sampler, made resumable: upstream's loses its random order on a resume after epoch 1."""
    sampler = create_upstream_sampler(data_config, dataset)
    if type(sampler) is RandomSampler:
        return ResumableRandomSampler(dataset, generator=sampler.generator)
    return sampler


keep_upstream_names(globals())


if __name__ == "__main__":
    command_line()
