"""What is said of workers whose process has died."""

from __future__ import annotations

import logging
import os
import signal
import time

import pytest
import ray

from verl.utils import worker_groups


@pytest.fixture
def workers():
    class Worker:  # in here, so that Ray sends it by value: its processes cannot import a test
        def pid(self):
            return os.getpid()

        def work(self, seconds):
            time.sleep(seconds)

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield [ray.remote(num_cpus=1)(Worker).remote() for _ in range(3)]
    ray.shutdown()


def test_the_dead_are_named_and_the_busy_are_not(workers, caplog, monkeypatch):
    monkeypatch.setattr(worker_groups, "_SECONDS_TO_ANSWER", 5.0)
    alive, busy, dead = ray.get([worker.pid.remote() for worker in workers])
    workers[1].work.remote(60)
    os.kill(dead, signal.SIGKILL)
    with caplog.at_level(logging.ERROR):
        worker_groups.log_dead(workers)
    [message] = [record.getMessage() for record in caplog.records if record.name == worker_groups.__name__]
    assert f"pid: {dead}" in message and "worker process has died" in message
    assert not {str(alive), str(busy)} & set(message.split())
