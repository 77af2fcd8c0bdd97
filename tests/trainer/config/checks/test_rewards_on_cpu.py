"""Reward functions and managers are refused where they do not take what they are called with."""

from __future__ import annotations

import pytest

from verl.trainer.config.checks.rewards import check_reward_function, check_reward_manager

KWARGS, MANAGER = "reward_model.reward_kwargs", "reward_model.reward_manager"
TAKES = "data_source, solution_str, ground_truth, extra_info"


@pytest.fixture
def said_of(refusal, tmp_path):
    """What the check says of a function with these parameters."""

    def said(parameters: str, **settings):
        file = tmp_path / "reward.py"
        file.write_text(f"def compute_score({parameters}):\n    return 1.0\n")
        return refusal(check_reward_function, {"custom_reward_function.path": str(file), **settings})

    return said


@pytest.mark.parametrize("parameters", [TAKES, f"{TAKES}=None", f"{TAKES}, weight=1", "**rows", "solution_str, **rest"])
def test_functions_that_take_what_they_get_are_accepted(said_of, parameters):
    assert said_of(parameters) == ""


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("solution_str, ground_truth", "does not take the argument data_source"),
        (f"{TAKES}, weight", "lacks weight"),
        (f"{TAKES}, *, weight", "lacks weight"),
    ],
)
def test_functions_that_would_fail_at_the_first_reward_are_refused(said_of, parameters, said):
    assert said in said_of(parameters)


def test_arguments_that_a_function_does_not_take_are_refused(said_of):
    kwargs = {"custom_reward_function.reward_kwargs": {"weigth": 2}}
    assert "reward_kwargs.weigth is not an argument" in said_of(f"{TAKES}, weight=1", **kwargs)
    assert "it takes weight" in said_of(f"{TAKES}, weight=1", **kwargs)
    assert said_of(f"{TAKES}, **rest", **kwargs) == ""


def test_the_manager_batch_calls_with_lists_and_its_own_arguments(said_of):
    lists = "data_sources, solution_strs, ground_truths, extra_infos"
    assert "data_sources" in said_of(TAKES, **{MANAGER: "batch"})
    assert said_of(lists, **{MANAGER: "batch"}) == ""
    assert said_of(f"{lists}, weight", **{MANAGER: "batch", KWARGS: {"weight": 2}}) == ""


def test_arguments_that_a_manager_does_not_take_are_refused(refusal):
    assert refusal(check_reward_manager) == ""
    said = refusal(check_reward_manager, {KWARGS: {"num_workers": 2}})
    assert "reward_kwargs.num_workers is not an argument of the reward manager naive: it takes none" in said
    assert refusal(check_reward_manager, {MANAGER: "math_verify", KWARGS: {"num_workers": 2}}) == ""
    assert "time_limit" in refusal(check_reward_manager, {MANAGER: "math_verify", KWARGS: {"timeout": 2}})


def test_the_manager_dapo_needs_what_it_reads_at_the_first_reward(refusal):
    buffer = {"enable": False, "len": 4, "penalty_factor": 1.0, "log": False}
    whole = {"overlong_buffer_cfg": buffer, "max_resp_len": 8}
    assert refusal(check_reward_manager, {MANAGER: "dapo", KWARGS: whole}) == ""
    assert "overlong_buffer_cfg.enable" in refusal(check_reward_manager, {MANAGER: "dapo"})
    short = {**whole, "max_resp_len": 3}
    assert "max_resp_len=3" in refusal(check_reward_manager, {MANAGER: "dapo", KWARGS: short})
    lacking = {**whole, "overlong_buffer_cfg": {"enable": True, "len": 4}}
    assert "overlong_buffer_cfg.penalty_factor" in refusal(check_reward_manager, {MANAGER: "dapo", KWARGS: lacking})


def test_an_unknown_manager_is_refused(refusal):
    assert "reward_manager='math'" in refusal(check_reward_manager, {MANAGER: "math"})
