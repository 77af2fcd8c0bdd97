"""The tiny task: its rules, its files as verl reads them, its reward through verl's manager, and its warm start."""

import collections
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM

from recipe.knapsack.tiny import tiny_task, warm_start
from recipe.knapsack.tiny.tiny_task import FAMILIES, MAX_PROMPT_LENGTH, MAX_RESPONSE_LENGTH, STRATEGIES, compute_score
from recipe.knapsack.tiny.warm_start import MANIFEST, WarmStartSettings, make_warm_start
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils import hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset


@pytest.fixture(scope="module")
def task_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny_task")
    tiny_task.main(["--output", str(directory), "--seed", "3"])
    return directory


@pytest.fixture(scope="module")
def tokenizer(task_directory):
    return hf_tokenizer(str(task_directory / "model"))


@pytest.mark.parametrize(
    ("symbol", "answer"),
    [
        (".", "4071"),
        ("~", "1704"),
        ("<", "0147"),
        (">", "7410"),
        ("+", "5182"),
        ("-", "5928"),
        ("*", "8042"),
        ("@", "0714"),
    ],
)
def test_strategies(symbol, answer):
    assert STRATEGIES[symbol]("4071") == answer


@given(digits=st.text("0123456789", min_size=3, max_size=5))
def test_strategies_keep_the_length_and_undo_themselves_where_they_should(digits):
    assert all(len(strategy(digits)) == len(digits) for strategy in STRATEGIES.values())
    assert all(STRATEGIES[symbol](STRATEGIES[symbol](digits)) == digits for symbol in ".~-")
    assert STRATEGIES["~"](STRATEGIES["<"](digits)) == STRATEGIES[">"](digits)


def test_the_world_is_a_function_of_the_seed():
    first, again, other = (tiny_task.make_world(seed) for seed in (5, 5, 6))
    assert first.solutions == again.solutions
    assert np.array_equal(first.corpus_probabilities, again.corpus_probabilities)
    assert first.solutions != other.solutions


def test_the_world_has_known_and_rare_families():
    world = tiny_task.make_world(0)
    assert collections.Counter(world.solutions) == dict.fromkeys(STRATEGIES, 6)
    assert np.allclose(world.corpus_probabilities.sum(axis=1), 1)
    symbols = list(STRATEGIES)
    right = np.sort(
        [
            row[symbols.index(solution)]
            for row, solution in zip(world.corpus_probabilities, world.solutions, strict=True)
        ]
    )
    assert np.allclose(right[-19:], 0.9933, atol=1e-4)
    assert np.allclose(np.log(right[:29] / (1 - right[:29])), np.linspace(-8, 0, 29))


def test_where_lengths_differ_hard_families_have_long_answers():
    same, longer = tiny_task.make_world(3), tiny_task.make_world(3, most_copies=3)
    assert same.copies == (1,) * len(FAMILIES) and longer.solutions == same.solutions
    right = [
        longer.corpus_probabilities[row, list(STRATEGIES).index(symbol)] for row, symbol in enumerate(longer.solutions)
    ]
    by_difficulty = np.array(longer.copies)[np.argsort(-np.array(right), kind="stable")]
    assert (np.diff(by_difficulty) >= 0).all() and set(by_difficulty) == {1, 2, 3}
    assert (by_difficulty[: tiny_task.KNOWN_FAMILIES] == 1).all()


def test_an_answer_counts_if_every_copy_is_right():
    world = tiny_task.make_world(0, most_copies=3)
    family = FAMILIES[world.copies.index(3)]
    answer = world.answer(family, "~", "4071")
    assert answer == "1704 1704 1704"
    assert compute_score("", f"~{answer}", answer)["score"] == 1.0
    assert compute_score("", "~1704 1704", answer)["score"] == 0.0
    rows = tiny_task.make_splits(world, 0)["train"]
    longest = max(len(row["reward_model"]["ground_truth"]) for row in rows)
    assert longest + 2 == tiny_task.max_response_length(3)  # the symbol and the end of sequence


