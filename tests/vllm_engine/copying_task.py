"""A task that shows a rollout that strays to another prompt's row: the right answer is the prompt's own id.

Every prompt is a family character, three digits and ``=``; its id is the digits. The model answers with the id after a
few seconds of training. Half of the prompts have a ground truth that no response equals, so that the knapsack gives
them other budgets than the rest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel, Qwen2ForCausalLM

from recipe.knapsack.tiny.tiny_task import FAMILIES, Example, make_model_config, make_tokenizer
from recipe.knapsack.tiny.warm_start import encode_examples

SYMBOL = "."
COPIED, IMPOSSIBLE = "copied", "impossible"
MAX_POSITIONS = 512
NUM_PROMPTS = 32


def make_copying_task(folder: Path, steps: int = 200) -> None:
    """Write ``model/``, ``train.parquet`` and ``test.parquet`` (`NUM_PROMPTS` each) and the mark of a warm start."""
    tokenizer = make_tokenizer()
    train_to_copy(steps).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    numbers = np.random.default_rng(0).permutation(1000)[:NUM_PROMPTS].tolist()
    rows = pd.DataFrame([_row(number, (COPIED, IMPOSSIBLE)[index % 2]) for index, number in enumerate(numbers)])
    rows.to_parquet(folder / "train.parquet")
    rows.to_parquet(folder / "test.parquet")
    (folder / "warm_start.json").write_text("{}")


def _row(number: int, kind: str) -> dict:
    digits = f"{number:03d}"
    return {
        "data_source": kind,
        "prompt": [{"role": "user", "content": f"{FAMILIES[number % len(FAMILIES)]}{digits}="}],
        "ability": "copying",
        "reward_model": {"style": "rule", "ground_truth": digits if kind == COPIED else "no digits"},
        "extra_info": {"index": number},
    }


def train_to_copy(steps: int) -> PreTrainedModel:
    """Return a tiny model that answers ``a123=`` with ``.123`` almost always."""
    config = make_model_config()
    config.max_position_embeddings = MAX_POSITIONS
    tokenizer = make_tokenizer()
    random = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        input_ids, labels = encode_examples(_examples(random, 128), tokenizer)
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return model.eval()


def _examples(random: np.random.Generator, count: int) -> list[Example]:
    families = random.choice(list(FAMILIES), count)
    digits = [f"{number:03d}" for number in random.integers(1000, size=count)]
    return [Example(f"{family}{number}=", SYMBOL + number) for family, number in zip(families, digits, strict=True)]
