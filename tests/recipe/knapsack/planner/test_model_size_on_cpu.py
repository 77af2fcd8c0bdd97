"""Sizes of models from their configs alone."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config

from recipe.knapsack.planner.model_size import KNOWN_MODELS, ModelSize, hub_name, model_size

# What the models' pages on the hub say.
PARAMETERS = {
    "Qwen/Qwen2.5-Math-7B": 7_615_616_512,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_known_models_have_their_published_number_of_parameters(name):
    assert model_size(f"/nowhere/{name}").parameters == PARAMETERS[name]
    assert hub_name(f"/nowhere/{name.split('/')[1]}") == name


def test_all_known_models_are_checked():
    assert set(KNOWN_MODELS) == set(PARAMETERS)


def test_a_model_that_is_here_is_measured_by_its_own_config(tmp_path):
    folder = tmp_path / "Qwen2.5-Math-7B"  # a known name does not win over the file
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=512,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    size = model_size(str(folder))
    with_weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    assert size == ModelSize(with_weights.num_parameters(), 2, 64, 4, 2, 16, 50, 2048)
    # Keys and values, 2 layers, 2 heads of width 16, 2 bytes each.
    assert size.kv_cache_bytes(tokens=10) == 2 * 2 * 2 * 16 * 2 * 10


def test_a_model_that_is_neither_here_nor_known_has_no_size(tmp_path):
    assert model_size(str(tmp_path / "Some-Model")) is None and hub_name("Some-Model") is None