def test_the_corpus_executes_the_strategy_it_names_as_often_as_the_world_says():
    world = tiny_task.make_world(1)
    examples = tiny_task.sample_corpus(world, 60_000, np.random.default_rng(0))
    counts = np.zeros((len(FAMILIES), len(STRATEGIES)))
    symbols = list(STRATEGIES)
    for prompt, response in examples:
        assert response[1:] == STRATEGIES[response[0]](prompt[1:-1])
        counts[FAMILIES.index(prompt[0]), symbols.index(response[0])] += 1
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    assert np.abs(frequencies - world.corpus_probabilities).max() < 0.06
    lengths = collections.Counter(len(prompt) - 2 for prompt, _ in examples)
    assert set(lengths) == {3, 4, 5}
    assert min(lengths.values()) > 19_000


def read_split(directory, split):
    return pd.read_parquet(directory / f"{split}.parquet")


def test_splits_are_disjoint_and_hold_the_right_answers(task_directory):
    world = tiny_task.make_world(3)
    prompts = []
    for split, size in (("train", 1024), ("test", 512)):
        rows = read_split(task_directory, split)
        assert len(rows) == size
        for index, row in enumerate(rows.itertuples()):
            (message,) = row.prompt
            prompt = message["content"]
            family, digits = prompt[0], prompt[1:-1]
            assert row.extra_info == {
                "index": index,
                "split": split,
                "family": family,
                "strategy": world.solution(family),
            }
            assert row.reward_model == {"style": "rule", "ground_truth": STRATEGIES[world.solution(family)](digits)}
            prompts.append(prompt)
    assert len(set(prompts)) == 1536
    families = collections.Counter(prompt[0] for prompt in prompts)
    assert set(families) == set(FAMILIES)
    assert max(families.values()) < 3 * min(families.values())


def test_model_and_vocabulary_have_the_size_of_the_reference(task_directory, tokenizer):
    config = AutoConfig.from_pretrained(task_directory / "model")
    assert len(tokenizer) == config.vocab_size == 74
    assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == config.pad_token_id
    assert config.hidden_size // config.num_attention_heads == 32
    model = AutoModelForCausalLM.from_config(config)
    assert 120_000 < sum(parameter.numel() for parameter in model.parameters()) < 140_000


@given(text=st.text(FAMILIES + "0123456789=" + "".join(STRATEGIES), min_size=1, max_size=14))
def test_the_tokenizer_reads_characters_and_writes_them_back(text):
    tokenizer = tiny_task.make_tokenizer()
    token_ids = tokenizer(text)["input_ids"]
    assert len(token_ids) == len(text)
    assert tokenizer.decode(token_ids + [tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_a_character_outside_the_vocabulary_is_an_error():
    with pytest.raises(Exception, match="WordLevel error"):
        tiny_task.make_tokenizer()("k40?1=")


def test_verls_dataset_gives_exactly_the_prompt(task_directory, tokenizer):
    config = OmegaConf.create({"max_prompt_length": MAX_PROMPT_LENGTH, "filter_overlong_prompts": False})
    dataset = RLHFDataset(str(task_directory / "train.parquet"), tokenizer, config)
    for index in (0, 1, 500, 1023):
        (message,) = read_split(task_directory, "train")["prompt"][index]
        item = dataset[index]
        tokens = item["input_ids"][item["attention_mask"].bool()]
        assert tokenizer.convert_ids_to_tokens(tokens.tolist()) == list(message["content"])


def score_by_verl(tokenizer, response_ids, ground_truth):
    """Score of one response that was generated up to the length limit, by verl's naive reward manager."""
    config = OmegaConf.create(
        {
            "custom_reward_function": {"path": tiny_task.__file__, "name": "compute_score"},
            "reward_model": {"reward_manager": "naive"},
            "data": {"reward_fn_key": "data_source"},
        }
    )
    manager = load_reward_manager(config, tokenizer, num_examine=0)
    prompt = torch.tensor(tokenizer("k4071=")["input_ids"])
    ended = (response_ids == tokenizer.eos_token_id).int()
    response_mask = (ended.cumsum(dim=0) - ended).eq(0).long()
    data = DataProto.from_dict(
        {
            "prompts": prompt.unsqueeze(0),
            "responses": response_ids.unsqueeze(0),
            "attention_mask": torch.cat([torch.ones_like(prompt), response_mask]).unsqueeze(0),
        },
        non_tensors={
            "reward_model": np.array([{"ground_truth": ground_truth}], dtype=object),
            "data_source": np.array([tiny_task.DATA_SOURCE], dtype=object),
            "extra_info": np.array([{}], dtype=object),
        },
    )
    result = manager(data, return_dict=True)
    rewards = result["reward_tensor"][0]
    assert rewards.sum() == rewards[response_mask.sum() - 1]
    assert result["reward_extra_info"]["acc"] == [bool(rewards.sum())]
    return rewards.sum().item()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("~1704$", 1.0),
        (".1704$", 1.0),
        ("~1704", 0.0),
        ("~17041", 0.0),
        ("~4071$", 0.0),
        ("1704$", 0.0),
        ("~170$", 0.0),
        ("$~1704", 0.0),
        ("~1704 $", 0.0),
        ("$", 0.0),
    ],
)
def test_reward_is_one_iff_the_answer_is_right_and_the_sequence_ends(tokenizer, response, expected):
    """``$`` stands for the end of sequence; a response without it runs on to the limit."""
    end = tokenizer.eos_token_id
    token_ids = [end if character == "$" else tokenizer.convert_tokens_to_ids(character) for character in response]
    filler = end if end in token_ids else tokenizer.convert_tokens_to_ids(" ")
    token_ids += [filler] * (MAX_RESPONSE_LENGTH - len(token_ids))
    assert score_by_verl(tokenizer, torch.tensor(token_ids), "1704") == expected


