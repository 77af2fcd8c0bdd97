"""What the knapsack adds to a training step, part by part, beside what the step takes.

    python -m recipe.knapsack.benchmark_overhead                      # M = 256, N_total = 2048, 17,917 known prompts
    python -m recipe.knapsack.benchmark_overhead --run runs/tiny/knapsack

With ``--run``, a second table measures the parts at that run's own size and gives their share of its step. Every part
calls the functions that the trainer calls, on arrays of the step's size. The expansion counts in full, although
upstream's trainer repeats the prompts' tensors too; how long that takes is said below the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, Plan, knapsack_allocate, prompt_id
from knapsack_rl.dispatch import packed_order
from knapsack_rl.history import ExplorationHistory, read_history
from knapsack_rl.metrics import imbalance
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.run_folder import CONFIG_FILE, HISTORY_FOLDER
from knapsack_rl.step_parts import STEPS_PER_PART
from knapsack_rl.token_limit import TokenLimit
from verl import DataProto
from verl.trainer.config.checks import exploration_config
from verl.trainer.ppo.ray_trainer import take_rows

WORKERS = 8
EPOCH = 1


@dataclass(frozen=True)
class Size:
    """The size of a step.

    Attributes:
        prompts: M, prompts of a step.
        total_budget: N_total, rollouts of a step.
        known_prompts: prompts that the task status knows, at least M.
        prompt_tokens, response_tokens: padded lengths in tokens.
        prompt_characters: length of a prompt's text.
        n_low, n_up: bounds of the allocation, in rollouts.
    """

    prompts: int = 256
    total_budget: int = 2048
    known_prompts: int = 17_917
    prompt_tokens: int = 1024
    response_tokens: int = 4096
    prompt_characters: int = 600
    n_low: int = 2
    n_up: int = 128

    @classmethod
    def of_run(cls, config: DictConfig, known_prompts: int) -> Size:
        """The size of the steps of a run with this configuration; of a schedule of budgets, the largest counts."""
        prompts = config.data.get("gen_batch_size") or config.data.train_batch_size
        schedule = exploration_config(config).budget_schedule(prompts, config.actor_rollout_ref.rollout.n)
        return cls(
            prompts,
            max(schedule.budgets),
            known_prompts,
            config.data.max_prompt_length,
            config.data.max_response_length,
            prompt_characters=config.data.max_prompt_length,
            n_low=config.exploration.n_low,
            n_up=config.exploration.n_up,
        )


class Step:
    """A made-up training step of a given size, whose parts can be run again and again.

    Args:
        size: of the step.
        folder: an empty folder, for the history.
    """

    def __init__(self, size: Size, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.size = size
        self.messages = [
            [{"role": "user", "content": f"{number}".ljust(size.prompt_characters, "x")}]
            for number in range(size.known_prompts)
        ]
        self.known_ids = [prompt_id("benchmark", messages) for messages in self.messages]
        self.true_rates = rng.choice([0.0, 0.05, 0.3, 0.6, 0.9, 1.0], size.known_prompts)
        config = ExplorationConfig(n_low=size.n_low, n_up=size.n_up, total_budget=size.total_budget)
        self.explorer = Explorer(config)
        self._observe_first_epoch(rng)
        self.limited = Explorer(dataclasses.replace(config, max_expected_tokens="1.0x"))
        self.limited.load_state_dict(self.explorer.state_dict())
        self.history = ExplorationHistory(folder)
        self.number = 1
        self.prompt_ids = self.known_ids[: size.prompts]
        self.plan = self.make_plan()
        order = self.plan.order
        self.successes = rng.random(len(order)) < self.true_rates[order]
        self.response_tokens = rng.integers(1, size.response_tokens + 1, len(order))
        self.prompt_batch = self._make_prompt_batch()

    def _observe_first_epoch(self, rng: np.random.Generator) -> None:
        ids = np.repeat(self.known_ids, 8)
        successes = rng.random(len(ids)) < np.repeat(self.true_rates, 8)
        self.explorer.task_status.observe(
            ids.tolist(), successes, epoch=0, step=0, response_lengths=np.repeat(100 + 900 * (1 - self.true_rates), 8)
        )

    def _make_prompt_batch(self) -> DataProto:
        shape = (self.size.prompts, self.size.prompt_tokens)
        tensors = {name: torch.ones(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
        columns = {
            "uid": np.array(self.prompt_ids, dtype=object),
            "raw_prompt": np.array(self.messages[: self.size.prompts], dtype=object),
        }
        return DataProto.from_dict({**tensors, "position_ids": torch.ones(shape, dtype=torch.int64)}, columns)

    def identify(self) -> list[str]:
        return [prompt_id("benchmark", messages) for messages in self.messages[: self.size.prompts]]

    def make_plan(self) -> Plan:
        return self.explorer.plan(self.prompt_ids, epoch=EPOCH, step=self.number)

    def plan_within_tokens(self) -> Plan:
        return self.limited.plan(self.prompt_ids, epoch=EPOCH, step=self.number)

    def packed_order(self) -> np.ndarray:
        lengths = self.explorer.task_status.mean_response_lengths(self.prompt_ids)
        return packed_order(self.plan.budgets, WORKERS, expected_tokens=lengths)

    def expand(self) -> DataProto:
        return take_rows(self.prompt_batch, self.plan.order)

    def repeat_as_upstream(self) -> DataProto:
        return self.prompt_batch.repeat(self.size.total_budget // self.size.prompts, interleave=True)

    def outcomes(self) -> Outcomes:
        scores = self.successes.astype(np.float64)
        return Outcomes(
            prompt_index=self.plan.order,
            scores=scores,
            successes=self.successes,
            effective=self.explorer.adv_estimator.effective_rollouts(scores, self.plan.order),
            response_tokens=self.response_tokens,
        )

    def compute_metrics(self) -> dict[str, float]:
        metrics = self.explorer.metrics([(self.plan, self.outcomes())])
        return {**metrics, **imbalance(self.plan.order, WORKERS, self.response_tokens)}

    def observe(self) -> None:
        self.number += 1
        self.explorer.observe(dataclasses.replace(self.plan, step=self.number), self.outcomes())

    def append_history(self) -> None:
        self.number += 1
        self.history.record(dataclasses.replace(self.plan, step=self.number), self.outcomes())

    def append_and_flush_history(self) -> None:
        for _ in range(STEPS_PER_PART):
            self.append_history()
        self.history.flush()


def milliseconds_of_each(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of a call of each function, in milliseconds; they take turns, after one call to warm up."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, measured in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if repeat > 0:
                measured.append(time.perf_counter() - start)
    return [1000 * float(np.median(measured)) for measured in times]


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Median time of a call, in milliseconds."""
    return milliseconds_of_each([function], repeats)[0]


