"""Speed of the transformers rollout against transformers' own ``generate``, both in this process, on one thread.

    python -m recipe.knapsack.benchmark_rollout --task DIR

``DIR`` is a warm start (``python -m recipe.knapsack.warm_start``); without it the tiny model has random weights, which
end their responses later. Both sides generate for the same rows and count the tokens up to the end of each response.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, PreTrainedModel

from recipe.knapsack.tiny.tiny_task import (
    MAX_RESPONSE_LENGTH,
    make_model_config,
    make_splits,
    make_tokenizer,
    make_world,
)
from verl import DataProto
from verl.utils.torch_functional import get_response_mask
from verl.workers.rollout import HFRollout


@dataclass(frozen=True)
class Speed:
    """Tokens generated in one pass over the rows and the seconds of the fastest of several passes."""

    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def make_prompts(rows: pd.DataFrame, distinct: int, copies: int) -> DataProto:
    """The first ``distinct`` prompts, each ``copies`` times in a row, as verl's trainer hands them to a rollout."""
    tokenizer = make_tokenizer()
    contents = [messages[0]["content"] for messages in rows["prompt"][:distinct] for _ in range(copies)]
    inputs = tokenizer(contents, return_tensors="pt", padding=True)
    mask = inputs["attention_mask"]
    batch = {
        "input_ids": inputs["input_ids"],
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0),
    }
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return DataProto.from_dict(batch, meta_info=ends)


def rollout_pass(model: PreTrainedModel, prompts: DataProto) -> Callable[[], torch.Tensor]:
    """A function that generates by this fork's rollout and returns the responses."""
    config = OmegaConf.create(
        {
            "response_length": MAX_RESPONSE_LENGTH,
            "dtype": str(model.dtype).removeprefix("torch."),
            "do_sample": True,
            "temperature": 1.0,
            "top_k": -1,
            "top_p": 1.0,
        }
    )
    rollout = HFRollout(model, config)
    return lambda: rollout.generate_sequences(prompts).batch["responses"]


def generate_pass(model: PreTrainedModel, prompts: DataProto) -> Callable[[], torch.Tensor]:
    """A function that generates by transformers' ``generate`` and returns the responses."""
    input_ids = prompts.batch["input_ids"]

    def generate() -> torch.Tensor:
        sequences = model.generate(
            input_ids=input_ids,
            attention_mask=prompts.batch["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=MAX_RESPONSE_LENGTH,
            **prompts.meta_info,
        )
        return sequences[:, input_ids.shape[1] :]

    return generate


def measure(passes: dict[str, Callable[[], torch.Tensor]], eos_token_id: int, repeats: int) -> dict[str, Speed]:
    """The speed of each pass; they take turns, so that a slow moment of the machine hits all of them."""
    speeds: dict[str, Speed] = {}
    for _ in range(repeats + 1):
        for name, run in passes.items():
            start = time.perf_counter()
            responses = run()
            seconds = time.perf_counter() - start
            tokens = int(get_response_mask(responses, eos_token=eos_token_id).sum())
            speed = Speed(tokens, seconds)
            if name not in speeds or speed.tokens_per_second > speeds[name].tokens_per_second:
                speeds[name] = speed
    return speeds


def load_task(directory: Path | None) -> tuple[PreTrainedModel, pd.DataFrame]:
    """Model and training rows of a warm start, or a model with random weights and the rows of seed 0."""
    if directory is not None:
        return AutoModelForCausalLM.from_pretrained(directory / "model"), pd.read_parquet(directory / "train.parquet")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_model_config())
    return model, pd.DataFrame(make_splits(make_world(0), 0)["train"])


def main(arguments: list[str] | None = None) -> None:
    """Command line: print tokens per second of both and their ratio."""
    parser = argparse.ArgumentParser(description="Benchmark the transformers rollout against transformers' generate.")
    parser.add_argument("--task", type=Path, help="a warm start's directory (default: random weights)")
    parser.add_argument("--prompts", type=int, default=128, help="distinct prompts (default 128)")
    parser.add_argument("--copies", type=int, default=8, help="rows of each prompt (default 8)")
    parser.add_argument("--repeats", type=int, default=10, help="timed passes, the fastest counts (default 10)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, rows = load_task(options.task)
    model.eval()
    prompts = make_prompts(rows, options.prompts, options.copies)
    passes = {"rollout.name=hf": rollout_pass(model, prompts), "transformers generate": generate_pass(model, prompts)}
    speeds = measure(passes, prompts.meta_info["eos_token_id"], options.repeats)
    print(f"{options.prompts} prompts x {options.copies}, {MAX_RESPONSE_LENGTH} tokens at most, 1 thread")
    for name, speed in speeds.items():
        print(f"{name:24s} {speed.tokens_per_second:10,.0f} tokens/s  ({speed.tokens} tokens in {speed.seconds:.3f} s)")
    ours, theirs = speeds.values()
    print(f"{'ratio':24s} {ours.tokens_per_second / theirs.tokens_per_second:10.2f}")


if __name__ == "__main__":
    main()
