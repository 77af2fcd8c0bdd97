"""What keeping rollouts (exploration.dump_rollouts) costs a training step.

    python -m recipe.knapsack.benchmark_kept_rollouts                        # 2,048 rollouts of 3,000 tokens
    python -m recipe.knapsack.benchmark_kept_rollouts --run runs/tiny/knapsack

A step waits while rollouts are chosen and copied. Their texts are decoded and written beside the training, on one core
of the driver. Every part is the trainer's own; the tokens are random, so files are larger than those of real texts.
With ``--run``, what the steps of a run with kept rollouts waited is set against the steps themselves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from knapsack_rl import ExplorationConfig
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.rollout_dump import RolloutDump
from recipe.knapsack.benchmarks.benchmark_overhead import Size, Step
from verl import DataProto
from verl.trainer.ppo.prompts import group_names
from verl.trainer.ppo.rollout_dump import RolloutKeeper
from verl.trainer.ppo.step import TrainingStep

VOCABULARY = 32_000
CHARACTERS_OF_A_TOKEN = 4
BOUND = 0.01
"""Most that keeping rollouts may cost, as a share of a step."""


@dataclass(frozen=True)
class Cost:
    """What keeping the rollouts of one step costs.

    Attributes:
        waited: seconds that the step waits, on a machine without other work.
        beside: seconds that one core of the driver is busy meanwhile.
        stored: bytes on disk.
    """

    waited: float
    beside: float
    stored: int

    def line(self, kept: int | str, step_seconds: float) -> str:
        """The cost as a line of the printed table."""
        return (
            f"  {kept!s:>5} {1000 * self.waited:11.1f} ms {self.waited / step_seconds:9.3%}"
            f" {self.waited / BOUND:13.1f} s {self.beside:10.2f} s {self.beside / step_seconds:9.2%}"
            f" {self.stored / 2**20:9.2f} MiB"
        )


HEAD = "   kept    step waits    of it   1 % of a step of   core busy    of it     on disk"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer whose tokens are as long as those of a language model."""
    letters = np.random.default_rng(0).integers(97, 123, (VOCABULARY, CHARACTERS_OF_A_TOKEN), dtype=np.uint8)
    vocabulary = {f"{row.tobytes().decode()}{number}": number for number, row in enumerate(letters)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=next(iter(vocabulary))))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def make_batch(step: Step, response_tokens: int) -> DataProto:
    """The batch that a step trains on, with scores, advantages and what the reward function told."""
    plan, rows = step.plan, len(step.plan.order)
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "responses": torch.randint(VOCABULARY, (rows, response_tokens), generator=rng),
        "response_mask": torch.ones(rows, response_tokens, dtype=torch.int64),
        "advantages": torch.randn(rows, response_tokens, generator=rng),
        "token_level_scores": torch.zeros(rows, response_tokens),
    }
    tensors["token_level_scores"][:, -1] = torch.from_numpy(step.successes).float()
    groups = group_names(step=1, generation=0, num_prompts=len(plan.prompt_ids))
    columns = {
        "uid": groups[plan.order],
        "prompt_id": np.array(plan.prompt_ids, dtype=object)[plan.order],
        "acc": step.successes.astype(object),
        "pred": np.array([str(row) for row in range(rows)], dtype=object),
    }
    return DataProto.from_dict(tensors, columns, meta_info={"reward_columns": ["acc", "pred"]})


def measure(step: Step, batch: DataProto, kept: int | str, repeats: int) -> Cost:
    """Median cost of keeping so many rollouts of the batch, or all of them."""
    training_step = TrainingStep(1, is_last=False, is_profiled=False, explored=[(step.plan, step.outcomes())])
    config = ExplorationConfig(dump_rollouts=kept)
    costs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            keeper = RolloutKeeper(RolloutDump(folder, limit_bytes=2**40), config, make_tokenizer())
            # Of processors, not of the clock: other work on the machine does not count.
            waiting, busy = time.thread_time(), time.process_time()
            keeper.keep(training_step, 0, batch)
            waited = time.thread_time() - waiting
            keeper.flush()
            beside = time.process_time() - busy - waited
            stored = sum(path.stat().st_size for path in Path(folder).iterdir())
        costs.append((waited, max(beside, 0.0), stored))
    waited, beside, stored = np.median(costs, axis=0)
    return Cost(float(waited), float(beside), int(stored))


def measure_run(run_folder: Path) -> str:
    """What the steps of a run waited, against the steps.

    Raises:
        FileNotFoundError: the folder is not that of a run.
        ValueError: the run kept no rollouts.
    """
    steps = [record for record in read_metrics(run_folder) if "timing_s/keep_rollouts" in record]
    waited = np.array([record["timing_s/keep_rollouts"] for record in steps])
    if not waited.any():
        raise ValueError(f"{run_folder} kept no rollouts: train with exploration.dump_rollouts=all or a number")
    seconds = np.array([record["timing_s/step"] for record in steps])
    return (
        f"{run_folder}: {len(steps)} steps waited {1000 * np.median(waited):.2f} ms of {np.median(seconds):.3f} s "
        f"(medians), {waited.sum() / seconds.sum():.3%} of all their time"
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a run that kept rollouts")
    parser.add_argument("--prompts", type=int, default=256, help="prompts of a step (default: %(default)s)")
    parser.add_argument("--rollouts", type=int, default=2048, help="rollouts of a step (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=3000, help="tokens of a response (default: %(default)s)")
    parser.add_argument(
        "--kept", type=int, default=64, help="rollouts kept of a step, beside all (default: %(default)s)"
    )
    parser.add_argument("--step-seconds", type=float, default=180.0, help="of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.run is not None:
        try:
            print(measure_run(options.run))
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    torch.set_num_threads(1)
    size = replace(Size(), prompts=options.prompts, total_budget=options.rollouts, known_prompts=options.prompts)
    with tempfile.TemporaryDirectory() as folder:
        step = Step(size, Path(folder))
        batch = make_batch(step, options.tokens)
        print(
            f"{options.rollouts:,} rollouts of {options.tokens:,} tokens, against a step of {options.step_seconds:g} s"
        )
        print(HEAD)
        for kept in (options.kept, "all"):
            print(measure(step, batch, kept, options.repeats).line(kept, options.step_seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
