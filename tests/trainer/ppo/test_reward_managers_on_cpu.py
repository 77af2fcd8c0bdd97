"""Every registered reward manager: what fails ends the run and names its prompt; what is a reward arrives as it is."""

from __future__ import annotations

import json
import os
import time
from functools import partial

import hydra
import numpy as np
import pytest
import torch
from ray import cloudpickle
from workers.reward_manager.reward_batches import CharacterTokenizer, make_batch

from verl.trainer.ppo.reward import (
    CheckedRewardManager,
    RewardError,
    add_rewards,
    compute_reward,
    load_reward_manager,
)
from verl.utils.reward_score import default_compute_score
from verl.workers.reward_manager import get_reward_manager_cls, prime
from verl.workers.reward_manager.registry import REWARD_MANAGER_REGISTRY

# What the function for single rows says of the row whose response is "bad"; the others earn 1.
BAD_ROW = 2
RESPONSES = ["a", "b", "bad", "c"]
IS_NAMED = r".*truth 2.*prompt 2"


class UsersManager:
    """As a user's own: calls its function positionally and gathers columns by itself."""

    def __init__(self, tokenizer, num_examine, compute_score, reward_fn_key="data_source"):
        self.tokenizer = tokenizer
        self.score_response = compute_score

    def __call__(self, data, return_dict=False):
        texts = self.tokenizer.batch_decode(data.batch["responses"])
        truths = [row["ground_truth"] for row in data.non_tensor_batch["reward_model"]]
        results = [self.score_response("test", *pair) for pair in zip(texts, truths, strict=True)]
        scores = torch.zeros(data.batch["responses"].shape)
        columns = {}
        for row, result in enumerate(results):
            scores[row, 0] = torch.tensor(result["score"] if isinstance(result, dict) else result)
            for key, value in result.items() if isinstance(result, dict) else ():
                columns.setdefault(key, []).append(value)
        return {"reward_tensor": scores, "reward_extra_info": columns}


class Verdict:
    """A reward function for single rows that answers ``bad`` for the bad row, and ``good`` for others."""

    def __init__(self, bad, good=1.0):
        self.bad, self.good = bad, good

    def __call__(self, data_source, solution_str, ground_truth, extra_info=None):
        value = self.bad if solution_str == "bad" else self.good
        return value() if callable(value) else value


def for_batches(function):
    """The function that does for a batch what ``function`` does for a row."""

    def score_batch(data_sources, solution_strs, ground_truths, extra_infos):
        rows = zip(data_sources, solution_strs, ground_truths, extra_infos, strict=True)
        return [function(*row) for row in rows]

    return score_batch


class NoOverlongBuffer:
    enable = False
    len = 0


def make_manager(name, function):
    settings = {"dapo": {"max_resp_len": 8, "overlong_buffer_cfg": NoOverlongBuffer()}, "prime": {"num_processes": 2}}
    if name == "of_a_user":
        return UsersManager(CharacterTokenizer(), 0, function)
    function = for_batches(function) if name == "batch" else function
    return get_reward_manager_cls(name)(CharacterTokenizer(), 0, function, **settings.get(name, {}))


MANAGERS = [*sorted(REWARD_MANAGER_REGISTRY), "of_a_user"]


def test_all_of_verls_managers_are_tried():
    assert {"naive", "prime", "batch", "dapo", "math_verify"} < set(MANAGERS)


def raise_error():
    raise ZeroDivisionError("no such answer")


def exit_program():
    raise SystemExit(0)


async def score_later():
    return 1.0


class JudgeError(Exception):
    """An exception that cannot be sent to another process: it is made from other arguments than it keeps."""

    def __init__(self, *, status):
        super().__init__(f"status {status}")


def raise_exception_of_its_own():
    raise JudgeError(status=503)


