"""How a run with vLLM ends that cannot begin: with the cause, soon, and with none of its processes left.

How runs end that have begun stands with what they train: ``test_training_as_on_gpus_on_cpu.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_training_as_on_gpus_on_cpu import ASYNC, ONE_LOOP, REASON, ROLLOUT, assert_the_cause_is_named

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.needs_gpu_pins]


def test_a_worker_of_an_asynchronous_engine_that_dies_at_its_model_ends_the_run_with_its_cause(start_run, tmp_path):
    failure = "load_model:kill"
    training = start_run(
        tmp_path / "run",
        *ASYNC,
        ONE_LOOP,
        f"{ROLLOUT}.free_cache_engine=true",
        "actor_rollout_ref.model.external_lib=failing_engine",
        ENGINE_FAILURE=failure,
        ENGINE_FAILURE_FILE=__file__,
        ENGINE_FAILURE_REASON=REASON,
    )
    assert training.finish() not in (0, None)
    training.assert_it_ends_and_nothing_is_left()
    assert_the_cause_is_named(training.log, failure)


def test_a_vllm_for_gpus_without_a_platform_for_cpus_is_refused_before_ray_starts(start_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    training = start_run(tmp_path / "run", f"{ROLLOUT}.free_cache_engine=false")
    assert training.finish() == 2
    assert "the installed 0.10.2 is built for GPUs" in training.log
    assert len(training.log.splitlines()) == 1
