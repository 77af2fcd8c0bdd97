"""How fast is the allocation? Ratios to a straightforward dynamic programme in one run, and a log-log plot.

    python -m recipe.knapsack.benchmark_allocation --plot images/allocation_speed.png

Two baselines solve the same problem in numba. The straightforward one follows the paper's equation 5 loop by loop and
evaluates Value(N, p) where it needs it; the tabulated one looks values up in a table made beforehand.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from knapsack_rl import grpo_value, knapsack_allocate

ROLLOUTS_PER_PROMPT = 8
N_LOW, N_UP = 2, 128


@njit
def _value(n, p):
    return (1.0 - p**n - (1.0 - p) ** n) * p * (1.0 - p) ** 2


@njit
def straightforward_dynamic_programme(success_rates, total_budget, n_low, n_up):
    """Budgets by the textbook recursion over prompts, rollouts placed so far, and rollouts of the current prompt."""
    num_prompts = len(success_rates)
    best = np.full((num_prompts + 1, total_budget + 1), -np.inf)
    best[0, 0] = 0.0
    chosen = np.zeros((num_prompts + 1, total_budget + 1), dtype=np.int64)
    for i in range(num_prompts):
        for placed in range(total_budget + 1):
            for n in range(n_low, min(n_up, placed) + 1):
                value = best[i, placed - n] + _value(n, success_rates[i])
                if value > best[i + 1, placed]:
                    best[i + 1, placed] = value
                    chosen[i + 1, placed] = n
    return _trace_back(chosen, total_budget)


@njit
def tabulated_dynamic_programme(values, total_budget, n_low):
    """As `straightforward_dynamic_programme`, from a table of values: row i, column N - n_low."""
    num_prompts, num_choices = values.shape
    best = np.full((num_prompts + 1, total_budget + 1), -np.inf)
    best[0, 0] = 0.0
    chosen = np.zeros((num_prompts + 1, total_budget + 1), dtype=np.int64)
    for i in range(num_prompts):
        for placed in range(total_budget + 1):
            for n in range(n_low, min(n_low + num_choices - 1, placed) + 1):
                value = best[i, placed - n] + values[i, n - n_low]
                if value > best[i + 1, placed]:
                    best[i + 1, placed] = value
                    chosen[i + 1, placed] = n
    return _trace_back(chosen, total_budget)


@njit
def _trace_back(chosen, total_budget):
    budgets = np.zeros(len(chosen) - 1, dtype=np.int64)
    left = total_budget
    for i in range(len(budgets) - 1, -1, -1):
        budgets[i] = chosen[i + 1, left]
        left -= budgets[i]
    return budgets


def tabulated_allocate(success_rates: np.ndarray, total_budget: int) -> np.ndarray:
    """Budgets by the tabulated dynamic programme, the making of the table included."""
    values = grpo_value(np.arange(N_LOW, N_UP + 1), success_rates[:, None])
    return tabulated_dynamic_programme(values, total_budget, N_LOW)


@dataclass(frozen=True)
class Contestant:
    """A way to allocate, on a kind of success rates, up to a number of prompts that it finishes in seconds."""

    name: str
    allocate: Callable[[np.ndarray, int], np.ndarray]
    success_rates: Callable[[np.random.Generator, int], np.ndarray]
    largest: int


def distinct_rates(generator: np.random.Generator, num_prompts: int) -> np.ndarray:
    """No two prompts alike: the hardest case for the allocator."""
    return generator.uniform(0.01, 0.99, num_prompts)


def observed_rates(generator: np.random.Generator, num_prompts: int) -> np.ndarray:
    """Successes among 8 rollouts, as training sees them; mixed prompts only, so that all contestants solve the same."""
    return generator.integers(1, ROLLOUTS_PER_PROMPT, num_prompts) / ROLLOUTS_PER_PROMPT


def expected_allocate(success_rates: np.ndarray, total_budget: int) -> np.ndarray:
    """Budgets by the posterior-expected value."""
    beliefs = 8.0 * success_rates + 0.5, 8.0 * (1.0 - success_rates) + 0.5
    return knapsack_allocate(None, total_budget, N_LOW, N_UP, value="expected", beliefs=beliefs).budgets


CONTESTANTS = (
    Contestant("greedy, k/8 rates", lambda p, b: knapsack_allocate(p, b, N_LOW, N_UP).budgets, observed_rates, 100_000),
    Contestant(
        "greedy, all distinct", lambda p, b: knapsack_allocate(p, b, N_LOW, N_UP).budgets, distinct_rates, 100_000
    ),
    Contestant("greedy, expected value", expected_allocate, distinct_rates, 100_000),
    Contestant("dp", lambda p, b: knapsack_allocate(p, b, N_LOW, N_UP, solver="dp").budgets, distinct_rates, 1_024),
    Contestant("baseline: tabulated DP", tabulated_allocate, distinct_rates, 1_024),
    Contestant(
        "baseline: straightforward DP",
        lambda p, b: straightforward_dynamic_programme(p, b, N_LOW, N_UP),
        distinct_rates,
        512,
    ),
)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call; the first call, which compiles, does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(contestant: Contestant, num_prompts: int) -> float:
    """Seconds per allocation of 8 rollouts per prompt."""
    success_rates = contestant.success_rates(np.random.default_rng(num_prompts), num_prompts)
    budget = ROLLOUTS_PER_PROMPT * num_prompts
    once = seconds(lambda: contestant.allocate(success_rates, budget), repeats=1)
    return seconds(lambda: contestant.allocate(success_rates, budget), repeats=int(np.clip(1.0 / once, 3, 200)))


def check_same_value(num_prompts: int) -> None:
    """All contestants that maximise the same value must reach it, or the comparison means nothing."""
    success_rates = distinct_rates(np.random.default_rng(num_prompts), num_prompts)
    budget = ROLLOUTS_PER_PROMPT * num_prompts
    totals = [
        grpo_value(contestant.allocate(success_rates, budget), success_rates).sum()
        for contestant in CONTESTANTS
        if contestant.allocate is not expected_allocate
    ]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-12)


def report_paper_size(num_prompts: int = 256) -> None:
    """Print the time of each contestant at the paper's size and its ratio to both baselines."""
    check_same_value(num_prompts)
    times = {contestant.name: measure(contestant, num_prompts) for contestant in CONTESTANTS}
    straightforward, tabulated = times["baseline: straightforward DP"], times["baseline: tabulated DP"]
    print(f"M = {num_prompts}, N_total = {ROLLOUTS_PER_PROMPT * num_prompts}, N_low = {N_LOW}, N_up = {N_UP}")
    print(f"{'':30}{'ms':>10}{'straightforward /':>20}{'tabulated /':>14}")
    for name, duration in times.items():
        print(f"{name:30}{duration * 1e3:10.3f}{straightforward / duration:20.1f}{tabulated / duration:14.1f}")


