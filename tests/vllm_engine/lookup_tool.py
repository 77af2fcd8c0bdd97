"""A task of two turns with a tool: the model names digits, the tool looks up the next prompt, the model answers that.

A conversation, as the response of one rollout (the model's first answer, the tool's words, the second answer)::

    .123<eos>   z321=   .321<eos>

The files that verl reads of a tool and an agent loop are written by :func:`write_configuration`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall
from verl.tools.base_tool import BaseTool

AGENT = "lookup_agent"
TOOL = "lookup"
TOOL_TOKENS = 5
_CALL = re.compile(r"\.(\d{3})")
SAID_BY_TOOL = re.compile(r"z\d{3}=")


class LookupTool(BaseTool):
    """Answers digits with a prompt for the same digits in reverse."""

    async def execute(self, instance_id: str, parameters: dict[str, Any], **kwargs: Any) -> tuple[str, float, dict]:
        return f"z{parameters['digits'][::-1]}=", 0.0, {}


class _FirstDigits:
    """Reads an answer ``.123`` as a call of the tool."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    async def extract_tool_calls(self, response_ids: list[int]) -> tuple[str, list[FunctionCall]]:
        text = self._tokenizer.decode(response_ids, skip_special_tokens=True)
        calls = [FunctionCall(name=TOOL, arguments=json.dumps({"digits": digits})) for digits in _CALL.findall(text)]
        return text, calls


class LookupAgentLoop(ToolAgentLoop):
    """verl's agent loop with tools, for a model that knows no JSON."""

    @classmethod
    def init_class(cls, config: Any, tokenizer: Any, **kwargs: Any) -> None:
        super().init_class(config, tokenizer, **kwargs)
        cls.tool_parser = _FirstDigits(tokenizer)


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> float:
    """1 if the first answer is right and the tool was asked, else 0."""
    return float(solution_str.startswith(f".{ground_truth}z{ground_truth[::-1]}="))


def write_configuration(folder: Path) -> tuple[Path, Path]:
    """Write verl's files of the agent loop and of the tool; return their paths."""
    module = Path(__file__).stem
    agents, tools = folder / "agents.yaml", folder / "tools.yaml"
    OmegaConf.save([{"name": AGENT, "_target_": f"{module}.{LookupAgentLoop.__name__}"}], agents)
    digits = {"type": "string", "description": "three digits"}
    parameters = {"type": "object", "properties": {"digits": digits}, "required": ["digits"]}
    function = {"name": TOOL, "description": "look up the next prompt", "parameters": parameters}
    tool = {
        "class_name": f"{module}.{LookupTool.__name__}",
        "config": {"type": "native"},
        "tool_schema": {"type": "function", "function": function},
    }
    OmegaConf.save({"tools": [tool]}, tools)
    return agents, tools
