"""Scores responses to prompts of reasoning-gym with its own verifiers, as a reward function of verl.

    custom_reward_function.path=examples/data_preprocess/reasoning_gym_reward.py

``reasoning_gym.py`` beside this file writes the prompts. ``extra_info`` of each has what its verifier needs, as JSON:
the data set, its configuration, and the entry with its metadata. reasoning-gym has to be installed where rewards are
computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

KEY = "reasoning_gym"
INSTALL = "pip install -r requirements/reasoning_gym.txt"
FORMATS = {
    "tags": "\n\nGive the final answer between <answer> and </answer>, as in <answer>42</answer>.",
    "plain": "",
}
"""Where the answer stands, with what the prompt says of it: in the last pair of tags, or it is the whole response."""
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    partial_credit: bool = False,
) -> dict[str, Any]:
    """Score a response.

    Args:
        data_source, ground_truth: not used; the verifier has its own.
        solution_str: the response.
        extra_info: of the prompt, with the key `KEY`.
        partial_credit: whether the score is the verifier's, which gives some wrong answers a little, instead of 0 or 1.
            Set by ``+custom_reward_function.reward_kwargs.partial_credit=true``.

    Returns:
        ``score``, and ``acc``: whether the verifier gives the full score of 1.
    """
    task = _task(extra_info)
    answer = solution_str.strip() if task["answer_format"] == "plain" else _between_tags(solution_str)
    score = _verify(answer, task)
    return {"score": score if partial_credit else float(score >= 1.0), "acc": score >= 1.0}


def score_answer(answer: str, extra_info: Mapping[str, Any]) -> float:
    """The verifier's score of an answer without anything around it."""
    return _verify(answer, _task(extra_info))


def _task(extra_info: Mapping[str, Any]) -> dict[str, Any]:
    packed = extra_info.get(KEY)
    if not isinstance(packed, str):
        raise ValueError(f"extra_info has no {KEY}, which examples/data_preprocess/reasoning_gym.py writes")
    task: dict[str, Any] = decode(json.loads(packed))
    return task


def _between_tags(response: str) -> str | None:
    """What stands in the last pair of tags; None if there is none.

    >>> _between_tags("<answer>1</answer>, no: <answer> 2 </answer>")
    '2'
    """
    found = _TAGS.findall(response)
    return found[-1].strip() if found else None


def _verify(answer: str | None, task: Mapping[str, Any]) -> float:
    # Verifiers of another kind than text fail on None.
    if not answer:
        return 0.0
    dataset = _dataset(task["dataset"], json.dumps(encode(task["config"]), sort_keys=True))
    return float(dataset.score_answer(answer, task["entry"]))


@lru_cache(maxsize=512)
def _dataset(name: str, config: str) -> Any:
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: install reasoning-gym with {INSTALL}") from error
    return reasoning_gym.create_dataset(name, **decode(json.loads(config)), seed=0, size=1)


def encode(value: Any) -> Any:
    """``value`` in what JSON can hold; `decode` gives back exactly ``value``, tuples and keys that are no text too.

    >>> encode((1, {2: "b"}))
    {'tuple of': [1, {'items of': [[2, 'b']]}]}

    Raises:
        TypeError: something has another type than text, number, truth value, None, list, tuple and dict.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple):
        return {"tuple of": [encode(entry) for entry in value]}
    if isinstance(value, list):
        return [encode(entry) for entry in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not {"tuple of", "items of"} & value.keys():
            return {key: encode(entry) for key, entry in value.items()}
        return {"items of": [[encode(key), encode(entry)] for key, entry in value.items()]}
    raise TypeError(f"{value!r} of the type {type(value).__name__}")


def decode(value: Any) -> Any:
    """What was encoded.

    >>> decode(encode((1, {2: "b"})))
    (1, {2: 'b'})
    """
    if isinstance(value, list):
        return [decode(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"tuple of"}:
        return tuple(decode(value["tuple of"]))
    if value.keys() == {"items of"}:
        return {decode(key): decode(entry) for key, entry in value["items of"]}
    return {key: decode(entry) for key, entry in value.items()}
