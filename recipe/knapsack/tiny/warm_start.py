"""Pre-train the tiny task's model on its mixed-quality corpus: the starting point of every reinforcement-learning run.

    python -m recipe.knapsack.warm_start --output DIR --seed 0

writes ``DIR/train.parquet``, ``DIR/test.parquet`` and ``DIR/model`` (config, weights, tokenizer) in about half a minute
on a core. A directory that holds a finished warm start of the same settings is left as it is.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from recipe.knapsack.tiny.tiny_task import (
    MAX_RESPONSE_LENGTH,
    Example,
    compute_score,
    make_model_config,
    make_tokenizer,
    max_response_length,
    sample_corpus,
    write_task,
)

MANIFEST = "warm_start.json"
PRODUCTS = ("train.parquet", "test.parquet", "model/config.json", "model/tokenizer.json", "model/model.safetensors")
IGNORED_LABEL = -100


@dataclass(frozen=True)
class WarmStartSettings:
    """Everything the result depends on. ``version`` changes when this recipe's result does.

    Attributes:
        most_copies: how often an answer to the hardest prompts has to be written (`tiny_task.make_world`).
    """

    seed: int = 0
    most_copies: int = 1
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    final_learning_rate_fraction: float = 0.02
    gradient_clip: float = 1.0
    version: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; pre-training takes at least 1 step (600 is the reference)")

    def learning_rate_factor(self, step: int) -> float:
        """Fraction of ``learning_rate`` at a step: linear warm-up, then cosine to ``final_learning_rate_fraction``."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        floor = self.final_learning_rate_fraction
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def make_warm_start(directory: Path, settings: WarmStartSettings, show_progress: bool = True) -> dict:
    """Make the warm start in ``directory`` unless it is there; return its manifest.

    Returns:
        ``settings`` and ``held_out_accuracy`` (avg@4 at temperature 1 on ``test.parquet``). The manifest is also
        written to ``directory/warm_start.json``, last, so that an interrupted run is not taken for a finished one.
    """
    manifest = read_manifest(directory)
    is_complete = all((directory / name).exists() for name in PRODUCTS)
    defaults = asdict(WarmStartSettings())  # of settings that an older manifest does not name
    if is_complete and manifest is not None and {**defaults, **manifest["settings"]} == asdict(settings):
        return manifest
    (directory / MANIFEST).unlink(missing_ok=True)
    world = write_task(directory, settings.seed, settings.most_copies)
    tokenizer = make_tokenizer()
    model = pretrain(
        make_model_config(), tokenizer, lambda count, rng: sample_corpus(world, count, rng), settings, show_progress
    )
    model.save_pretrained(directory / "model")
    rows = pd.read_parquet(directory / "test.parquet")
    manifest = {
        "settings": asdict(settings),
        "held_out_accuracy": sampled_accuracy(
            model, tokenizer, rows, settings.seed, response_length=max_response_length(settings.most_copies)
        ),
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def read_manifest(directory: Path) -> dict | None:
    """The manifest of a finished warm start, or None where there is none."""
    path = directory / MANIFEST
    return json.loads(path.read_text()) if path.exists() else None


def pretrain(
    config: Qwen2Config,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Callable[[int, np.random.Generator], list[Example]],
    settings: WarmStartSettings,
    show_progress: bool = True,
) -> PreTrainedModel:
    """Train a small model from random weights; the result is a function of the arguments.

    Args:
        config: of the model.
        corpus: draws a number of examples.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = Qwen2ForCausalLM(config).train()
    rng = np.random.default_rng([settings.seed, 2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.learning_rate_factor)
    progress = tqdm(
        range(settings.steps),
        desc="pre-training the tiny model",
        unit="step",
        mininterval=1.0,
        disable=not show_progress,
    )
    for _ in progress:
        input_ids, labels = encode_examples(corpus(settings.batch_size, rng), tokenizer)
        loss = model(input_ids=input_ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        scheduler.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def encode_examples(examples: list[Example], tokenizer: PreTrainedTokenizerBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (number of examples, longest) int64, padded on the right; the prompt is not a label.

    Padding needs no attention mask: it comes after the end of sequence, where nothing that counts attends to it.
    """
    prompts = tokenizer([example.prompt for example in examples])["input_ids"]
    responses = tokenizer([example.response + tokenizer.eos_token for example in examples])["input_ids"]
    longest = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    input_ids = torch.full((len(examples), longest), tokenizer.pad_token_id)
    labels = torch.full((len(examples), longest), IGNORED_LABEL)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return input_ids, labels


def sampled_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: pd.DataFrame,
    seed: int,
    samples: int = 4,
    response_length: int = MAX_RESPONSE_LENGTH,
) -> float:
    """Mean score of ``samples`` responses per prompt of ``rows`` (verl's schema), sampled at temperature 1."""
    prompts = ["".join(message["content"] for message in messages) for messages in rows["prompt"]]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        sequences = model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=samples,
            max_new_tokens=response_length,
        )
    responses = tokenizer.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    ground_truths = [reward_model["ground_truth"] for reward_model in rows["reward_model"] for _ in range(samples)]
    scores = [
        compute_score("", response, ground_truth)["score"]
        for response, ground_truth in zip(responses, ground_truths, strict=True)
    ]
    return float(np.mean(scores))


def main(arguments: list[str] | None = None) -> None:
    """Command line: make the warm start of a seed, on one thread (more only slow a model of this size down)."""
    parser = argparse.ArgumentParser(description="Pre-train the tiny task's model.")
    parser.add_argument("--output", type=Path, required=True, help="directory to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the task, the weights and the corpus (default 0)")
    parser.add_argument("--steps", type=int, default=WarmStartSettings.steps, help="training steps (default 600)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    manifest = make_warm_start(options.output, WarmStartSettings(seed=options.seed, steps=options.steps))
    print(f"warm start in {options.output}: held-out accuracy {manifest['held_out_accuracy']:.3f} (avg@4)")


if __name__ == "__main__":
    main()
