"""Rewards: a failure ends the run and names its prompt; what succeeds is passed on."""

import subprocess
import sys

import hydra
import numpy as np
import pytest
import torch
from ray import cloudpickle

from verl import DataProto
from verl.trainer.ppo.reward import RewardError, compute_reward, load_reward_manager


@pytest.fixture
def batch() -> DataProto:
    return DataProto.from_dict(
        tensors={"responses": torch.arange(6).reshape(3, 2)},
        non_tensors={
            "data_source": np.array(["math"] * 3, dtype=object),
            "reward_model": np.array([{"ground_truth": str(row)} for row in range(3)], dtype=object),
            "extra_info": np.array([{"index": row} for row in range(3)], dtype=object),
            "prompt_id": np.array(["a", "b", "c"], dtype=object),
        },
    )


def reward_fn(verdict):
    def score(data, return_dict=False):
        rows = [verdict(info["index"]) for info in data.non_tensor_batch["extra_info"]]
        scores = torch.zeros(len(data), 2)
        scores[:, -1] = torch.tensor(rows)
        return {"reward_tensor": scores, "reward_extra_info": {"acc": rows}}

    return score


def test_scores_and_columns_are_passed_on(batch):
    scores, columns = compute_reward(batch, reward_fn(float))
    assert scores.sum(-1).tolist() == [0.0, 1.0, 2.0] and columns == {"acc": [0.0, 1.0, 2.0]}


def test_an_exception_names_its_prompt(batch):
    def verdict(index):
        if index == 1:
            raise ZeroDivisionError("no such answer")
        return 0.0

    with pytest.raises(RewardError, match="ZeroDivisionError: no such answer.*ground_truth='1'.*prompt_id='b'"):
        compute_reward(batch, reward_fn(verdict))


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_what_is_no_finite_number_names_its_prompt(batch, score):
    with pytest.raises(RewardError, match=r"returned (nan|inf).*'index': 2.*1 of 3 rollouts"):
        compute_reward(batch, reward_fn(lambda index: score if index == 2 else 0.0))


def test_an_exception_on_the_whole_batch_only(batch):
    def fails_on_many(data, return_dict=False):
        if len(data) > 1:
            raise MemoryError("too many")
        return reward_fn(float)(data, return_dict)

    with pytest.raises(RewardError, match="too many on the batch as a whole"):
        compute_reward(batch, fails_on_many)


REWARD_FILE = """
BONUS = 0.5


def helper(text):
    return len(text) + BONUS


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return helper(solution_str)
"""
IN_ANOTHER_PROCESS = """
import pickle, sys
reward_manager = pickle.load(sys.stdin.buffer)
print(reward_manager.compute_score("source", "abc", "truth"))
"""


def test_a_reward_function_from_a_file_is_callable_in_processes_that_never_saw_the_file(tmp_path, repository):
    """As Ray sends it to the task that computes rewards beside the log-prob pass."""
    file = tmp_path / "my_reward.py"
    file.write_text(REWARD_FILE)
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer", overrides=[f"custom_reward_function.path={file}"])
    sent = cloudpickle.dumps(load_reward_manager(config, tokenizer=None, num_examine=0))
    file.unlink()
    called = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS], input=sent, capture_output=True, cwd=repository, timeout=120
    )
    assert called.returncode == 0, called.stderr.decode()
    assert float(called.stdout.split()[-1]) == 3.5