FAILURES = {
    "an exception of its own": (raise_exception_of_its_own, "raised JudgeError: status 503"),
    "an exception": (raise_error, "raised ZeroDivisionError: no such answer"),
    "an exit": (exit_program, "raised SystemExit"),
    "nan": (float("nan"), "returned nan"),
    "infinity": (float("-inf"), "returned -inf"),
    "a nan of numpy": (np.float32("nan"), "returned .*nan"),
    "acc is nan": ({"score": 1.0, "acc": float("nan")}, "returned acc=nan"),
    "acc is None": ({"score": 1.0, "acc": None}, "returned acc=None"),
    "acc is text": ({"score": 1.0, "acc": "yes"}, "returned acc='yes'"),
    "uid": ({"score": 1.0, "uid": "x"}, "returned the key 'uid', which the trainer owns"),
    "prompt_index": ({"score": 1.0, "prompt_index": 0}, "returned the key 'prompt_index'"),
    "prompt_id": ({"score": 1.0, "prompt_id": "x"}, "returned the key 'prompt_id'"),
    "reward": ({"score": 1.0, "reward": 0.5}, "returned the key 'reward'"),
}
FAILURES_BY_TYPE = {
    "None": (None, "None"),
    "text": ("1.0", "'1.0'|str"),
    "a dictionary without score": ({"acc": 1.0}, "score"),
    "an empty list": ([], r"\[\]|list"),
    "an async function": (score_later, "coroutine"),
}


def keys_as(bad):
    """What good rows earn: the keys of a dictionary must be the same in all rows."""
    return {key: 1.0 for key in bad} if isinstance(bad, dict) else 1.0


@pytest.mark.parametrize("failure", [*FAILURES, *FAILURES_BY_TYPE])
@pytest.mark.parametrize("name", MANAGERS)
def test_a_failure_names_its_prompt(name, failure):
    bad, message = {**FAILURES, **FAILURES_BY_TYPE}[failure]
    if isinstance(bad, dict) and "acc" not in bad:  # owned names are refused at the first reward: only one row has it
        manager = make_manager(name, Verdict(bad, {"score": 1.0, **dict.fromkeys(set(bad) - {"score"}, 0.0)}))
        with pytest.raises(RewardError, match=message):
            compute_reward(make_batch(RESPONSES), manager)
        return
    manager = make_manager(name, Verdict(bad, keys_as(bad)))
    if failure == "a dictionary without score":
        manager = make_manager(name, Verdict(bad, {"score": 1.0, "acc": 1.0}))
    with pytest.raises(RewardError, match=f"({message}){IS_NAMED}"):
        compute_reward(make_batch(RESPONSES), manager)


@pytest.mark.parametrize("bad", [{"score": 0.0, "acc": 0.0}, {"score": 0.0, "why": "short", "note": 1}, 0.0])
@pytest.mark.parametrize("name", [name for name in MANAGERS if name not in ("math_verify", "of_a_user")])
def test_other_keys_than_the_rows_before_name_prompt_and_keys(name, bad):
    manager = make_manager(name, Verdict(bad, {"score": 1.0, "why": "right"}))
    with pytest.raises(RewardError, match=f"'score', 'why' for rows before it{IS_NAMED}") as raised:
        compute_reward(make_batch(RESPONSES), manager)
    assert (
        all(repr(key) in str(raised.value) for key in bad)
        if isinstance(bad, dict)
        else "plain number" in str(raised.value)
    )


def test_a_users_manager_with_a_column_for_some_rows_names_a_prompt_without_it():
    manager = make_manager("of_a_user", Verdict({"score": 0.0}, {"score": 1.0, "why": "right"}))
    with pytest.raises(RewardError, match=f"returned the key 'why' for 3 of 4 rollouts{IS_NAMED}"):
        compute_reward(make_batch(RESPONSES), manager)


@pytest.mark.parametrize("name", MANAGERS)
@pytest.mark.parametrize(
    "score", [0.25, np.float32(0.25), np.float64(0.25), np.array(0.25), torch.tensor(0.25)], ids=repr
)
def test_any_number_is_a_score(name, score):
    for reward in (
        score,
        {"score": score, "acc": np.bool_(True), "parts": np.array([1, 2]), "seen": {"at": np.int64(3)}},
    ):
        scores, columns = compute_reward(make_batch(RESPONSES), make_manager(name, Verdict(reward, reward)))
        assert scores.sum(dim=-1).tolist() == [0.25] * 4
        json.dumps(columns, allow_nan=False)
        if isinstance(reward, dict):
            assert columns["score"] == [0.25] * 4 and columns["acc"] == [True] * 4
            assert columns["parts"] == [[1, 2]] * 4 and columns["seen"] == [{"at": 3}] * 4


@pytest.mark.parametrize("name", [name for name in MANAGERS if name != "of_a_user"])
def test_scores_are_on_the_last_tokens(name):
    responses = ["a", "abcd", "abcdefgh"]
    scores, _ = compute_reward(make_batch(responses), make_manager(name, Verdict(0.0, 0.5)))
    rows, positions = torch.nonzero(scores, as_tuple=True)
    assert rows.tolist() == [0, 1, 2] and positions.tolist() == [0, 3, 7]


