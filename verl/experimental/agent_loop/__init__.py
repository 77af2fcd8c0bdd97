"""Overlay of ``verl.experimental.agent_loop``: this fork's manager of agent loops; the rest is the installed verl's."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from verl.experimental.agent_loop.agent_loop import AgentLoopBase  # noqa: E402  (needs __path__)
from verl.experimental.agent_loop.agent_loop_manager import AgentLoopManager  # noqa: E402
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop  # noqa: E402
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop  # noqa: E402

__all__ = ["AgentLoopBase", "AgentLoopManager", "SingleTurnAgentLoop", "ToolAgentLoop"]

# Upstream's name for the loops that register themselves when they are imported.
_ = [SingleTurnAgentLoop, ToolAgentLoop]