def test_no_response_of_the_longest_answer_scores_without_its_end(tokenizer):
    right = tokenizer("~12345")["input_ids"]
    assert len(right) == MAX_RESPONSE_LENGTH - 1
    for last in range(len(tokenizer)):
        expected = 1.0 if last == tokenizer.eos_token_id else 0.0
        assert score_by_verl(tokenizer, torch.tensor([*right, last]), "12345") == expected


def test_an_empty_answer_is_never_right():
    assert compute_score("", "", "123")["score"] == 0.0


def test_labels_are_the_response_and_its_end_only(tokenizer):
    examples = [tiny_task.Example("k4071=", "~1704"), tiny_task.Example("a123=", ".123")]
    input_ids, labels = warm_start.encode_examples(examples, tokenizer)
    assert input_ids.shape == labels.shape == (2, 12)
    for row, (prompt, response) in enumerate(examples):
        is_label = labels[row] != warm_start.IGNORED_LABEL
        expected = tokenizer(response)["input_ids"] + [tokenizer.eos_token_id]
        assert labels[row][is_label].tolist() == expected
        assert is_label.nonzero().squeeze(-1).tolist() == list(range(len(prompt), len(prompt) + len(expected)))
        assert input_ids[row][is_label].tolist() == expected


def test_learning_rate_warms_up_and_decays():
    settings = WarmStartSettings()
    factors = [settings.learning_rate_factor(step) for step in range(600)]
    assert factors[0] == pytest.approx(1 / 30)
    assert max(factors) == factors[29] == pytest.approx(1.0)
    assert factors[30:] == sorted(factors[30:], reverse=True)
    assert factors[-1] == pytest.approx(0.02, abs=1e-3)


def test_zero_steps_are_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        WarmStartSettings(steps=0)


@pytest.fixture(scope="module")
def short_warm_start(tmp_path_factory):
    directory = tmp_path_factory.mktemp("warm_start")
    return directory, make_warm_start(directory, WarmStartSettings(seed=2, steps=80), show_progress=False)


def loss_on_corpus(model, seed):
    world, tokenizer = tiny_task.make_world(seed), tiny_task.make_tokenizer()
    examples = tiny_task.sample_corpus(world, 256, np.random.default_rng(99))
    input_ids, labels = warm_start.encode_examples(examples, tokenizer)
    with torch.no_grad():
        return model(input_ids=input_ids, labels=labels).loss.item()


