"""The task of reasoning-gym: its tokenizer, its corpus, its scores; with the real package where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from recipe.knapsack.tiny.tiny_task import Example
from recipe.knapsack.worlds import gym_task

needs_package = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
CORPUS = [
    Example(f"State the final answer to the following arithmetic problem: {number} + 1 =", str(number + 1))
    for number in range(200)
]


def test_the_tokenizer_keeps_digits_apart_and_gives_back_any_text(tmp_path):
    gym_task.make_gym_tokenizer(CORPUS).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    ids = tokenizer(CORPUS[123].prompt)["input_ids"]
    assert {tokenizer.decode(token) for token in ids} >= {"1", "2", "3"} and len(ids) < 12
    for text in (CORPUS[7].prompt, "Is 1960 a leap year? Yes × ü"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_corpus_draws_data_sets_by_their_share_however_many_questions_each_has():
    names = ["chain_sum"] * 5 + ["gcd"] * 20
    chances = gym_task._chances(pd.Series([f"reasoning_gym/{name}" for name in names]))
    shares = gym_task._CORPUS_SHARES
    assert chances.sum() == pytest.approx(1.0)
    assert chances[:5].sum() / chances[5:].sum() == pytest.approx(shares["chain_sum"] / shares["gcd"])
    assert len(set(np.round(chances[:5], 12))) == 1


@needs_package
@pytest.mark.slow
def test_a_warm_start_is_one_of_the_data_sets_own_verifiers(tmp_path, monkeypatch):
    monkeypatch.setattr(gym_task, "_STEPS", 2)
    gym_task.make_gym_warm_start(tmp_path, seed=3)
    made = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    train, test = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    questions = [messages[0]["content"] for rows in (train, test) for messages in rows["prompt"]]
    assert (len(train), len(test)) == (1024, 512) and len(set(questions)) == len(questions)
    assert train["data_source"].nunique() == len(gym_task._CORPUS_SHARES)
    for row in train.groupby("data_source").head(5).to_dict("records"):
        answer = row["reward_model"]["ground_truth"]
        assert gym_task.score_of_gym(row["data_source"], answer, answer, row["extra_info"])["score"] == 1.0
        assert gym_task.score_of_gym(row["data_source"], f"{answer}7", answer, row["extra_info"])["score"] == 0.0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    longest = max(len(tokenizer(each["ground_truth"])["input_ids"]) for each in train["reward_model"])
    assert longest + 1 <= gym_task.GYM_RESPONSE_LENGTH
    gym_task.make_gym_warm_start(tmp_path, seed=3)
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == made
