"""The tiny task: hidden strategies over digit strings, on which a small model learns in minutes on one CPU core.

A prompt is a family character, 3 to 5 digits and ``=``. Each of the 48 families is solved by one of eight strategies,
which the prompt does not show. A response names a strategy by its symbol, gives that strategy's answer and ends:

    prompt   ``k4071=``        (say family ``k`` is solved by reversing)
    response ``~1704<eos>``

Only the answer is checked, not the symbol. The pre-training corpus (see `sample_corpus`) leaves the right strategy of
many families rare, so the success rate of a prompt starts anywhere between 0.001 and 1 and reinforcement learning has
to discover strategies by sampling: the setting in which it matters how many rollouts each prompt gets.

``compute_score`` is verl's ``custom_reward_function``; the command line writes the data, the tokenizer and the model's
config:

    python -m recipe.knapsack.tiny_task --output DIR --seed 0
"""

from __future__ import annotations

import argparse
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config

DATA_SOURCE = "knapsack_tiny_task"
FAMILIES = string.ascii_letters[:48]
END_OF_PROMPT = "="
END_OF_SEQUENCE = "<eos>"
DIGIT_COUNTS = (3, 4, 5)
MAX_PROMPT_LENGTH = 1 + max(DIGIT_COUNTS) + len(END_OF_PROMPT)
"""Tokens of the longest prompt."""
MAX_RESPONSE_LENGTH = 1 + max(DIGIT_COUNTS) + 1
"""Tokens of the longest right response: the strategy's symbol, five digits, the end of sequence."""
BETWEEN_COPIES = " "
KNOWN_FAMILIES = round(0.4 * len(FAMILIES))
"""Number of families that the pre-training corpus almost always solves."""
TRAIN_SIZE, TEST_SIZE = 1024, 512


def max_response_length(most_copies: int = 1) -> int:
    """Tokens of the longest right response where an answer is written up to ``most_copies`` times.

    >>> max_response_length() == MAX_RESPONSE_LENGTH, max_response_length(3)
    (True, 19)
    """
    return MAX_RESPONSE_LENGTH + (most_copies - 1) * (len(BETWEEN_COPIES) + max(DIGIT_COUNTS))


def _map_digits(function: Callable[[int], int]) -> Callable[[str], str]:
    return lambda digits: "".join(str(function(int(digit))) for digit in digits)


STRATEGIES: dict[str, Callable[[str], str]] = {
    ".": lambda digits: digits,
    "~": lambda digits: digits[::-1],
    "<": lambda digits: "".join(sorted(digits)),
    ">": lambda digits: "".join(sorted(digits, reverse=True)),
    "+": _map_digits(lambda digit: (digit + 1) % 10),
    "-": _map_digits(lambda digit: 9 - digit),
    "*": _map_digits(lambda digit: 2 * digit % 10),
    "@": lambda digits: digits[1:] + digits[0],
}
"""The eight strategies by their symbol.

>>> {symbol: strategy("4071") for symbol, strategy in STRATEGIES.items()}
{'.': '4071', '~': '1704', '<': '0147', '>': '7410', '+': '5182', '-': '5928', '*': '8042', '@': '0714'}
"""

VOCABULARY = (END_OF_SEQUENCE, *string.digits, END_OF_PROMPT, *STRATEGIES, *string.ascii_letters, " ", "\n")
"""Token of each id: 73 characters after the end of sequence, the only token that is no visible character."""

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class World:
    """What is hidden from the model: how each family is solved and how the pre-training corpus tries to solve it.

    Attributes:
        solutions: (48,) symbol of the strategy that solves each family of `FAMILIES`.
        corpus_probabilities: (48, 8) float, rows sum to 1: how often the corpus answers a family by each strategy, in
            the order of `STRATEGIES`.
        copies: (48,) how often an answer to each family has to be written, which stands for the length of its working.
    """

    solutions: tuple[str, ...]
    corpus_probabilities: np.ndarray
    copies: tuple[int, ...] = (1,) * len(FAMILIES)

    def solution(self, family: str) -> str:
        """Symbol of the strategy that solves ``family``."""
        return self.solutions[FAMILIES.index(family)]

    def answer(self, family: str, symbol: str, digits: str) -> str:
        """What the strategy ``symbol`` answers to a prompt of ``family``, as often as it has to be written."""
        return BETWEEN_COPIES.join([STRATEGIES[symbol](digits)] * self.copies[FAMILIES.index(family)])


