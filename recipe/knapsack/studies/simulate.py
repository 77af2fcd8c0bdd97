"""How close does each success-rate estimator come to an allocator that knows the true success rates?

    python -m recipe.knapsack.simulate --picture images/simulation.png

No language model: a population of prompts at the paper's scale (17,917 prompts, 256 per step, 8 rollouts each on
average) whose true success rates drift as training proceeds. The real task status and the real allocator see only
sampled rollouts; the clairvoyant allocator sees the true rates. Between them is one that sees sampled rollouts too but
knows the population and its drift exactly, and so estimates as well as can be done. Since rates drift on their own, all
allocators face the same batches and the same truth at every step.

Drift: logit p_i(t) = mean(t) + spread(t) z_i(t). Mean and spread are fitted so that 8 rollouts per prompt show the
shares of all-failed and all-solved prompts that the paper reports (`PHASES`); z_i is standard normal and keeps the
share `epoch_correlation` of itself from one epoch to the next, so that single prompts also drift.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import fsolve
from scipy.special import expit, ndtr

from verl.trainer.ppo.exploration_utils import (
    expected_effective_ratio,
    grpo_value,
    homogeneous_allocate,
    knapsack_allocate,
)
from verl.trainer.ppo.task_status import TaskStatus

ROLLOUTS_PER_PROMPT = 8
N_LOW, N_UP = 2, 128

# (training progress, share of all-failed prompts, share of all-solved prompts) at 8 rollouts per prompt.
# Start: "near 95 %" all-failed (figure 2). 0.07 = step 70, the end of the early phase: the ratio passes 40 %. Middle:
# the ratio is at its best, below 60 %. End: figure 8 has 3,793 of 17,917 prompts never solved and 8,676 always solved.
PHASES = (
    (0.00, 0.95, 0.002),
    (0.07, 0.50, 0.09),
    (0.30, 0.27, 0.19),
    (0.60, 0.22, 0.32),
    (1.00, 0.212, 0.484),
)
REPORTED_PHASES = {"early (to step 70)": (0.0, 0.07), "mid (to 600)": (0.07, 0.6), "late (to 1000)": (0.6, 1.0)}


# --- The population ---------------------------------------------------------------------------------------------------


def fit_mean_and_spread(all_failed: float, all_solved: float) -> tuple[float, float]:
    """Mean and spread of normal logits for which 8 rollouts fail, or succeed, all together in the given shares.

    Raises:
        ValueError: no normal distribution of logits gives these shares.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    weights = weights / weights.sum()

    def excess(unknowns: np.ndarray) -> list[float]:
        p = expit(unknowns[0] + np.exp(unknowns[1]) * nodes)
        failed, solved = weights @ (1.0 - p) ** ROLLOUTS_PER_PROMPT, weights @ p**ROLLOUTS_PER_PROMPT
        return [np.log(failed / all_failed), np.log(solved / all_solved)]

    solution, _, status, message = fsolve(excess, [0.0, 1.0], full_output=True)
    if status != 1:
        raise ValueError(
            f"no logit-normal population has {all_failed:.1%} failed and {all_solved:.1%} solved: {message}"
        )
    return float(solution[0]), float(np.exp(solution[1]))


class Population:
    """Prompts whose true success rates drift.

    Args:
        num_prompts: P.
        num_steps: length of training; `PHASES` stretch over it.
        epoch_correlation: correlation of a prompt's standing z from one epoch to the next, in [0, 1].
        generator: source of all randomness.
    """

    def __init__(
        self, num_prompts: int, num_steps: int, epoch_correlation: float, generator: np.random.Generator
    ) -> None:
        self._generator = generator
        self.epoch_correlation = epoch_correlation
        self._num_steps = num_steps
        self._standing = generator.standard_normal(num_prompts)
        self._progress = [progress for progress, _, _ in PHASES]
        self._fitted = np.array([fit_mean_and_spread(failed, solved) for _, failed, solved in PHASES])

    def success_rates(self, step: int) -> np.ndarray:
        """(P,) true success rates at a step."""
        return self.success_rates_of(self._standing, step)

    def success_rates_of(self, standing: np.ndarray, step: int) -> np.ndarray:
        """The success rates that prompts of the given standing z have at a step, in any shape."""
        progress = step / self._num_steps
        mean, spread = (np.interp(progress, self._progress, fitted) for fitted in self._fitted.T)
        return expit(mean + spread * standing)

    def end_epoch(self) -> None:
        """Let every prompt drift relative to the others."""
        noise = self._generator.standard_normal(len(self._standing))
        kept = self.epoch_correlation
        self._standing = kept * self._standing + np.sqrt(1.0 - kept**2) * noise


