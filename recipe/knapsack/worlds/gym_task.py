"""A task that nobody here made: data and verifiers of reasoning-gym, with a small model pre-trained on part of them.

Five data sets of short answers. Some can be guessed (weekdays, leap years, common divisors, numbers of bits), some have
to be computed (sums and expressions, whose terms differ in number and digits). The corpus holds other questions of the
same data sets, some data sets more often than others, so that success rates differ.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipe.knapsack.tiny.tiny_task import END_OF_SEQUENCE, TEST_SIZE, TRAIN_SIZE, Example, make_model_config
from recipe.knapsack.tiny.warm_start import WarmStartSettings, pretrain

__all__ = ["GYM_RESPONSE_LENGTH", "make_gym_warm_start", "score_of_gym"]

GYM_RESPONSE_LENGTH = 8
"""Tokens after which a response is cut; right answers with their end have at most 7."""
_ADAPTER = Path(__file__).resolve().parents[3] / "examples" / "data_preprocess"
_SETTINGS = (
    "chain_sum.max_terms=2",
    "chain_sum.max_digits=2",
    "basic_arithmetic.max_terms=3",
    "basic_arithmetic.max_digits=1",
    "gcd.max_numbers=2",
    "gcd.max_value=100",
    "count_bits.max_n=5000",
    "calendar_arithmetic.tasks=[weekday_of_date, is_leap_year]",
)
_CORPUS_SHARES: Mapping[str, float] = MappingProxyType(
    {
        "chain_sum": 3.0,
        "basic_arithmetic": 2.0,
        "gcd": 1.0,
        "count_bits": 1.0,
        "calendar_arithmetic": 1.0,
    }
)
"""How often the corpus holds an example of each data set, relative to the others."""
_CORPUS_SIZE = 1200 * len(_CORPUS_SHARES)
_CORPUS_SEED = 1_000_000
"""Is added to the seed of the corpus' questions, which thereby are others."""
_VOCABULARY_SIZE = 800
_STEPS = 1500
_FINISHED = "warm_start.json"


def make_gym_warm_start(folder: Path, seed: int) -> None:
    """Write ``train.parquet``, ``test.parquet`` and ``model`` (pre-trained, with its tokenizer), unless they are there.

    Raises:
        subprocess.CalledProcessError: reasoning-gym is not installed; the adapter says how on standard error.
    """
    settings = {"seed": seed, "steps": _STEPS, "corpus": dict(_CORPUS_SHARES), "data": list(_SETTINGS)}
    finished = folder / _FINISHED
    if finished.exists() and json.loads(finished.read_text()) == settings:
        return
    finished.unlink(missing_ok=True)
    _write_rows(folder, seed, TRAIN_SIZE, TEST_SIZE)
    (folder / "validation.parquet").replace(folder / "test.parquet")
    _write_rows(folder / "corpus", seed + _CORPUS_SEED, _CORPUS_SIZE, 1)
    corpus, chances = _corpus(folder)
    shutil.rmtree(folder / "corpus")
    tokenizer = make_gym_tokenizer(corpus)

    def draw(count: int, rng: np.random.Generator) -> list[Example]:
        return [corpus[index] for index in rng.choice(len(corpus), size=count, p=chances)]

    model = pretrain(
        make_model_config(len(tokenizer)),
        tokenizer,
        draw,
        WarmStartSettings(seed=seed, steps=_STEPS),
        show_progress=False,
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    finished.write_text(json.dumps(settings, indent=2) + "\n")


def score_of_gym(data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any]) -> dict[str, Any]:
    """The verdict of the data set's own verifier (`examples/data_preprocess/reasoning_gym_reward.py`)."""
    scored: dict[str, Any] = _reward().compute_score(data_source, solution_str, ground_truth, extra_info)
    return scored


def make_gym_tokenizer(corpus: Sequence[Example]) -> PreTrainedTokenizerFast:
    """A tokenizer trained on a corpus: one token for each digit, few tokens for what all questions repeat.

    The end of sequence is token 0, which also pads.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=[END_OF_SEQUENCE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for example in corpus for text in example], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_SEQUENCE,
        pad_token=END_OF_SEQUENCE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _write_rows(folder: Path, seed: int, train_size: int, validation_size: int) -> None:
    """Call the adapter as a user does."""
    command = [sys.executable, str(_ADAPTER / "reasoning_gym.py"), "--answer-format", "plain", "--seed", str(seed)]
    command += ["--datasets", *_CORPUS_SHARES, *(word for setting in _SETTINGS for word in ("--set", setting))]
    command += ["--train-size", str(train_size), "--validation-size", str(validation_size), "--output-dir", str(folder)]
    environment = {**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def _corpus(folder: Path) -> tuple[list[Example], np.ndarray]:
    """The questions that are in neither split, with their answers, and the chance of each."""
    used = {
        question for name in ("train", "test") for question in _questions(pd.read_parquet(folder / f"{name}.parquet"))
    }
    rows = pd.read_parquet(folder / "corpus" / "train.parquet")
    rows = rows[~_questions(rows).isin(used)]
    answers = [reward["ground_truth"] for reward in rows["reward_model"]]
    return [Example(*each) for each in zip(_questions(rows), answers, strict=True)], _chances(rows["data_source"])


def _questions(rows: pd.DataFrame) -> pd.Series:
    return rows["prompt"].map(lambda messages: messages[0]["content"])


def _chances(data_sources: pd.Series) -> np.ndarray:
    """(E,) float64, sums to 1: the chance of each example, by the share of its data set."""
    shares = data_sources.map({f"reasoning_gym/{name}": share for name, share in _CORPUS_SHARES.items()})
    chances = (shares / data_sources.map(data_sources.value_counts())).to_numpy()
    return chances / chances.sum()


@cache
def _reward() -> ModuleType:
    """The reward function's module, loaded from its file, as verl does."""
    spec = importlib.util.spec_from_file_location("reasoning_gym_reward", _ADAPTER / "reasoning_gym_reward.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{_ADAPTER / 'reasoning_gym_reward.py'} is missing: run this from a checkout")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
