"""Sizes of a causal language model that decide what fits on a GPU, from its config alone.

The models of the paper are known without their files, so that a run can be planned before they are downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

_QWEN3_4B = {
    "hidden_size": 2560,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
KNOWN_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen2.5-Math-7B": (
        "qwen2",
        {
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "vocab_size": 152064,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        "qwen2",
        {
            "hidden_size": 1536,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "intermediate_size": 8960,
            "vocab_size": 151936,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen/Qwen3-4B-Base": ("qwen3", {**_QWEN3_4B, "max_position_embeddings": 32768}),
    "Qwen/Qwen3-4B-Instruct-2507": ("qwen3", {**_QWEN3_4B, "max_position_embeddings": 262144}),
}
"""Model type and config, as in the models' ``config.json``, by the model's name on the Hugging Face hub."""


@dataclass(frozen=True)
class ModelSize:
    """What memory depends on.

    Attributes:
        parameters: number of parameters, shared ones once.
        layers: transformer layers.
        hidden_size: width of the residual stream.
        attention_heads, key_value_heads: heads of a layer.
        head_dim: width of a head.
        vocabulary: rows of the output matrix.
        max_positions: longest sequence, in tokens, that the model is made for.
    """

    parameters: int
    layers: int
    hidden_size: int
    attention_heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int

    @classmethod
    def of_config(cls, config: PretrainedConfig) -> ModelSize:
        """Measure a model from its config; no weights are made.

        Example:
            >>> ModelSize.of_config(AutoConfig.for_model("qwen2", **KNOWN_MODELS["Qwen/Qwen2.5-Math-7B"][1])).parameters
            7615616512
        """
        text = config.get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        rope_factor = (getattr(text, "rope_scaling", None) or {}).get("factor", 1.0)
        return cls(
            parameters=model.num_parameters(),
            layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            attention_heads=text.num_attention_heads,
            key_value_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            max_positions=int(text.max_position_embeddings * rope_factor),
        )

    def kv_cache_bytes(self, tokens: int, bytes_per_value: int = 2) -> int:
        """Bytes that keys and values of ``tokens`` tokens take in the cache, over all layers and heads."""
        return 2 * self.layers * self.key_value_heads * self.head_dim * bytes_per_value * tokens


def hub_name(path: str) -> str | None:
    """Return the name on the hub of the known model whose folder, or hub name, ``path`` is; None if it is none.

    Example:
        >>> hub_name("/models/Qwen3-4B-Base")
        'Qwen/Qwen3-4B-Base'
    """
    return next((name for name in KNOWN_MODELS if Path(name).name == Path(path).name), None)


def model_size(path: str, trust_remote_code: bool = False) -> ModelSize | None:
    """Return the size of the model in the folder ``path``, or of the known model of that name.

    Returns:
        None if the folder has no ``config.json`` and the name is not among `KNOWN_MODELS`.

    Raises:
        ValueError: the folder's ``config.json`` is of no causal language model that transformers knows.
        OSError: it cannot be read.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return ModelSize.of_config(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))
    name = hub_name(path)
    if name is None:
        return None
    model_type, values = KNOWN_MODELS[name]
    return ModelSize.of_config(AutoConfig.for_model(model_type, **values))