class Example(NamedTuple):
    """One line of the pre-training corpus."""

    prompt: str
    response: str


def make_world(seed: int, most_copies: int = 1) -> World:
    """The world of a seed: each strategy solves six families.

    In the corpus, two families of five are almost always answered by the strategy that solves them (probability 0.993,
    a logit of 5). The logits of the others are evenly spaced on [-8, 0], that is probabilities from 0.0003 to 0.5,
    shuffled over the families; what is left goes to the seven wrong strategies by Dirichlet(0.5) weights.

    The families of low probability are the hard ones. With ``most_copies`` above 1 their answers are long as well: the
    copies rise evenly from 1 to ``most_copies`` as the probability falls.

    >>> world = make_world(0)
    >>> bool(np.allclose(world.corpus_probabilities.sum(axis=1), 1))
    True
    """
    rng = np.random.default_rng([seed, 0])
    symbols = list(STRATEGIES)
    solution_indices = rng.permutation(np.arange(len(FAMILIES)) % len(symbols))
    probabilities = np.empty((len(FAMILIES), len(symbols)))
    for row, solution_index, right in zip(
        probabilities, solution_indices, _right_strategy_probabilities(rng), strict=True
    ):
        row[solution_index] = right
        row[np.arange(len(symbols)) != solution_index] = (1 - right) * rng.dirichlet(np.full(len(symbols) - 1, 0.5))
    right = probabilities[np.arange(len(FAMILIES)), solution_indices]
    return World(tuple(symbols[index] for index in solution_indices), probabilities, _copies(right, most_copies))


def _right_strategy_probabilities(rng: np.random.Generator) -> np.ndarray:
    logits = np.concatenate([np.full(KNOWN_FAMILIES, 5.0), np.linspace(-8.0, 0.0, len(FAMILIES) - KNOWN_FAMILIES)])
    return rng.permutation(1 / (1 + np.exp(-logits)))


def _copies(right_strategy_probabilities: np.ndarray, most_copies: int) -> tuple[int, ...]:
    """(48,) copies: 1 of the known families, from 1 to ``most_copies`` of the others, the rarest solved the most."""
    by_difficulty = np.argsort(-right_strategy_probabilities, kind="stable")
    difficulty = np.empty(len(FAMILIES), dtype=int)
    difficulty[by_difficulty] = np.arange(len(FAMILIES)) - KNOWN_FAMILIES
    copies = 1 + difficulty * most_copies // (len(FAMILIES) - KNOWN_FAMILIES)
    return tuple(np.maximum(copies, 1).tolist())


def sample_corpus(world: World, count: int, rng: np.random.Generator) -> list[Example]:
    """Draw ``count`` pre-training examples: the strategy varies, its execution is always right."""
    cumulative = world.corpus_probabilities.cumsum(axis=1)
    symbols = list(STRATEGIES)
    examples = []
    for family_index, digits in _sample_questions(count, rng):
        symbol = symbols[min(int(np.searchsorted(cumulative[family_index], rng.random())), len(symbols) - 1)]
        family = FAMILIES[family_index]
        examples.append(Example(f"{family}{digits}{END_OF_PROMPT}", symbol + world.answer(family, symbol, digits)))
    return examples


