"""How evenly the dispatch modes share a knapsack step among the workers, and how often they make workers read a prompt.

Run: python -m recipe.knapsack.benchmark_dispatch

Simulates steps whose prompts have a mixture of success rates, allocates their budgets with the knapsack, and draws
response lengths that vary by prompt (harder ones are longer) and by rollout. Every layout sends the rows out in
contiguous equal chunks. The imbalance is most tokens on a worker / mean tokens of a worker: once for the tokens really
drawn, which decide the time, and once for the expected tokens, which are all that a layout can know. Neither can be
below 1. A worker reads (prefills) each of its prompts once if it has a prefix cache; M reads in all is the least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from knapsack_rl import homogeneous_allocate, knapsack_allocate
from knapsack_rl.dispatch import packed_order, random_order
from knapsack_rl.metrics import imbalance

# Shares of prompts that are unsolved, mixed and solved: early, in the middle and late in training.
PHASES = {"early": (0.6, 0.35, 0.05), "middle": (0.25, 0.5, 0.25), "late": (0.15, 0.25, 0.6)}
TYPICAL_RESPONSE = 800  # tokens of the median response to a prompt of success rate 1
SPREAD_BETWEEN_PROMPTS = 0.5  # standard deviation of the logarithm of the mean response length
SPREAD_WITHIN_PROMPT = 0.4  # the same for the rollouts of a prompt


@dataclass(frozen=True)
class Step:
    """One simulated step: (M,) budgets, (M,) expected tokens of a rollout, and how the real ones scatter."""

    budgets: np.ndarray
    expected_tokens: np.ndarray
    random: np.random.Generator

    def draw_tokens(self, order: np.ndarray) -> np.ndarray:
        """(N_total,) tokens of every row's response, whose mean is the prompt's expected tokens."""
        scatter = self.random.normal(-(SPREAD_WITHIN_PROMPT**2) / 2, SPREAD_WITHIN_PROMPT, len(order))
        return self.expected_tokens[order] * np.exp(scatter)


def simulate_step(phase: str, num_prompts: int, total_budget: int, *, allocator: str, seed: int) -> Step:
    """Draw success rates and response lengths, and allocate the budget by them."""
    random = np.random.default_rng(seed)
    unsolved, mixed, _ = PHASES[phase]
    rates = np.ones(num_prompts)
    rates[: round(unsolved * num_prompts)] = 0.0
    is_mixed = slice(round(unsolved * num_prompts), round((unsolved + mixed) * num_prompts))
    rates[is_mixed] = np.clip(random.binomial(8, random.beta(0.6, 0.6, len(rates[is_mixed]))), 1, 7) / 8
    random.shuffle(rates)
    lengths = TYPICAL_RESPONSE * np.exp(1.0 - rates + random.normal(0.0, SPREAD_BETWEEN_PROMPTS, num_prompts))
    if allocator == "knapsack":
        budgets = knapsack_allocate(rates, total_budget, n_low=2, n_up=128).budgets
    else:
        budgets = homogeneous_allocate(num_prompts, total_budget).budgets
    return Step(budgets, lengths, random)


def in_prompt_order(step: Step, num_workers: int) -> np.ndarray:
    """The prompts as they come from the data loader, each with its rollouts: upstream's layout."""
    return np.repeat(np.arange(len(step.budgets)), step.budgets)


def random_dispatch(step: Step, num_workers: int) -> np.ndarray:
    """`exploration.dispatch=random`."""
    return random_order(step.budgets, seed=int(step.random.integers(2**32)), step=0)


def packed_by_rows(step: Step, num_workers: int) -> np.ndarray:
    """`exploration.dispatch=packed` in the first epoch, when no response length is known."""
    return packed_order(step.budgets, num_workers)


def packed_by_tokens(step: Step, num_workers: int) -> np.ndarray:
    """`exploration.dispatch=packed` once response lengths are known."""
    return packed_order(step.budgets, num_workers, expected_tokens=step.expected_tokens)


LAYOUTS: dict[str, tuple[str, Callable[[Step, int], np.ndarray]]] = {
    "homogeneous, prompt order": ("homogeneous", in_prompt_order),
    "knapsack, prompt order": ("knapsack", in_prompt_order),
    "knapsack, random": ("knapsack", random_dispatch),
    "knapsack, packed, lengths unknown": ("knapsack", packed_by_rows),
    "knapsack, packed": ("knapsack", packed_by_tokens),
}


def measure(layout: str, phase: str, num_workers: int, num_prompts: int, total_budget: int, repeats: int) -> np.ndarray:
    """Means over repeats of (imbalance of drawn tokens, of expected tokens, reads per prompt, milliseconds)."""
    allocator, make_order = LAYOUTS[layout]
    rows = []
    for seed in range(repeats):
        step = simulate_step(phase, num_prompts, total_budget, allocator=allocator, seed=seed)
        start = time.perf_counter()
        order = make_order(step, num_workers)
        milliseconds = 1e3 * (time.perf_counter() - start)
        drawn = imbalance(order, num_workers, step.draw_tokens(order))
        expected = imbalance(order, num_workers, step.expected_tokens[order])["dispatch/token_imbalance"]
        reads = drawn["dispatch/workers_per_prompt"]
        rows.append((drawn["dispatch/token_imbalance"], expected, reads, milliseconds))
    return np.mean(rows, axis=0)


def print_table(num_prompts: int, total_budget: int, workers: list[int], repeats: int) -> None:
    """One line per phase and layout; for every number of workers: imbalance / prompts read per prompt."""
    print(f"M = {num_prompts} prompts, N_total = {total_budget} rollouts, mean of {repeats} simulated steps")
    print("imbalance of drawn tokens, of expected tokens | reads per prompt | milliseconds to make the order")
    print("lower bound: 1.000 1.000 | 1.00 | 0.0")
    print(f"\n{'training':<9}{'layout':<34}" + "".join(f"{f'W = {count}':^29}" for count in workers))
    for phase in PHASES:
        for layout in LAYOUTS:
            cells = (measure(layout, phase, count, num_prompts, total_budget, repeats) for count in workers)
            formatted = (f"{drawn:.3f} {expected:.3f} | {reads:.2f} | {ms:.1f}" for drawn, expected, reads, ms in cells)
            print(f"{phase:<9}{layout:<34}" + "".join(f"{cell:^29}" for cell in formatted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256, help="prompts per step, M (default 256)")
    parser.add_argument("--total-budget", type=int, default=2048, help="rollouts per step, N_total (default 2048)")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 32], help="rollout workers W (default 2 8 32)")
    parser.add_argument("--repeats", type=int, default=50, help="simulated steps per cell (default 50)")
    arguments = parser.parse_args()
    print_table(arguments.prompts, arguments.total_budget, arguments.workers, arguments.repeats)


if __name__ == "__main__":
    main()
