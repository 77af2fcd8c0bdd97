"""How close does each success-rate estimator come to an allocator that knows the true success rates?

    python -m recipe.knapsack.simulate --picture images/simulation.png
    python -m recipe.knapsack.simulate --learning --help       # how much does a rule learn per rollout?

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

import numpy as np
from tqdm import tqdm

from knapsack_rl import expected_effective_ratio, grpo_value
from recipe.knapsack.studies import learning_command
from recipe.knapsack.studies.simulated_allocators import Batch, all_allocators
from recipe.knapsack.studies.simulated_prompts import ROLLOUTS_PER_PROMPT, Population

REPORTED_PHASES = {"early (to step 70)": (0.0, 0.07), "mid (to 600)": (0.07, 0.6), "late (to 1000)": (0.6, 1.0)}


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
    for step in tqdm(range(num_steps), desc="steps", delay=1.0, leave=False, disable=None):
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
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--learning" in arguments:
        return learning_command.main([argument for argument in arguments if argument != "--learning"])
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