def test_pretraining_learns_and_is_saved_as_transformers_reads_it(short_warm_start):
    directory, manifest = short_warm_start
    model = AutoModelForCausalLM.from_pretrained(directory / "model")
    assert model.dtype == torch.float32
    assert loss_on_corpus(model, seed=2) < 2.0 < np.log(74) / 2
    assert 0 <= manifest["held_out_accuracy"] <= 1
    assert model.generation_config.eos_token_id == hf_tokenizer(str(directory / "model")).eos_token_id


def test_the_warm_start_is_a_function_of_its_settings(short_warm_start, tmp_path):
    directory, manifest = short_warm_start
    torch.rand(3)
    again = make_warm_start(tmp_path, WarmStartSettings(seed=2, steps=80), show_progress=False)
    assert again == manifest
    for name in ("model/model.safetensors", "train.parquet", "test.parquet"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


def test_only_a_finished_warm_start_of_the_same_settings_is_reused(tmp_path):
    weights = tmp_path / "model" / "model.safetensors"
    settings = WarmStartSettings(steps=1)
    make_warm_start(tmp_path, settings, show_progress=False)
    first = weights.read_bytes()
    weights.write_bytes(b"kept")
    make_warm_start(tmp_path, settings, show_progress=False)
    assert weights.read_bytes() == b"kept"
    (tmp_path / "test.parquet").unlink()
    make_warm_start(tmp_path, settings, show_progress=False)
    assert weights.read_bytes() == first
    assert (tmp_path / "test.parquet").exists()
    weights.write_bytes(b"not finished")
    (tmp_path / MANIFEST).unlink()
    make_warm_start(tmp_path, settings, show_progress=False)
    assert weights.read_bytes() == first
    make_warm_start(tmp_path, WarmStartSettings(steps=2), show_progress=False)
    assert weights.read_bytes() != first
    assert json.loads((tmp_path / MANIFEST).read_text())["settings"]["steps"] == 2


def test_a_warm_start_of_before_a_setting_existed_is_that_of_its_default(tmp_path):
    manifest = make_warm_start(tmp_path, WarmStartSettings(steps=1), show_progress=False)
    older = {**manifest, "settings": {key: v for key, v in manifest["settings"].items() if key != "most_copies"}}
    (tmp_path / MANIFEST).write_text(json.dumps(older))
    assert make_warm_start(tmp_path, WarmStartSettings(steps=1), show_progress=False) == older
    remade = make_warm_start(tmp_path, WarmStartSettings(steps=1, most_copies=2), show_progress=False)
    assert remade["settings"]["most_copies"] == 2


def test_an_interrupted_warm_start_is_made_anew(tmp_path, monkeypatch):
    make_warm_start(tmp_path, WarmStartSettings(steps=1), show_progress=False)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(warm_start, "pretrain", interrupted)
        make_warm_start(tmp_path, WarmStartSettings(steps=2), show_progress=False)
    assert warm_start.read_manifest(tmp_path) is None


def test_sampled_accuracy_counts_right_answers():
    tokenizer = tiny_task.make_tokenizer()
    rows = pd.DataFrame(tiny_task.make_splits(tiny_task.make_world(0), 0)["test"][:6])
    answers = [row["ground_truth"] for row in rows["reward_model"]]

    def answer_the_first_three(input_ids, num_return_sequences, max_new_tokens, **_):
        responses = [f"~{answer}{tokenizer.eos_token}" if index < 3 else "" for index, answer in enumerate(answers)]
        padded = tokenizer([response for response in responses for _ in range(num_return_sequences)])["input_ids"]
        tail = torch.tensor([ids + [tokenizer.pad_token_id] * (max_new_tokens - len(ids)) for ids in padded])
        return torch.cat([input_ids.repeat_interleave(num_return_sequences, dim=0), tail], dim=1)

    model = SimpleNamespace(generate=answer_the_first_three)
    assert warm_start.sampled_accuracy(model, tokenizer, rows, seed=0) == 0.5
