"""Programs are scored by a sandbox, whose own failures are no reward."""

import pytest

from verl.utils.reward_score import default_compute_score, program_reward, sandbox_fusion
from verl.utils.reward_score.program_reward import SandboxError

PROGRAM = "```python\nprint(input())\n```"
CASES = {"inputs": ["1", "2"], "outputs": ["1", "2"]}
URL = "http://127.0.0.1:1/run_code"


@pytest.fixture
def sandbox(monkeypatch):
    """Let the sandbox answer with these results and outcomes, one for each test case."""

    def answer(results, outcomes):
        monkeypatch.setattr(sandbox_fusion, "check_correctness", lambda **_: (results, outcomes))

    return answer


def score(response=PROGRAM, test_cases=CASES):
    return default_compute_score("apps", response, test_cases, sandbox_fusion_url=URL)


def test_the_score_is_the_share_of_passed_test_cases(sandbox):
    sandbox([True, False], [{"status": "success"}, {"status": "wrong_answer"}])
    assert score() == 0.5


@pytest.mark.parametrize("status", ["timeout", "runtime_error", "compile_error", "compile_timeout", "wrong_answer"])
def test_what_a_program_does_wrong_scores_nothing(sandbox, status):
    sandbox([False, -2], [{"status": status}, {"status": "compile_error_skipped"}])
    assert score() == 0.0


@pytest.mark.parametrize("status", ["api_error", "sandbox_error", "internal_error", "unknown_api_state"])
def test_what_the_sandbox_does_wrong_is_no_reward(sandbox, status):
    sandbox([True, -1], [{"status": "success"}, {"status": status, "api_request_error": "connection refused"}])
    with pytest.raises(SandboxError, match=f"{URL}.*{status}: connection refused"):
        score()


def test_a_response_without_a_program_scores_nothing():
    assert score("I do not know.") == 0.0


@pytest.mark.parametrize("test_cases", ["no JSON", {}, {"inputs": ["1"]}])
def test_test_cases_that_cannot_be_read_are_no_reward(test_cases):
    with pytest.raises(SandboxError, match="test_cases"):
        score(test_cases=test_cases)


def test_without_a_sandbox_no_program_is_run():
    for source in program_reward.PROGRAM_DATA_SOURCES:
        with pytest.raises(ValueError, match="sandbox_fusion.url"):
            default_compute_score(source, PROGRAM, CASES)