@pytest.mark.parametrize("name", MANAGERS)
def test_a_failure_that_happens_once_names_its_prompt(name):
    """Calling again to find the row would not find it."""
    if name in ("batch", "of_a_user"):
        pytest.skip("its manager calls the function in a way that only calling again can look into")
    failed = []

    def fail_once():
        if not failed:
            failed.append(True)
            raise ConnectionError("the judge is busy")
        return 1.0

    with pytest.raises(RewardError, match=f"ConnectionError: the judge is busy{IS_NAMED}"):
        compute_reward(make_batch(RESPONSES), make_manager(name, Verdict(fail_once)))


@pytest.mark.parametrize("name", [name for name in MANAGERS if name not in ("batch", "of_a_user")])
def test_unknown_data_sources_are_no_zero(name):
    with pytest.raises(RewardError, match="NotImplementedError.*data_source='of nobody'.*truth"):
        compute_reward(make_batch(RESPONSES, source="of nobody"), make_manager(name, default_compute_score))


@pytest.mark.parametrize("rewards", [[1.0] * 3, [1.0] * 5, np.ones(3), []], ids=repr)
def test_a_batch_function_returns_as_many_rewards_as_there_are_responses(rewards):
    manager = get_reward_manager_cls("batch")(CharacterTokenizer(), 0, lambda **_: rewards)
    with pytest.raises(RewardError, match=f"returned {len(rewards)} rewards for 4 responses"):
        compute_reward(make_batch(RESPONSES), manager)


@pytest.mark.parametrize("rewards", [None, 1.0, (reward for reward in ())], ids=type)
def test_a_batch_function_returns_a_list(rewards):
    manager = get_reward_manager_cls("batch")(CharacterTokenizer(), 0, lambda **_: rewards)
    with pytest.raises(RewardError, match="expected one reward for each response"):
        compute_reward(make_batch(RESPONSES), manager)


# ---------------------------------------------------------------- functions from a file, training and validation

REWARD_FILE = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if solution_str == "bad":
        raise LookupError(ground_truth)
    return {"score": len(solution_str) / 4, "acc": solution_str == "abcd"}


def score_batch(data_sources, solution_strs, ground_truths, extra_infos):
    return [compute_score(*row) for row in zip(data_sources, solution_strs, ground_truths, extra_infos)]


async def score_later(data_source, solution_str, ground_truth, extra_info=None):
    return 1.0