def _sample_questions(count: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """(family index, digits) pairs, uniform over families, lengths and digits."""
    families = rng.integers(len(FAMILIES), size=count).tolist()
    lengths = rng.choice(DIGIT_COUNTS, size=count).tolist()
    digits = rng.integers(10, size=(count, max(DIGIT_COUNTS))).astype("U1").tolist()
    return [(family, "".join(row[:length])) for family, length, row in zip(families, lengths, digits, strict=True)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The character tokenizer: 74 tokens, the padding is the end of sequence, the chat template emits contents only.

    The end of sequence is the only special token on purpose: a response that decodes to fewer characters than the
    length limit has ended, so the reward can be read off the decoded text (see `compute_score`).

    >>> tokenizer = make_tokenizer()
    >>> tokenizer.decode(tokenizer("k4071=")["input_ids"] + [tokenizer.eos_token_id], skip_special_tokens=True)
    'k4071='
    """
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_SEQUENCE,
        pad_token=END_OF_SEQUENCE,
        unk_token=END_OF_SEQUENCE,  # else transformers 5, which loads it as a Qwen2Tokenizer, adds that one's own
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model_config(vocabulary_size: int = len(VOCABULARY)) -> Qwen2Config:
    """Config of the model: about 130 thousand parameters, fp32, heads as wide as inference engines need (32).

    Token 0 of the vocabulary ends a sequence and pads.
    """
    return Qwen2Config(
        vocab_size=vocabulary_size,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(END_OF_SEQUENCE),
        pad_token_id=VOCABULARY.index(END_OF_SEQUENCE),
        torch_dtype="float32",
        architectures=["Qwen2ForCausalLM"],
    )


def make_splits(world: World, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The prompts of reinforcement learning in verl's schema, without duplicates: 1024 for ``train``, 512 for ``test``.

    Each row: ``data_source``, ``prompt`` (a list of one chat message), ``ability``, ``reward_model`` (``style``,
    ``ground_truth``: the right answer), ``extra_info`` (``index`` in the split, ``split``, ``family``,
    ``strategy``: the symbol of the solution).
    """
    rng = np.random.default_rng([seed, 1])
    questions: dict[tuple[int, str], None] = {}
    while len(questions) < TRAIN_SIZE + TEST_SIZE:
        questions.update(dict.fromkeys(_sample_questions(TRAIN_SIZE + TEST_SIZE, rng)))
    chosen = list(questions)[: TRAIN_SIZE + TEST_SIZE]
    return {
        split: [_row(world, split, index, FAMILIES[family], digits) for index, (family, digits) in enumerate(part)]
        for split, part in (("train", chosen[:TRAIN_SIZE]), ("test", chosen[TRAIN_SIZE:]))
    }


def _row(world: World, split: str, index: int, family: str, digits: str) -> dict[str, Any]:
    symbol = world.solution(family)
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": f"{family}{digits}{END_OF_PROMPT}"}],
        "ability": "hidden_strategy",
        "reward_model": {"style": "rule", "ground_truth": world.answer(family, symbol, digits)},
        "extra_info": {"index": index, "split": split, "family": family, "strategy": symbol},
    }


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> dict[str, Any]:
    """verl's reward function of the tiny task: 1 if the answer is right and the sequence ends, else 0.

    Reward managers pass decoded text without special tokens. Here the end of sequence is the only special token, so a
    response cut at the limit shows as many characters as the limit has tokens. With ``data.max_response_length`` of at
    least `MAX_RESPONSE_LENGTH`, which a right response fills only with its end of sequence, text that equals a right
    answer therefore has ended.

    Args:
        data_source: unused; part of verl's interface.
        solution_str: the response: one character (the named strategy, not checked), then the answer.
        ground_truth: the right answer.
        extra_info: unused; part of verl's interface.

    Returns:
        ``score`` (1.0 or 0.0), ``acc`` (bool) and ``pred`` (the answer that was read).

    >>> compute_score(DATA_SOURCE, "~1704", "1704")
    {'score': 1.0, 'acc': True, 'pred': '1704'}
    >>> compute_score(DATA_SOURCE, "~17044", "1704")["score"]
    0.0
    """
    answer = solution_str[1:]
    is_right = answer == ground_truth
    return {"score": float(is_right), "acc": is_right, "pred": answer}


def write_task(directory: Path, seed: int, most_copies: int = 1) -> World:
    """Write ``train.parquet``, ``test.parquet`` and ``model/`` (config and tokenizer, no weights); return the world."""
    world = make_world(seed, most_copies)
    model_directory = directory / "model"
    model_directory.mkdir(parents=True, exist_ok=True)
    for split, rows in make_splits(world, seed).items():
        pd.DataFrame(rows).to_parquet(directory / f"{split}.parquet")
    make_model_config().save_pretrained(model_directory)
    make_tokenizer().save_pretrained(model_directory)
    return world


def main(arguments: list[str] | None = None) -> None:
    """Command line: write the task of a seed."""
    parser = argparse.ArgumentParser(description="Write the tiny task: data, tokenizer and model config.")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and its prompts (default 0)")
    options = parser.parse_args(arguments)
    write_task(options.output, options.seed)
    print(f"wrote train.parquet ({TRAIN_SIZE} prompts), test.parquet ({TEST_SIZE}) and model/ to {options.output}")


if __name__ == "__main__":
    main()
