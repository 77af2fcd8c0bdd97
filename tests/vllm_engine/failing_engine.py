"""``external_lib`` of a run in which the worker of rank 0 fails in what it is told to do.

Environment: ``ENGINE_FAILURE=execute_model:raise`` fails where an asynchronous engine's worker is asked for
``execute_model``, and ``generate_sequences:raise`` where a synchronous one generates, for the reason in
``ENGINE_FAILURE_REASON``; ``kill`` instead of ``raise`` ends the worker's process, as a machine without memory would.
Nothing fails before the file ``ENGINE_FAILURE_FILE`` is there.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from verl.workers.rollout.vllm_rollout import vLLMAsyncRollout, vLLMRollout


def _fail_where_told_to(how: str) -> None:
    if os.environ["RANK"] != "0" or not Path(os.environ["ENGINE_FAILURE_FILE"]).exists():
        return
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError(os.environ["ENGINE_FAILURE_REASON"])


def _make_asynchronous_engine_fail(method: str, how: str) -> None:
    original = vLLMAsyncRollout.execute_method

    def execute_method(self: vLLMAsyncRollout, asked: str | bytes, *args: Any, **kwargs: Any) -> Any:
        if asked == method:
            _fail_where_told_to(how)
        return original(self, asked, *args, **kwargs)

    vLLMAsyncRollout.execute_method = execute_method


def _make_synchronous_engine_fail(how: str) -> None:
    original = vLLMRollout.generate_sequences

    def generate_sequences(self: vLLMRollout, *args: Any, **kwargs: Any) -> Any:
        _fail_where_told_to(how)
        return original(self, *args, **kwargs)

    vLLMRollout.generate_sequences = generate_sequences


_method, _how = os.environ["ENGINE_FAILURE"].split(":")
if _method == "generate_sequences":
    _make_synchronous_engine_fail(_how)
else:
    _make_asynchronous_engine_fail(_method, _how)