def report_large(num_prompts: int = 100_000, total_budget: int = 1_000_000) -> None:
    """Print time and peak memory of the greedy solver on a whole data set at once."""
    print(f"\nM = {num_prompts:,}, N_total = {total_budget:,}")
    for make_rates in (observed_rates, distinct_rates):
        success_rates = make_rates(np.random.default_rng(0), num_prompts)
        duration = seconds(lambda rates=success_rates: knapsack_allocate(rates, total_budget), repeats=5)
        tracemalloc.start()
        knapsack_allocate(success_rates, total_budget)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{make_rates.__name__.replace('_', ' '):30}{duration * 1e3:10.1f} ms{peak / 2**20:10.1f} MiB at most")


def plot_scaling(path: Path) -> None:
    """Write a log-log plot of time against the number of prompts."""
    from matplotlib.figure import Figure

    sizes = [16, 64, 256, 512, 1_024, 4_096, 16_384, 100_000]
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for contestant, marker in zip(CONTESTANTS, "osD^vx", strict=True):
        measured = [size for size in sizes if size <= contestant.largest]
        style = "--" if contestant.name.startswith("baseline") else "-"
        axes.plot(
            measured,
            [measure(contestant, size) * 1e3 for size in measured],
            style,
            marker=marker,
            label=contestant.name,
        )
    axes.set_xlabel("prompts M (8 rollouts each on average)")
    axes.set_ylabel("time per allocation [ms]")
    axes.grid(which="major", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)  # inside, it would cover measurements
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"\nwrote {path}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also time many sizes (about a minute) and plot them")
    options = parser.parse_args(arguments)
    report_paper_size()
    report_large()
    if options.plot:
        plot_scaling(options.plot)


if __name__ == "__main__":
    main()
