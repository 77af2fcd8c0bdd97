"""Asynchronous rollouts by upstream's agent loops, whose failures end the run with their cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopManager as UpstreamAgentLoopManager
from verl.experimental.agent_loop.agent_loop_worker import AgentLoopWorker
from verl.utils.worker_groups import register_center_of
from verl.workers.rollout.async_server import async_server_class

__all__ = ["AgentLoopManager", "RolloutEngineError"]

_STARTS = 3
_SECONDS_TO_ASK = 10


class RolloutEngineError(RuntimeError):
    """An asynchronous rollout engine failed; the message has what its workers say of the cause."""


class AgentLoopManager(UpstreamAgentLoopManager):
    """Upstream's manager of servers and agent loops.

    Raises:
        RolloutEngineError: a server could not be started, or failed afterwards; also from the other methods.
    """

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """Generate as upstream does; with ``calculate_log_probs`` the output has ``rollout_log_probs``."""
        with self._explained():
            return super().generate_sequences(prompts)

    def wake_up(self) -> None:
        """Give the engines the actor's weights."""
        with self._explained():
            super().wake_up()

    def sleep(self) -> None:
        """Let the engines free their memory for the update."""
        with self._explained():
            super().sleep()

    def _initialize_llm_servers(self) -> None:
        rollout = self.config.actor_rollout_ref.rollout
        self.rollout_tp_size = rollout.tensor_model_parallel_size
        self.rollout_dp_size = self.worker_group.world_size // self.rollout_tp_size
        _check_cpu_slots(self.rollout_dp_size)
        nodes = ray.get(register_center_of(self.worker_group).get_worker_info.remote())
        with self._explained():
            servers = [
                self._started_server(rank, nodes[rank * self.rollout_tp_size]) for rank in range(self.rollout_dp_size)
            ]
            self.async_llm_servers = [server for server, _ in servers]
            self.server_addresses = [address for _, address in servers]
            ray.get([server.init_engine.remote() for server in self.async_llm_servers])

    def _started_server(self, rank: int, node: str) -> tuple[Any, str]:
        """Return the actor of a server beside its first worker, and its address.

        A port may be taken between being found free and being listened on; then the server is started again.
        """
        custom = self.config.actor_rollout_ref.rollout.agent.custom_async_server or {}
        server_class = async_server_class(
            self.config.actor_rollout_ref.rollout.name, custom.get("path"), custom.get("name")
        ).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False),
            name=f"async_llm_server_{rank}",
        )
        for attempt in range(1, _STARTS + 1):
            server = server_class.remote(self.config, self.rollout_dp_size, rank, self.worker_group.name_prefix)
            try:
                return server, ray.get(server.get_server_address.remote())
            except ray.exceptions.RayError:
                ray.kill(server)
                if attempt == _STARTS:
                    raise
        raise AssertionError("unreachable")

    def _init_agent_loop_workers(self) -> None:
        worker_class = ray.remote(AgentLoopWorker)
        self.agent_loop_workers = [
            worker_class.options(name=f"agent_loop_worker_{number}").remote(self.config, self.async_llm_servers)
            for number in range(self.config.actor_rollout_ref.rollout.agent.num_workers)
        ]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Within the context, an error of Ray's actors becomes one that names what the engine's workers met.

        vLLM itself says no more than that its engine is dead.
        """
        try:
            yield
        except ray.exceptions.RayError as error:
            raise RolloutEngineError(self._explanation(error)) from error

    def _explanation(self, error: Exception) -> str:
        causes = failures_of(self.worker_group.workers, lambda worker: worker.rollout_failure.remote())
        if not causes:
            return f"The asynchronous rollout engine failed: {error}"
        return "The asynchronous rollout engine failed, because of its " + "\n".join(causes)


def failures_of(workers: list[Any], ask: Callable[[Any], ray.ObjectRef]) -> list[str]:
    """Return what each of ``workers`` that failed says of it, a text each; of one that does not answer, that.

    Args:
        workers: actor handles, in the order of their ranks.
        ask: asks a worker for the failure that it met, which is None if it met none.
    """
    answers = [ask(worker) for worker in workers]
    answered, _ = ray.wait(answers, num_returns=len(answers), timeout=_SECONDS_TO_ASK)
    failures = []
    for rank, answer in enumerate(answers):
        if answer not in answered:
            failures.append(f"worker {rank}: it gives no answer.")
            continue
        try:
            failure = ray.get(answer)
        except ray.exceptions.RayError as error:
            failure = str(error)
        if failure is not None:
            failures.append(f"worker {rank}: {failure}")
    return failures


def _check_cpu_slots(servers: int) -> None:
    available = ray.available_resources().get("CPU", 0)
    if available < servers:
        raise RolloutEngineError(
            f"The Ray cluster has {available:g} free CPU slots, and rollout.mode=async needs one for each of its "
            f"{servers} servers (trainer.nnodes * trainer.n_gpus_per_node / rollout.tensor_model_parallel_size): raise "
            "ray_init.num_cpus."
        )
