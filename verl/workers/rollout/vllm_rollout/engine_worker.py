"""The part of an asynchronous vLLM engine that runs in verl's worker; upstream's, whose failures are told.

The engine's scheduler, in a process of the server, asks this worker by messages and waits for the answers. Upstream
answers in a thread that an exception ends without a word, after which the scheduler waits for ever, and that keeps the
worker's process alive after the run.
"""

from __future__ import annotations

import pickle
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from verl.utils.device import get_device_name
from verl.utils.gloo import without_connection_messages
from verl.workers.rollout.vllm_rollout.vllm_rollout_spmd import vLLMAsyncRollout as UpstreamAsyncRollout

__all__ = ["WorkerFailure", "vLLMAsyncRollout"]


@dataclass(frozen=True)
class WorkerFailure:
    """The answer of a worker that could not do what it was asked.

    Attributes:
        rank: the worker's, in its engine.
        text: the traceback.
    """

    rank: int
    text: str


class vLLMAsyncRollout(UpstreamAsyncRollout):  # noqa: N801  (verl's name)
    """Upstream's engine in a worker process, which answers every message: with a result or a `WorkerFailure`.

    Attributes:
        failure: the traceback of the first message that failed, or None.
    """

    failure: str | None = None

    def _loop_forever(self) -> None:
        # Upstream calls this in a thread that the process would wait for at its end.
        threading.Thread(target=self._answer_forever, name="vllm_engine_worker", daemon=True).start()

    def _answer_forever(self) -> None:
        while True:
            self.socket.send(self.answer(self.socket.recv()))

    def answer(self, message: bytes) -> bytes:
        """Do what a pickled ``(method, args, kwargs)`` asks for and return the pickled result, or `WorkerFailure`."""
        try:
            method, args, kwargs = pickle.loads(message)
            return pickle.dumps(self.execute_method(method, *args, **kwargs))
        except BaseException:  # whatever it is: who asked is waiting
            text = traceback.format_exc()
            self.failure = self.failure or text
            return pickle.dumps(WorkerFailure(rank=self._rank_in_engine(), text=text))

    def execute_method(self, method: str | bytes, *args: Any, **kwargs: Any) -> Any:
        """Let this part of the engine do what ``method`` names, or what the pickled function does with it."""
        if method == "init_device" and get_device_name() == "cpu":
            with without_connection_messages():
                return super().execute_method(method, *args, **kwargs)
        return super().execute_method(method, *args, **kwargs)

    def _rank_in_engine(self) -> int:
        from torch.distributed import get_rank, is_initialized

        return get_rank() % self.config.tensor_model_parallel_size if is_initialized() else 0
