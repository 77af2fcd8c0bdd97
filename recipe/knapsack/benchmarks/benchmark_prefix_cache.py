"""How many prompt tokens a real vLLM computes under each dispatch mode, by vLLM's own prefix-cache metrics.

Run in the environment that has vLLM: .venv-vllm/bin/python -m recipe.knapsack.benchmark_prefix_cache

One step's prompts get uneven budgets from the knapsack. Their rows are dealt to W workers in contiguous equal chunks,
as verl deals them; one engine serves the workers in turn, with an empty prefix cache for each. What a cache saves
depends on which rows share a worker, not on the model: one of random weights and 130 thousand parameters shows it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipe.knapsack.benchmarks.benchmark_dispatch import LAYOUTS, Step, simulate_step
from recipe.knapsack.tiny.tiny_task import VOCABULARY, make_model_config, make_tokenizer

RESPONSE_TOKENS = 2  # what is measured happens before the first
CACHE_BYTES = 2 * 1024**3
# vLLM must run in this process, and say nothing that is not a result.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}
COMPARED = {"random": "knapsack, random", "packed": "knapsack, packed"}


@dataclass(frozen=True)
class PromptTokens:
    """Prompt tokens of a step: those asked for, and those that the prefix cache had."""

    asked: int
    cached: int

    def __add__(self, other: PromptTokens) -> PromptTokens:
        return PromptTokens(self.asked + other.asked, self.cached + other.cached)

    def __sub__(self, other: PromptTokens) -> PromptTokens:
        return PromptTokens(self.asked - other.asked, self.cached - other.cached)

    @property
    def prefilled(self) -> int:
        """Tokens whose keys and values had to be computed."""
        return self.asked - self.cached

    @property
    def hit_rate(self) -> float:
        """Part of the tokens that the cache had."""
        return self.cached / self.asked


def make_engine(prompt_length: int, block_size: int, folder: Path) -> Any:
    """Return a vLLM engine in this process, with prefix caching, for prompts of ``prompt_length`` tokens."""
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    from transformers import Qwen2ForCausalLM
    from vllm import LLM

    config = make_model_config()
    config.max_position_embeddings = prompt_length + RESPONSE_TOKENS
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        enable_prefix_caching=True,
        block_size=block_size,
        kv_cache_memory_bytes=CACHE_BYTES,
        disable_log_stats=False,
    )


def read_prompt_tokens(engine: Any) -> PromptTokens:
    """Return what the engine has counted since it started."""
    counts = {metric.name: metric.value for metric in engine.get_metrics() if hasattr(metric, "value")}
    return PromptTokens(int(counts["vllm:prefix_cache_queries"]), int(counts["vllm:prefix_cache_hits"]))


def serve_worker(engine: Any, prompts: list[list[int]]) -> PromptTokens:
    """Generate for the rows of one worker, whose prefix cache is empty at first."""
    from vllm import SamplingParams

    engine.reset_prefix_cache()
    before = read_prompt_tokens(engine)
    parameters = SamplingParams(max_tokens=RESPONSE_TOKENS, ignore_eos=True, detokenize=False)
    engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], parameters, use_tqdm=False)
    return read_prompt_tokens(engine) - before


def serve_step(engine: Any, step: Step, dispatch: str, num_workers: int, prompt_length: int) -> PromptTokens:
    """Generate for all rows of ``step``, worker after worker."""
    random = np.random.default_rng(0)
    prompts = random.integers(1, len(VOCABULARY), (len(step.budgets), prompt_length)).tolist()
    order = LAYOUTS[COMPARED[dispatch]][1](step, num_workers)
    total = PromptTokens(0, 0)
    for rows in np.split(order, num_workers):
        total += serve_worker(engine, [prompts[index] for index in rows])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64, help="prompts per step, M (default 64)")
    parser.add_argument("--total-budget", type=int, default=512, help="rollouts per step, N_total (default 512)")
    parser.add_argument("--prompt-length", type=int, default=500, help="tokens of every prompt (default 500)")
    parser.add_argument("--block-size", type=int, default=32, help="tokens of a block of the KV cache (default 32)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[2, 4, 8, 16], help="rollout workers W (default 2-16)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(arguments.prompt_length, arguments.block_size, Path(folder))
        print(
            f"M = {arguments.prompts} prompts of {arguments.prompt_length} tokens, N_total = {arguments.total_budget} "
            "rollouts by the knapsack, counted by vLLM"
        )
        print(f"{'W':>3}{'hit rate: random':>20}{'packed':>9}{'prefilled: random':>21}{'packed':>9}{'ratio':>8}")
        for num_workers in arguments.workers:
            counted = {
                dispatch: serve_step(
                    engine,
                    simulate_step("middle", arguments.prompts, arguments.total_budget, allocator="knapsack", seed=0),
                    dispatch,
                    num_workers,
                    arguments.prompt_length,
                )
                for dispatch in COMPARED
            }
            random, packed = counted["random"], counted["packed"]
            print(
                f"{num_workers:>3}{random.hit_rate:>20.1%}{packed.hit_rate:>9.1%}{random.prefilled:>21}"
                f"{packed.prefilled:>9}{random.prefilled / packed.prefilled:>8.2f}"
            )


if __name__ == "__main__":
    main()
