"""What this fork puts into the process of an asynchronous engine's scheduler: whatever fails there ends the run.

vLLM's own executors watch their workers. verl's, which has its workers from Ray, waits for their answers without end.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cached_property
from typing import Any

import zmq
from vllm.v1.core.sched.scheduler import Scheduler

from verl.utils.processes import end_with_parent
from verl.workers.rollout.vllm_rollout.engine_worker import WorkerFailure

__all__ = ["EngineWorkerError", "StrictScheduler", "WatchesWorkers"]


class EngineWorkerError(RuntimeError):
    """A worker of an asynchronous engine failed or is gone; the message has its traceback."""


class WatchesWorkers:
    """Makes verl's executor raise as soon as one worker fails or is gone, whatever the others are waiting for.

    To be inherited from before verl's executor.

    Attributes:
        sockets: verl's, one to each worker, in the order of their ranks.
    """

    sockets: list[zmq.Socket]
    _error: EngineWorkerError | None = None

    def _init_executor(self) -> None:
        end_with_parent()
        super()._init_executor()

    def collective_rpc(
        self,
        method: str | Callable,
        timeout: float | None = None,
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Let every worker execute ``method`` and return their results, in the order of their ranks.

        Raises:
            EngineWorkerError: a worker failed or is gone, now or at an earlier call.
        """
        if self._error is not None:
            raise self._error
        sent_method = method if isinstance(method, str) else pickle.dumps(method)
        message = pickle.dumps((sent_method, args, kwargs or {}))
        _ = self._monitors
        for socket in self.sockets:
            socket.send(message, zmq.DONTWAIT)
        try:
            return self._answers()
        except EngineWorkerError as error:
            self._error = error
            raise

    def shutdown(self) -> None:
        """Tell the workers, unless one of them has failed."""
        if self._error is None:
            super().shutdown()

    @cached_property
    def _monitors(self) -> dict[zmq.Socket, int]:
        """The socket that tells when a worker is gone, for every rank."""
        return {socket.get_monitor_socket(zmq.EVENT_DISCONNECTED): rank for rank, socket in enumerate(self.sockets)}

    def _answers(self) -> list[Any]:
        ranks = {socket: rank for rank, socket in enumerate(self.sockets)}
        poller = zmq.Poller()
        for socket in (*ranks, *self._monitors):
            poller.register(socket, zmq.POLLIN)
        answers: dict[int, Any] = {}
        while len(answers) < len(ranks):
            ready = [socket for socket, _ in poller.poll()]
            # Answers first: a worker may end after it has told why.
            for socket in filter(ranks.__contains__, ready):
                answers[ranks[socket]] = _checked(pickle.loads(socket.recv()))
                poller.unregister(socket)
            for monitor in filter(self._monitors.__contains__, ready):
                if self._monitors[monitor] not in answers:
                    raise EngineWorkerError(f"The process of the engine's worker {self._monitors[monitor]} is gone.")
                poller.unregister(monitor)
        return [answers[rank] for rank in range(len(ranks))]


def _checked(answer: Any) -> Any:
    if isinstance(answer, WorkerFailure):
        raise EngineWorkerError(f"The engine's worker {answer.rank} failed:\n{answer.text}")
    return answer


class StrictScheduler(Scheduler):
    """vLLM's scheduler, which does not keep a prefix cache that it was told to drop.

    vLLM 0.10.2 drops it only while no request runs, and tells nobody who asks through the engine. After the next weight
    sync requests would be continued from keys and values of the previous weights.
    """

    def reset_prefix_cache(self) -> bool:
        """Forget all keys and values.

        Raises:
            RuntimeError: requests are still running.
        """
        if not super().reset_prefix_cache():
            raise RuntimeError(
                "vLLM did not drop its prefix cache before a weight sync "
                f"({self.get_num_unfinished_requests()} requests still running): its rollouts would mix old and new "
                "weights."
            )
        return True
