"""The log-probs of an agent loop's response are those of the tokens that the engine generated, by position."""

from __future__ import annotations

import pytest

pytest.importorskip("cachetools", reason="verl's agent loop needs what vLLM brings: make test-pins")

from verl.experimental.agent_loop.agent_loop_worker import aligned_log_probs

GENERATED = [(5, -0.5), (6, -0.25), (7, -1.0)]


@pytest.mark.parametrize(
    ("tokens", "mask", "expected"),
    [
        ([5, 6, 7], [1, 1, 1], [-0.5, -0.25, -1.0]),  # one turn
        ([5, 6], [1, 1], [-0.5, -0.25]),  # cut at the response length
        ([5, 9, 9, 6, 7], [1, 0, 0, 1, 1], [-0.5, 0.0, 0.0, -0.25, -1.0]),  # a tool between two turns
        ([5, 6, 7, 9], [1, 1, 1, 0], [-0.5, -0.25, -1.0, 0.0]),  # a tool at the end
        ([9, 5], [0, 1], [0.0, -0.5]),
        ([6, 5], [0, 1], [0.0, -0.5]),  # a tool that says what the model says next
        ([], [], []),
    ],
)
def test_log_probs_stand_at_the_models_tokens(tokens, mask, expected):
    assert aligned_log_probs("tool_agent", tokens, mask, GENERATED) == expected


@pytest.mark.parametrize(
    ("tokens", "mask", "position"), [([5, 7], [1, 1], 1), ([6], [1], 0), ([5, 6, 7, 8], [1, 1, 1, 1], 3)]
)
def test_tokens_that_the_engine_did_not_generate_are_an_error(tokens, mask, position):
    with pytest.raises(
        ValueError, match=f"'my_agent' returns token {tokens[position]} at position {position} .*=false"
    ):
        aligned_log_probs("my_agent", tokens, mask, GENERATED)