class StandingFilter:
    """The exact posterior of every prompt's standing, given all its rollouts (a Bayes filter on a grid).

    Args:
        num_prompts: P.
        epoch_correlation: see `Population`.

    Attributes:
        grid: (G,) standings.
        weights: (P, G) posterior probability of each; the rows add up to 1.
    """

    def __init__(self, num_prompts: int, epoch_correlation: float) -> None:
        self.grid = np.linspace(-5.0, 5.0, 201)
        prior = np.exp(-(self.grid**2) / 2.0)
        self.weights = np.tile(prior / prior.sum(), (num_prompts, 1))
        edges = (self.grid[1:] + self.grid[:-1]) / 2.0
        noise = max(np.sqrt(1.0 - epoch_correlation**2), 1e-9)  # 0 would divide by 0 where a standing meets an edge
        below = ndtr((edges - epoch_correlation * self.grid[:, None]) / noise)
        self._drift = np.diff(below, axis=1, prepend=0.0, append=1.0)

    def end_epoch(self) -> None:
        """Expect the drift of `Population.end_epoch`."""
        self.weights = self.weights @ self._drift

    def observe(self, prompts: np.ndarray, successes: np.ndarray, rollouts: np.ndarray, rates: np.ndarray) -> None:
        """Condition on the successes of (M,) different prompts; ``rates`` (G,) are the success rates of the grid."""
        p = np.clip(rates, 1e-12, 1.0 - 1e-12)
        log_posterior = np.log(np.maximum(self.weights[prompts], np.finfo(np.float64).tiny))
        log_posterior += successes[:, None] * np.log(p) + (rollouts - successes)[:, None] * np.log1p(-p)
        posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
        self.weights[prompts] = posterior / posterior.sum(axis=1, keepdims=True)


# --- The allocators ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """What a step asks an allocator: M prompts by number and name, their hidden success rates, and when."""

    prompts: np.ndarray
    names: np.ndarray
    true_rates: np.ndarray
    epoch: int
    step: int
    total_budget: int


class Homogeneous:
    """The same number of rollouts for every prompt."""

    name = "homogeneous"

    def allocate(self, batch: Batch) -> np.ndarray:
        return homogeneous_allocate(len(batch.names), batch.total_budget).budgets

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Learns nothing."""


class Clairvoyant(Homogeneous):
    """The knapsack with the true success rates: no allocator reaches a higher total value."""

    name = "clairvoyant"

    def allocate(self, batch: Batch) -> np.ndarray:
        return knapsack_allocate(batch.true_rates, batch.total_budget, N_LOW, N_UP).budgets


class ExactPosterior:
    """The knapsack for one who learns from rollouts and knows how the success rates are distributed and drift.

    No budgets have a higher expected value in the step at hand, given the rollouts that it has seen.
    """

    name = "exact posterior"

    def __init__(self, population: Population, num_prompts: int) -> None:
        self._population = population
        self._filter = StandingFilter(num_prompts, population.epoch_correlation)
        self._epoch = 0

    def allocate(self, batch: Batch) -> np.ndarray:
        while self._epoch < batch.epoch:
            self._filter.end_epoch()
            self._epoch += 1
        rates = self._population.success_rates_of(self._filter.grid, batch.step)
        gains_by_standing = np.diff(grpo_value(np.arange(N_LOW, N_UP + 1)[:, None], rates), axis=0)
        gains = self._filter.weights[batch.prompts] @ gains_by_standing.T
        left = batch.total_budget - N_LOW * len(batch.prompts)
        # The value is concave in the rollouts for every standing, so it is in the mean: the largest gains are the best.
        largest = np.argsort(-gains, axis=None, kind="stable")[:left]
        return N_LOW + np.bincount(largest // gains.shape[1], minlength=len(batch.prompts))

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Sample the rollouts and take in their outcomes."""
        successes = generator.binomial(budgets, batch.true_rates)
        rates = self._population.success_rates_of(self._filter.grid, batch.step)
        self._filter.observe(batch.prompts, successes, budgets, rates)