"""


@pytest.fixture
def load(tmp_path):
    """Load a manager, and a second one for validation, as the trainer does."""
    file = tmp_path / "my_reward.py"
    file.write_text(REWARD_FILE)

    def load(name, function=None):
        function = function or ("score_batch" if name == "batch" else "compute_score")
        overrides = [
            f"custom_reward_function.path={file}",
            f"custom_reward_function.name={function}",
            f"reward_model.reward_manager={name}",
        ]
        with hydra.initialize_config_module("verl.trainer.config", version_base=None):
            config = hydra.compose("knapsack_trainer", overrides=overrides)
        kwargs = {"max_resp_len": 8, "overlong_buffer_cfg": NoOverlongBuffer()} if name == "dapo" else {}
        kinds = [load_reward_manager(config, CharacterTokenizer(), num_examine=n, **kwargs) for n in (0, 1)]
        return kinds

    return load


@pytest.mark.parametrize("name", ["naive", "prime", "batch", "dapo", "math_verify"])
def test_functions_from_a_file_score_in_training_and_validation(load, name):
    for manager in load(name):
        result = manager(make_batch(["ab", "abcd"]), return_dict=True)
        assert result["reward_tensor"].sum(dim=-1).tolist() == [0.5, 1.0]
        assert result["reward_extra_info"]["acc"] == [False, True]


@pytest.mark.parametrize("name", ["naive", "prime", "batch", "dapo", "math_verify"])
def test_failures_of_functions_from_a_file_name_their_prompts_in_training_and_validation(load, name):
    for manager in load(name):
        sent = cloudpickle.loads(cloudpickle.dumps(manager))  # as to the task that computes rewards
        for call in (partial(manager, return_dict=True), partial(compute_reward, reward_fn=sent)):
            with pytest.raises(RewardError, match=f"LookupError: truth 2{IS_NAMED}"):
                call(make_batch(RESPONSES))


@pytest.mark.parametrize("name", ["naive", "prime", "batch", "dapo", "math_verify"])
def test_asynchronous_functions_from_a_file_are_refused(load, name):
    if name == "batch":
        pytest.skip("its functions take other arguments")
    with pytest.raises(RewardError, match="is asynchronous.*truth"):
        load(name, "score_later")[0](make_batch(["a", "b"]))


def test_validation_batches_with_other_keys_are_refused():
    good, bad = {"score": 1.0, "why": "right"}, {"score": 1.0}
    for name in MANAGERS:
        manager = make_manager(name, Verdict(bad, good))
        checked = CheckedRewardManager(manager)
        checked(make_batch(["a", "b"]), return_dict=True)
        with pytest.raises(RewardError, match="score, why.* for an earlier batch.*truth 0"):
            checked(make_batch(["bad", "bad"]), return_dict=True)


# ---------------------------------------------------------------- what only prime does


def test_prime_scores_in_other_processes_and_takes_the_first_of_a_tuple():
    manager = make_manager("prime", lambda *_: (os.getpid() != PARENT, "metadata"))
    assert compute_reward(make_batch(RESPONSES), manager)[0].sum(dim=-1).tolist() == [1.0] * 4
    assert prime.PrimeRewardManager is get_reward_manager_cls("prime")


PARENT = os.getpid()


def test_prime_names_the_prompt_of_a_call_that_hangs():
    manager = make_manager("prime", Verdict(partial(time.sleep, 60)))
    manager.time_limit = 1.0
    start = time.monotonic()
    with pytest.raises(RewardError, match=f"did not return within 1 s.*reward_kwargs.time_limit{IS_NAMED}"):
        compute_reward(make_batch(RESPONSES), manager)
    assert time.monotonic() - start < 30


def test_prime_tells_of_a_process_that_ended():
    with pytest.raises(RewardError, match="ended its process"):
        compute_reward(make_batch(RESPONSES), make_manager("prime", Verdict(partial(os._exit, 1))))


def test_prime_passes_a_reward_models_scores_on():
    batch = make_batch(RESPONSES)
    batch.batch["rm_scores"] = torch.full(batch.batch["responses"].shape, 0.125)
    scores, columns = compute_reward(batch, make_manager("prime", Verdict(raise_error, raise_error)))
    assert scores.sum(dim=-1).tolist() == [1.0] * 4 and columns == {}


# ---------------------------------------------------------------- columns of the batch


@pytest.mark.parametrize("name", MANAGERS)
def test_the_columns_of_rewards_are_told_from_those_of_the_data(name):
    batch = make_batch(RESPONSES, acc=[0.0, 0.0, 1.0, 0.0])
    add_rewards(batch, *compute_reward(batch, make_manager(name, Verdict(0.0, 1.0))))
    assert batch.batch["token_level_scores"].sum(dim=-1).tolist() == [1.0, 1.0, 0.0, 1.0]
    of_the_reward = "acc" in batch.meta_info["reward_columns"]
    assert of_the_reward == (name in ("dapo", "math_verify"))  # which make one of the score
    assert batch.non_tensor_batch["acc"].tolist() == ([1.0, 1.0, 0.0, 1.0] if of_the_reward else [0.0, 0.0, 1.0, 0.0])

    batch = make_batch(RESPONSES, acc=[1.0] * 4)
    good, bad = {"score": 0.5, "acc": np.bool_(False)}, {"score": 0.25, "acc": True}
    add_rewards(batch, *compute_reward(batch, make_manager(name, Verdict(bad, good))))
    assert "acc" in batch.meta_info["reward_columns"]
    assert batch.non_tensor_batch["acc"].tolist() == [False, False, True, False]


def test_columns_of_any_kind_fit_the_batch():
    batch = make_batch(RESPONSES)
    columns = {
        "lists": [[1], [2, 3], [], [4]],
        "texts": ["a", "b", "c", "d"],
        "maybe": [None, 1, "x", {}],
        "n": [1, 2, 3, 4],
    }
    add_rewards(batch, torch.zeros(4, 8), columns)
    assert all(batch.non_tensor_batch[name].shape == (4,) for name in columns)
    assert batch.non_tensor_batch["lists"].tolist() == columns["lists"] and batch.non_tensor_batch["n"].sum() == 10
