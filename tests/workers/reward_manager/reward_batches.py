"""Small batches of responses to score, and a tokenizer of characters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from verl import DataProto

PROMPT_LENGTH, RESPONSE_LENGTH = 4, 8


class CharacterTokenizer:
    """One token per character; 0 pads."""

    eos_token = "$"

    def decode(self, tokens: Any, skip_special_tokens: bool = True) -> str:
        return "".join(chr(token) for token in tokens if token)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True) -> list[str]:
        return [self.decode(sequence, skip_special_tokens) for sequence in sequences]


def make_batch(responses: list[str], source: str = "test", **columns: list[Any]) -> DataProto:
    """A batch whose row ``i`` has the ground truth ``truth i``, the prompt id ``prompt i`` and the index ``i``."""

    def tokens(text: str, length: int) -> list[int]:
        return [ord(character) for character in text] + [0] * (length - len(text))

    rows = range(len(responses))
    prompts = torch.tensor([tokens("Q?", PROMPT_LENGTH) for _ in rows])
    answers = torch.tensor([tokens(response, RESPONSE_LENGTH) for response in responses])
    columns = {
        "data_source": [source for _ in rows],
        "reward_model": [{"ground_truth": f"truth {row}"} for row in rows],
        "extra_info": [{"index": row} for row in rows],
        "prompt_id": [f"prompt {row}" for row in rows],
        **columns,
    }
    return DataProto.from_dict(
        tensors={
            "prompts": prompts,
            "responses": answers,
            "attention_mask": torch.cat([prompts, answers], dim=1).ne(0).long(),
        },
        non_tensors={name: np.array(values, dtype=object) for name, values in columns.items()},
    )