class Estimating:
    """The knapsack with what the task status knows from sampled rollouts."""

    def __init__(self, name: str, value: str = "grpo", fallback: bool = True, **status_options: Any) -> None:
        self.name = name
        self._value = value
        self._fallback = fallback
        self._status = TaskStatus(**status_options)

    def allocate(self, batch: Batch) -> np.ndarray:
        if self._value == "expected":
            beliefs = self._status.beliefs(batch.names, epoch=batch.epoch)
            allocation = knapsack_allocate(
                None, batch.total_budget, N_LOW, N_UP, value="expected", fallback=self._fallback, beliefs=beliefs
            )
        else:
            rates = self._status.success_rates(batch.names, epoch=batch.epoch)
            allocation = knapsack_allocate(rates, batch.total_budget, N_LOW, N_UP, fallback=self._fallback)
        return allocation.budgets

    def observe(self, batch: Batch, budgets: np.ndarray, generator: np.random.Generator) -> None:
        """Sample the rollouts and remember their outcomes."""
        outcomes = generator.random(int(budgets.sum())) < np.repeat(batch.true_rates, budgets)
        self._status.observe(np.repeat(batch.names, budgets), outcomes, epoch=batch.epoch, step=batch.step)


def all_allocators(population: Population, num_prompts: int, *, fallback: bool) -> list[Any]:
    """The allocators that are compared, the bound last."""
    return [
        Homogeneous(),
        Estimating("previous_epoch", fallback=fallback, estimator="previous_epoch"),
        Estimating("window", fallback=fallback, estimator="window"),
        Estimating("beta", fallback=fallback, estimator="beta"),
        Estimating("beta, expected value", value="expected", fallback=fallback, estimator="beta"),
        ExactPosterior(population, num_prompts),
        Clairvoyant(),
    ]


