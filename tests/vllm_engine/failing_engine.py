"""``external_lib`` of a run in which one worker of an asynchronous engine fails.

Environment: ``ENGINE_FAILURE=execute_model:3:raise`` fails at the third call of ``execute_model`` in the worker of rank
0, for the reason in ``ENGINE_FAILURE_REASON``; ``kill`` instead of ``raise`` ends the worker's process, as a machine
without memory would.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import Any

from verl.workers.rollout.vllm_rollout import vLLMAsyncRollout


def _failing(method: str, call: int, how: str) -> Any:
    original, calls = vLLMAsyncRollout.execute_method, itertools.count(1)

    def execute_method(self: vLLMAsyncRollout, asked: str | bytes, *args: Any, **kwargs: Any) -> Any:
        if asked == method and os.environ["RANK"] == "0" and next(calls) == call:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(os.environ["ENGINE_FAILURE_REASON"])
        return original(self, asked, *args, **kwargs)

    return execute_method


if "ENGINE_FAILURE" in os.environ:
    _method, _call, _how = os.environ["ENGINE_FAILURE"].split(":")
    vLLMAsyncRollout.execute_method = _failing(_method, int(_call), _how)
