"""Runs agent loops, and keeps the log-probs of the tokens that the engine generated for them.

An agent loop gets tokens from the server and returns tokens; upstream's loops and users' own know nothing of log-probs.
They are noted here on the way from the server to the loop, and put beside the loop's output by position.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch

from verl import DataProto
from verl.experimental.agent_loop import agent_loop as upstream
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, AsyncLLMServerManager
from verl.utils.rollout_trace import rollout_trace_op

__all__ = ["AgentLoopWorker", "aligned_log_probs"]

# Each agent loop runs in a task of its own, and so has variables of its own.
_generated: ContextVar[list[tuple[int, float]]] = ContextVar("generated")
_is_greedy: ContextVar[bool] = ContextVar("is_greedy", default=False)


class _LogProbServerManager(AsyncLLMServerManager):
    """Upstream's choice of a server for each request, which notes the log-probs of what it generates."""

    @rollout_trace_op
    async def generate(self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> list[int]:
        server = self._choose_server(request_id)
        tokens, log_probs = await server.generate_with_log_probs.remote(
            request_id=request_id, prompt_ids=prompt_ids, sampling_params=sampling_params
        )
        _generated.get().extend(zip(tokens, log_probs, strict=True))
        return tokens


class _ScoredOutput(AgentLoopOutput):
    """An agent loop's output with the log-prob of every response token; 0 where the engine did not generate it."""

    log_probs: list[float]


class AgentLoopWorker(upstream.AgentLoopWorker.__ray_metadata__.modified_class):
    """Upstream's worker; with ``rollout.calculate_log_probs`` and vLLM's server its rollouts have log-probs.

    A batch with ``do_sample=False`` is answered greedily.
    """

    def __init__(self, config: Any, server_handles: list[Any]) -> None:
        super().__init__(config, server_handles)
        rollout = config.actor_rollout_ref.rollout
        has_own_server = rollout.name == "vllm" and not rollout.agent.custom_async_server.path
        self._returns_log_probs = rollout.calculate_log_probs and has_own_server
        if self._returns_log_probs:
            self.server_manager = _LogProbServerManager(config, server_handles)

    async def generate_sequences(self, batch: DataProto) -> DataProto:
        """Run an agent loop for every row of ``batch``."""
        _is_greedy.set(not batch.meta_info.get("do_sample", True))
        return await super().generate_sequences(batch)

    async def _run_agent_loop(
        self, agent_name: str, messages: list[dict[str, Any]], sampling_params: dict[str, Any], *args: Any
    ) -> AgentLoopOutput:
        if _is_greedy.get():
            sampling_params = {**sampling_params, "temperature": 0.0, "top_p": 1.0}
        generated: list[tuple[int, float]] = []
        _generated.set(generated)
        output = await super()._run_agent_loop(agent_name, messages, sampling_params, *args)
        if not self._returns_log_probs:
            return output
        log_probs = aligned_log_probs(agent_name, output.response_ids, output.response_mask, generated)
        return _ScoredOutput(**output.model_dump(), log_probs=log_probs)

    def _postprocess(self, inputs: Sequence[AgentLoopOutput]) -> DataProto:
        output = super()._postprocess(inputs)
        if self._returns_log_probs:
            log_probs = torch.zeros(output.batch["responses"].shape, dtype=torch.float32)
            for row, scored in enumerate(inputs):
                log_probs[row, : len(scored.log_probs)] = torch.tensor(scored.log_probs)
            output.batch["rollout_log_probs"] = log_probs
        return output


def aligned_log_probs(
    agent_name: str,
    response_ids: Sequence[int],
    response_mask: Sequence[int],
    generated: Sequence[tuple[int, float]],
) -> list[float]:
    """Return the log-prob of every token of a response; 0 for those that a tool or a user said.

    Args:
        agent_name: the agent loop's name, for the error.
        response_ids: the response's tokens, of the model and of tools.
        response_mask: 1 for the model's tokens, 0 for others; as long as ``response_ids``.
        generated: tokens with their log-probs as the engine generated them, over all turns; the response may end
            before they do.

    Raises:
        ValueError: the model's tokens of the response are not those that the engine generated.

    Example:
        >>> aligned_log_probs("tool_agent", [5, 9, 6], [1, 0, 1], [(5, -0.5), (6, -0.25), (7, -1.0)])
        [-0.5, 0.0, -0.25]
    """
    remaining = iter(generated)
    log_probs = []
    for position, (token, is_models) in enumerate(zip(response_ids, response_mask, strict=True)):
        if not is_models:
            log_probs.append(0.0)
            continue
        engine_token, log_prob = next(remaining, (None, 0.0))
        if token != engine_token:
            raise ValueError(
                f"The agent loop {agent_name!r} returns token {token} at position {position} of a response, where the "
                f"engine generated {engine_token}: its log-probs are unknown. Set "
                "actor_rollout_ref.rollout.calculate_log_probs=false."
            )
        log_probs.append(log_prob)
    return log_probs
