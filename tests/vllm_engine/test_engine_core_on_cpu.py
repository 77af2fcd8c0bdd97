"""The two ends of an asynchronous engine: a worker answers every message, and the executor hears who does not."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.needs_gpu_pins

SECONDS = 10


def worker_that(does: Callable[..., Any]) -> Any:
    """The engine's part of a worker that executes ``does`` whatever it is asked."""
    from verl.workers.rollout.vllm_rollout import vLLMAsyncRollout

    worker = vLLMAsyncRollout.__new__(vLLMAsyncRollout)
    worker.config = SimpleNamespace(tensor_model_parallel_size=1)
    worker.inference_engine = SimpleNamespace(execute_method=does)
    return worker


def executor_of(addresses: list[str]) -> Any:
    import zmq

    from verl.workers.rollout.vllm_rollout.vllm_async_server import WatchfulExecutor

    executor = WatchfulExecutor.__new__(WatchfulExecutor)
    context = zmq.Context.instance()
    executor.sockets = [context.socket(zmq.REQ) for _ in addresses]
    for socket, address in zip(executor.sockets, addresses, strict=True):
        socket.linger = 0
        socket.connect(address)
    return executor


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[list[Callable[..., Any]]], Any]]:
    """Start workers in threads; return an executor that is connected to them."""
    import zmq

    def start(functions: list[Callable[..., Any]]) -> Any:
        addresses = []
        for rank, does in enumerate(functions):
            worker = worker_that(does)
            worker.socket = zmq.Context.instance().socket(zmq.REP)
            addresses.append(f"ipc://{tmp_path}/{rank}")
            worker.socket.bind(addresses[-1])
            worker._loop_forever()
        return executor_of(addresses)

    yield start


def never_answers(method: str, *args: Any) -> None:
    time.sleep(3600)


def fails(method: str, *args: Any) -> None:
    raise ValueError(f"cannot {method} {args}")


def answer_of(worker: Any, *message: Any) -> Any:
    return pickle.loads(worker.answer(pickle.dumps(message)))


def test_results_come_in_the_order_of_the_ranks(serve):
    def slow(method, number):
        time.sleep(0.2)
        return f"slow {method} {number}"

    executor = serve([slow, lambda method, number: f"fast {method} {number}"])
    assert executor.collective_rpc("count", args=(3,)) == ["slow count 3", "fast count 3"]
    assert executor.collective_rpc("count", kwargs={"number": 4}) == ["slow count 4", "fast count 4"]


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_failure_is_raised_while_the_other_worker_waits_for_ever(serve, failing_rank):
    from verl.workers.rollout.vllm_rollout.engine_core import EngineWorkerError

    workers = [never_answers, never_answers]
    workers[failing_rank] = fails
    executor = serve(workers)
    start = time.monotonic()
    with pytest.raises(EngineWorkerError, match=r"ValueError: cannot step \(5,\)"):
        executor.collective_rpc("step", args=(5,))
    with pytest.raises(EngineWorkerError, match="ValueError"):
        executor.collective_rpc("another step")
    executor.shutdown()
    assert time.monotonic() - start < SECONDS


def test_a_worker_whose_process_is_killed_is_noticed(tmp_path):
    from verl.workers.rollout.vllm_rollout.engine_core import EngineWorkerError

    address = f"ipc://{tmp_path}/0"
    program = f"import zmq; socket = zmq.Context().socket(zmq.REP); socket.bind({address!r}); socket.recv(); input()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    threading.Timer(3, process.send_signal, [signal.SIGKILL]).start()
    with pytest.raises(EngineWorkerError, match="worker 0 is gone"):
        executor_of([address]).collective_rpc("step")
    process.wait()


def exits(method: str) -> None:
    sys.exit("told to")


@pytest.mark.parametrize(
    ("does", "said"),
    [
        (fails, "ValueError: cannot step ()"),
        (lambda method: threading.Lock(), "cannot pickle"),
        (exits, "SystemExit: told to"),
        (lambda method: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_whatever_fails_in_a_worker_is_its_answer_and_the_first_is_remembered(does, said):
    from verl.workers.rollout.vllm_rollout.engine_worker import WorkerFailure

    worker = worker_that(does)
    answer = answer_of(worker, "step", (), {})
    assert isinstance(answer, WorkerFailure) and said in answer.text
    assert answer_of(worker, "step", ("unexpected",), {}).text != answer.text
    assert worker.failure == answer.text


def test_a_message_that_is_none_is_answered_with_a_failure():
    assert "pickle" in pickle.loads(worker_that(fails).answer(b"no pickle")).text