# --- The simulation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Outcome per allocator and step.

    Attributes:
        names: (A,) allocators.
        ratios: (A, T) effective-gradient ratio that the budgets give in expectation under the true success rates.
        values: (A, T) total value of the budgets under the true success rates.
        all_failed, all_solved: (T,) expected shares of prompts whose 8 rollouts would all fail, or all succeed.
    """

    names: list[str]
    ratios: np.ndarray
    values: np.ndarray
    all_failed: np.ndarray
    all_solved: np.ndarray


def simulate(
    *,
    num_prompts: int = 17_917,
    batch_size: int = 256,
    num_steps: int = 1_000,
    epoch_correlation: float = 0.95,
    fallback: bool = True,
    seed: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
) -> Result:
    """Run all allocators through the same batches.

    Args:
        num_prompts, batch_size, num_steps: scale; the paper's by default. Incomplete batches are dropped.
        epoch_correlation: see `Population`.
        fallback: whether the estimating allocators give what is left to prompts that were never solved.
        seed: of the population, the batches and the rollouts.
        on_step: called with the number of each finished step.

    Raises:
        ValueError: fewer prompts than a batch, or a correlation outside [0, 1].
    """
    if not 1 <= batch_size <= num_prompts:
        raise ValueError(f"batch_size={batch_size} is not possible with num_prompts={num_prompts}")
    if not 0.0 <= epoch_correlation <= 1.0:
        raise ValueError(f"epoch_correlation must lie in [0, 1], got {epoch_correlation}")
    seeds = np.random.SeedSequence(seed)
    drift, shuffle = map(np.random.default_rng, seeds.spawn(2))
    population = Population(num_prompts, num_steps, epoch_correlation, drift)
    allocators = all_allocators(population, num_prompts, fallback=fallback)
    rollouts = map(np.random.default_rng, seeds.spawn(len(allocators)))
    allocators_and_generators = list(zip(allocators, rollouts, strict=True))
    names = np.array([f"prompt {i}" for i in range(num_prompts)])
    ratios, values = np.empty((2, len(allocators), num_steps))
    uniform = np.empty((2, num_steps))
    steps_per_epoch = num_prompts // batch_size
    for step in range(num_steps):
        if step % steps_per_epoch == 0:
            order = shuffle.permutation(num_prompts)
            if step > 0:
                population.end_epoch()
        start = step % steps_per_epoch * batch_size
        chosen = order[start : start + batch_size]
        p = population.success_rates(step)[chosen]
        batch = Batch(chosen, names[chosen], p, step // steps_per_epoch, step, ROLLOUTS_PER_PROMPT * batch_size)
        for a, (allocator, generator) in enumerate(allocators_and_generators):
            budgets = allocator.allocate(batch)
            ratios[a, step] = expected_effective_ratio(budgets, success_rates=p)
            values[a, step] = grpo_value(budgets, p).sum()
            allocator.observe(batch, budgets, generator)
        uniform[:, step] = np.mean((1.0 - p) ** ROLLOUTS_PER_PROMPT), np.mean(p**ROLLOUTS_PER_PROMPT)
        on_step(step)
    return Result([allocator.name for allocator in allocators], ratios, values, *uniform)


def summarise(result: Result) -> dict[str, dict[str, float]]:
    """Means per allocator: the ratio overall and by phase, and ratio and value relative to the clairvoyant allocator.

    ``ratio / clairvoyant`` and ``value / clairvoyant`` leave out the early phase, in which most prompts have not been
    seen and every allocator is homogeneous.
    """
    num_steps = result.ratios.shape[1]
    bounds = {name: slice(round(a * num_steps), round(b * num_steps)) for name, (a, b) in REPORTED_PHASES.items()}
    after_early = slice(round(REPORTED_PHASES["early (to step 70)"][1] * num_steps), num_steps)
    bound = result.names.index("clairvoyant")
    summary = {}
    for a, name in enumerate(result.names):
        summary[name] = {"ratio": float(result.ratios[a].mean())}
        summary[name] |= {phase: float(result.ratios[a, steps].mean()) for phase, steps in bounds.items()}
        for quantity, per_step in (("ratio", result.ratios), ("value", result.values)):
            relative = per_step[a, after_early].mean() / per_step[bound, after_early].mean()
            summary[name][f"{quantity} / clairvoyant"] = float(relative)
    return summary


# --- Output -----------------------------------------------------------------------------------------------------------


def format_summary(summary: dict[str, dict[str, float]]) -> str:
    """The summary as a table."""
    columns = list(next(iter(summary.values())))
    lines = [f"{'':22}" + "".join(f"{column:>22}" for column in columns)]
    lines += [f"{name:22}" + "".join(f"{numbers[c]:22.1%}" for c in columns) for name, numbers in summary.items()]
    return "\n".join(lines)


_LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), "-")


def plot_result(result: Result, path: Path) -> None:
    """Write a picture: the fitted phases, and each allocator's effective-gradient ratio, smoothed over 20 steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    phases, ratios = figure.subplots(1, 2)
    uniform = result.ratios[result.names.index("homogeneous")]
    for curve, label, style in (
        (uniform, "effective gradients", "-"),
        (result.all_failed, "all rollouts fail", "--"),
        (result.all_solved, "all rollouts succeed", ":"),
    ):
        phases.plot(*_smooth(curve), style, label=label)
    phases.set_ylabel("share with 8 rollouts per prompt")
    for name, curve, style in zip(result.names, result.ratios, _LINE_STYLES, strict=True):
        color = {"color": "black"} if name == "clairvoyant" else {}
        ratios.plot(*_smooth(curve), linestyle=style, label=name, **color)
    ratios.set_ylabel("expected effective-gradient ratio")
    for axes in (phases, ratios):
        axes.set_xlabel("step")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _smooth(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres and means of windows of 20 steps."""
    width = min(20, len(curve))
    return np.arange(len(curve) - width + 1) + (width - 1) / 2, np.convolve(curve, np.ones(width) / width, "valid")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=17_917, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=256, help="prompts per step (default: %(default)s)")
    parser.add_argument("--num-steps", type=int, default=1_000, help="(default: %(default)s)")
    parser.add_argument(
        "--epoch-correlation",
        type=float,
        default=0.95,
        help="of a prompt's standing among others (default: %(default)s)",
    )
    parser.add_argument("--no-fallback", action="store_true", help="spend nothing extra on prompts never solved")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the ratios")
    options = parser.parse_args(arguments)
    try:
        result = simulate(
            num_prompts=options.num_prompts,
            batch_size=options.batch_size,
            num_steps=options.num_steps,
            epoch_correlation=options.epoch_correlation,
            fallback=not options.no_fallback,
            seed=options.seed,
            on_step=_show_progress(options.num_steps),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.picture:
        plot_result(result, options.picture)
    summary = summarise(result)
    print(json.dumps(summary, indent=2) if options.json else format_summary(summary))
    return 0


def _show_progress(num_steps: int) -> Callable[[int], None]:
    """Show a running count on a terminal; keep quiet when the output goes elsewhere."""

    def show(step: int) -> None:
        if sys.stderr.isatty() and (step % 20 == 19 or step + 1 == num_steps):
            end = "\n" if step + 1 == num_steps else ""
            print(f"\rstep {step + 1} of {num_steps}", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