def measure_parts(step: Step, repeats: int) -> dict[str, float]:
    """Milliseconds that each part of a step takes."""
    return {
        "prompt identities": milliseconds(step.identify, repeats),
        "plan (rates, budgets, order)": milliseconds(step.make_plan, repeats),
        "expansion": milliseconds(step.expand, repeats),
        "outcomes and metrics": milliseconds(step.compute_metrics, repeats),
        "task status": milliseconds(step.observe, repeats),
        f"history (flush in {STEPS_PER_PART})": milliseconds(
            step.append_and_flush_history, max(repeats // STEPS_PER_PART, 3)
        )
        / STEPS_PER_PART,
    }


def table(parts: dict[str, float], step_milliseconds: float | None) -> str:
    """Lay the parts and their sum out as text, with their share of a step where its time is known."""

    def line(name: str, value: float) -> str:
        share = "" if step_milliseconds is None else f"{value / step_milliseconds:10.2%}"
        return f"  {name:36}{value:9.2f} ms{share}"

    lines = [line(name, value) for name, value in parts.items()]
    lines.append(line("sum", sum(parts.values())))
    if step_milliseconds is not None:
        lines.append(line("step of the run (median)", step_milliseconds))
    return "\n".join(lines)


def measure(size: Size, repeats: int, step_milliseconds: float | None = None) -> str:
    """Measure a step of this size and return the printed table."""
    with tempfile.TemporaryDirectory() as folder:
        step = Step(size, Path(folder))
        parts = measure_parts(step, repeats)
        packed, repetition, limited = milliseconds_of_each(
            [step.packed_order, step.repeat_as_upstream, step.plan_within_tokens], repeats
        )
    title = f"M = {size.prompts}, N_total = {size.total_budget}, {size.known_prompts} known prompts"
    notes = [
        f"  for comparison: exploration.dispatch=packed orders in {packed:.2f} ms,",
        f"  upstream's repetition takes {repetition:.2f} ms, which the expansion replaces,",
        f"  and with exploration.max_expected_tokens=1.0x the plan takes {limited:.2f} ms",
    ]
    return "\n".join([title, table(parts, step_milliseconds), *notes])


def measure_token_limit(prompts: int, repeats: int) -> str:
    """Measure an allocation of eight rollouts for each of so many different prompts, with and without a limit."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.5, prompts).clip(1e-4, 1.0 - 1e-4)
    lengths = 100 + 900 * (1 - rates) * rng.random(prompts) + 200 * rng.random(prompts)
    limit = TokenLimit(lengths, 8 * float(lengths.sum()))
    free, limited = milliseconds_of_each(
        [
            lambda: knapsack_allocate(rates, 8 * prompts),
            lambda: knapsack_allocate(rates, 8 * prompts, token_limit=limit),
        ],
        repeats,
    )
    return f"allocation of M = {prompts}: {free:.2f} ms, within 1.0x of homogeneous tokens {limited:.2f} ms"


def measure_beside_run(run_folder: Path, repeats: int) -> str:
    """Measure a step of a run's size and set it against the run's own steps.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        ValueError: the run has not finished a step.
    """
    steps = [record for record in read_metrics(run_folder) if "timing_s/step" in record]
    if not steps:
        raise ValueError(f"{run_folder} has no finished training step to compare with: train for some steps first")
    known_prompts = len(set(read_history(run_folder / HISTORY_FOLDER)["prompt_id"].to_pylist()))
    size = Size.of_run(OmegaConf.load(run_folder / CONFIG_FILE), known_prompts)
    own_timers = ("timing_s/allocate", "timing_s/observe")
    lines = [measure(size, repeats, 1000 * _median(step["timing_s/step"] for step in steps))]
    for timer in own_timers:
        lines.append(f"  {timer + ' of the run (median)':36}{1000 * _median(step[timer] for step in steps):9.2f} ms")
    return "\n".join(lines)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def main(arguments: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a run to set the parts against")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls of each part; the median counts")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(measure(Size(), options.repeats))
    for prompts in (256, 100_000):
        print(measure_token_limit(prompts, max(3, options.repeats // (prompts // 64))))
    if options.run is not None:
        try:
            print(f"\n{options.run}: " + measure_beside_run(options.run, options.repeats))
        except (ValueError, OSError) as error:
            print(f"error: {options.run}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
