"""Builds the folder of a training run without training: a simulated population, and the trainer's own writers.

Prompts succeed with a probability that grows with the gradients they get; the explorer and the files are the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, prompt_id
from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from knapsack_rl.rollout_dump import RolloutDump
from knapsack_rl.rollout_keeper import rows_to_keep
from knapsack_rl.run_folder import ROLLOUTS_FOLDER

ROLLOUTS_PER_PROMPT = 8


@dataclass(frozen=True)
class SyntheticRun:
    """How to make a run; sizes are those of the tiny task by default."""

    allocator: str = "knapsack"
    num_prompts: int = 512
    prompts_per_step: int = 64
    steps: int = 240
    planned_steps: int = 240
    validate_every: int = 20
    held_out: tuple[str, ...] = ("tiny",)
    seed: int = 0
    history: bool = True
    dump_rollouts: int = 0
    data: bool = False


def messages(number: int) -> list[dict[str, str]]:
    """The messages of a prompt."""
    return [{"role": "user", "content": f"What is {number} + 1?"}]


def ground_truth(number: int) -> str:
    """What the reward asks of a prompt; wrong for every hundredth."""
    return str(number + 2 if number % 100 == 0 else number + 1)


def build_run(folder: Path, options: SyntheticRun) -> Path:
    """Write the run into ``folder`` and return it."""
    rng = np.random.default_rng(options.seed)
    difficulty = rng.normal(2.0, 3.0, options.num_prompts)
    prompt_ids = np.array([prompt_id("synthetic", messages(number)) for number in range(options.num_prompts)])
    # What a prompt's own gradients taught, and what all prompts share.
    own, shared = np.zeros(options.num_prompts), 0.0
    explorer = Explorer(
        ExplorationConfig(allocator=options.allocator, n_low=2, n_up=128), rollouts_per_prompt=ROLLOUTS_PER_PROMPT
    )
    metrics_file = MetricsFile(folder)
    history = ExplorationHistory(folder / "history", flush_every=50)
    dump = RolloutDump(folder / ROLLOUTS_FOLDER, limit_bytes=2**30)
    folder.mkdir(parents=True, exist_ok=True)
    if options.data:
        write_prompts(folder / "train.parquet", options.num_prompts)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(options, folder)))
    metrics_file.log(_validation(options, shared, rng), step=0)
    steps_per_epoch = options.num_prompts // options.prompts_per_step
    for step in range(1, options.steps + 1):
        epoch, position = divmod(step - 1, steps_per_epoch)
        if position == 0:
            order = rng.permutation(options.num_prompts)
        batch = order[position * options.prompts_per_step :][: options.prompts_per_step]
        plan = explorer.plan(prompt_ids[batch].tolist(), epoch=epoch, step=step)
        rates = 1 / (1 + np.exp(difficulty[batch] - own[batch] - shared))
        prompt_index = np.repeat(np.arange(len(batch)), plan.budgets)
        successes = rng.random(len(prompt_index)) < rates[prompt_index]
        success_counts = np.bincount(prompt_index, weights=successes, minlength=len(batch)).astype(np.int64)
        is_mixed = (success_counts > 0) & (success_counts < plan.budgets)
        signal = is_mixed * np.sqrt(plan.budgets)
        own[batch] += 0.1 * signal
        shared += 0.012 * signal.mean()
        outcomes = Outcomes(
            prompt_index, successes.astype(float), successes, is_mixed[prompt_index], np.where(successes, 55, 15)
        )
        explorer.observe(plan, outcomes)
        if options.history:
            history.record(plan, outcomes)
        if options.dump_rollouts:
            dump.append(step, epoch, _kept_rollouts(plan, outcomes, batch, options.dump_rollouts))
        metrics = explorer.metrics([(plan, outcomes)])
        metrics["training/epoch"] = epoch
        metrics["training/cumulative_rollouts"] = step * options.prompts_per_step * ROLLOUTS_PER_PROMPT
        is_validated = step % options.validate_every == 0
        if is_validated:
            metrics.update(_validation(options, shared, rng))
        metrics_file.log({**metrics, **_timings(rng, is_validated)}, step=step)
    history.flush()
    dump.flush()
    return folder


def write_prompts(path: Path, num_prompts: int) -> None:
    """Write the prompts as the data preparation does."""
    rows = [
        {
            "data_source": "synthetic",
            "prompt": messages(number),
            "reward_model": {"style": "rule", "ground_truth": ground_truth(number)},
            "extra_info": {"index": number},
        }
        for number in range(num_prompts)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=200)


def _kept_rollouts(plan, outcomes: Outcomes, batch: np.ndarray, number: int) -> dict:
    rows, columns = rows_to_keep(
        ExplorationConfig(dump_rollouts=number),
        plan.step,
        outcomes.prompt_index,
        outcomes.successes,
        estimates=plan.success_rates,
        budgets=plan.budgets,
        successes=outcomes.successes_by_prompt(len(batch)),
    )
    prompts, successes = outcomes.prompt_index[rows], outcomes.successes[rows]
    # Who fails at a prompt whose ground truth is wrong says the right answer; who fails at another says anything.
    answers = [
        ground_truth(one) if right else str(one + 1 if one % 100 == 0 else one + 3 + plan.step * 100 + place)
        for place, (one, right) in enumerate(zip(batch[prompts].tolist(), successes.tolist()))
    ]
    return {
        "prompt_id": [plan.prompt_ids[prompt] for prompt in prompts],
        **columns,
        "score": outcomes.scores[rows],
        "acc": outcomes.scores[rows],
        "pred": answers,
        "advantage": np.where(successes, 1.0, -0.5),
        "response_tokens": outcomes.response_tokens[rows],
        "response": [f"Let me see.\nThe answer is \\boxed{{{answer}}}." for answer in answers],
    }


def _config(options: SyntheticRun, folder: Path) -> dict:
    return {
        "exploration": {"allocator": options.allocator, "n_low": 2, "n_up": 128},
        "made_by": {"knapsack_rl": "0.2.0", "commit": "0123abcd"},
        "data": {
            "train_batch_size": options.prompts_per_step,
            **({"train_files": [str(folder / "train.parquet")]} if options.data else {}),
        },
        "trainer": {"total_training_steps": options.planned_steps, "default_local_dir": str(folder)},
    }


def _validation(options: SyntheticRun, shared: float, rng: np.random.Generator) -> dict[str, float]:
    metrics = {}
    for number, source in enumerate(options.held_out):
        accuracy = 1 / (1 + np.exp(0.8 + 0.5 * number - 0.9 * shared)) + rng.normal(0, 0.008)
        metrics[f"val-core/{source}/acc/mean@4"] = float(np.clip(accuracy, 0, 1))
        metrics[f"val-aux/{source}/score/mean@4"] = 0.123
        metrics[f"val-core/{source}/acc/best@4/mean"] = 0.987
    return metrics


def _timings(rng: np.random.Generator, is_validated: bool) -> dict[str, float]:
    timings = {
        "gen": rng.normal(31.0, 1.5),
        "reward": rng.normal(2.0, 0.2),
        "reward_wait": 0.001,
        "old_log_prob": rng.normal(6.0, 0.3),
        "adv": 0.1,
        "update_actor": rng.normal(24.0, 0.8),
        "allocate": 0.002,
        "observe": 0.004,
        "testing": 60.0 if is_validated else 0.0,
        # Part of the generation: must not be counted twice.
        "generate_sequences": 30.0,
    }
    step = sum(seconds for name, seconds in timings.items() if name != "generate_sequences") + 0.4
    return {f"timing_s/{name}": seconds for name, seconds in {**timings, "step": step}.items()}
