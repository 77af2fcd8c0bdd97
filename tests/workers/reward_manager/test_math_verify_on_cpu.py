"""The reward manager ``math_verify``: where scores go, which function scores which row, and what comes along."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch

from verl import DataProto
from verl.utils.reward_score import default_compute_score
from verl.workers.reward_manager import get_reward_manager_cls
from verl.workers.reward_manager.math_verify import MathVerifyRewardManager

PROMPT_LENGTH = 4
RESPONSE_LENGTH = 48


class CharacterTokenizer:
    """One token per character; 0 pads."""

    def decode(self, tokens, skip_special_tokens=True):
        return "".join(chr(token) for token in tokens if token)

    def batch_decode(self, sequences, skip_special_tokens=True):
        return [self.decode(sequence, skip_special_tokens) for sequence in sequences]


def padded(text: str, length: int) -> list[int]:
    return [ord(character) for character in text] + [0] * (length - len(text))


def make_batch(rows: list[tuple[str, str, str]], **tensors) -> DataProto:
    """A batch of (data source, response, ground truth)."""
    responses = torch.tensor([padded(response, RESPONSE_LENGTH) for _, response, _ in rows])
    prompts = torch.tensor([padded("Q?", PROMPT_LENGTH)] * len(rows))
    mask = torch.cat([prompts, responses], dim=1).ne(0).long()
    columns = {
        "data_source": [source for source, _, _ in rows],
        "reward_model": [{"ground_truth": truth} for _, _, truth in rows],
        "extra_info": [{"index": row} for row in range(len(rows))],
    }
    return DataProto.from_dict(
        tensors={"prompts": prompts, "responses": responses, "attention_mask": mask, **tensors},
        non_tensors={name: np.array(values, dtype=object) for name, values in columns.items()},
    )


def make_manager(**settings) -> MathVerifyRewardManager:
    return MathVerifyRewardManager(CharacterTokenizer(), num_examine=0, num_workers=1, time_limit=2.0, **settings)


def test_it_is_chosen_by_name():
    assert get_reward_manager_cls("math_verify") is MathVerifyRewardManager


def test_each_score_is_on_the_last_token_of_its_response():
    responses = [r"\boxed{5}", r"so \boxed{6} it is", "", "x" * RESPONSE_LENGTH]
    batch = make_batch([("math_500", response, truth) for response, truth in zip(responses, "5658", strict=True)])
    expected = torch.zeros(4, RESPONSE_LENGTH)
    expected[0, len(responses[0]) - 1] = 1.0
    expected[1, len(responses[1]) - 1] = 1.0
    torch.testing.assert_close(make_manager()(batch), expected)


def test_score_acc_and_pred_come_along_in_order():
    rows = [("amc", r"\boxed{x^2-1}", "(x-1)(x+1)"), ("gpqa_diamond", "Answer: C", "B"), ("amc", r"\boxed{0.5}", "1/2")]
    result = make_manager()(make_batch(rows), return_dict=True)
    assert result["reward_tensor"].sum(dim=1).tolist() == [1.0, 0.0, 1.0]
    assert result["reward_extra_info"] == {
        "score": [1.0, 0.0, 1.0],
        "acc": [1.0, 0.0, 1.0],
        "pred": ["x^2-1", "C", "0.5"],
    }


def test_it_scores_as_the_default_function_does_row_by_row():
    rows = [("math_500", rf"\boxed{{{n}+x}}", f"x+{n % 3}") for n in range(12)]
    rows += [("math_dapo", "Answer: 3", "3"), ("openai/gsm8k", "#### 4", "5")]
    rewards = make_manager()(make_batch(rows)).sum(dim=1).tolist()
    for (source, response, truth), reward in zip(rows, rewards, strict=True):
        score = default_compute_score(source, response, truth)
        assert reward == (score["score"] if isinstance(score, dict) else score)


def test_columns_have_a_value_for_every_row_of_a_mixed_batch():
    def scores_with_details(data_source, solution_str, ground_truth, extra_info):
        return {"score": 0.5, "steps": 3} if extra_info["index"] else {"score": 1.0, "remark": "short"}

    rows = [("any", "a", "b"), ("other", "c", "d")]
    extra = make_manager(compute_score=scores_with_details)(make_batch(rows), return_dict=True)["reward_extra_info"]
    assert extra["score"] == [1.0, 0.5]
    assert extra["acc"] == [1.0, 0.5]
    assert extra["remark"] == ["short", ""]
    assert math.isnan(extra["steps"][0]) and extra["steps"][1] == 3


def test_a_function_of_the_user_scores_every_row():
    calls = []

    def half(data_source, solution_str, ground_truth, extra_info):
        calls.append((data_source, solution_str, ground_truth, extra_info["index"]))
        return 0.5

    rewards = make_manager(compute_score=half)(make_batch([("math_500", r"\boxed{5}", "5"), ("any", "a", "b")]))
    assert rewards.sum(dim=1).tolist() == [0.5, 0.5]
    assert sorted(calls) == [("any", "a", "b", 1), ("math_500", r"\boxed{5}", "5", 0)]


def test_sandbox_settings_bound_to_the_default_function_change_nothing_for_mathematics():
    function = partial(default_compute_score, sandbox_fusion_url="http://nowhere", memory_limit_mb=1)
    assert make_manager(compute_score=function)(make_batch([("amc", r"\boxed{5}", "5")])).sum() == 1


def test_scores_of_a_reward_model_are_passed_on():
    scores = torch.rand(1, RESPONSE_LENGTH)
    batch = make_batch([("amc", r"\boxed{5}", "5")], rm_scores=scores)
    torch.testing.assert_close(make_manager()(batch), scores)
    torch.testing.assert_close(make_manager()(batch, return_dict=True)["reward_tensor"], scores)


def test_it_travels_to_another_process_after_use():
    manager = make_manager()
    batch = make_batch([("amc", r"\boxed{x+1}", "1+x")])
    assert manager(batch).sum() == 1
    assert pickle.loads(pickle.dumps(manager))(batch).sum() == 1


@pytest.mark.parametrize(("num_examine", "num_logged"), [(0, 0), (1, 2), (2, 3)])
def test_examples_are_logged_per_data_source(num_examine, num_logged, caplog):
    rows = [("amc", r"\boxed{5}", "5"), ("amc", r"\boxed{6}", "6"), ("gpqa_diamond", "C", "C")]
    with caplog.at_level("INFO", logger="verl.workers.reward_manager.math_verify"):
        MathVerifyRewardManager(CharacterTokenizer(), num_examine=num_examine)(make_batch(rows))
    assert len(caplog.records) == num_logged
    assert all("[prompt] Q?" in record.getMessage() for record in caplog.records)
