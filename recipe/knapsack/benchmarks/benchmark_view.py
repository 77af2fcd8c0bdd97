"""How long the viewer takes to open a run, and to answer each of its pages.

    python -m recipe.knapsack.benchmark_view              # a made-up run of 17,917 prompts and 1,000 steps
    python -m recipe.knapsack.benchmark_view --run RUN    # a run of one's own

Seconds by the clock, and of processors: what else the machine does counts in the first alone. The first line is what a
user waits, from the command to the first page with the run's table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from knapsack_rl import prompt_id
from knapsack_rl.allocation_rules import PLACING_RULES
from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics_file import MetricsFile
from knapsack_rl.rollout_dump import RolloutDump
from knapsack_rl.run_folder import CONFIG_FILE, ROLLOUTS_FOLDER

BOUND = 2.0
"""Most seconds that the first page may take."""
PAGES = {
    "runs": "/",
    "prompts": "/prompts",
    "sorted": "/prompts?sort=rate&order=up&page=50",
    "filtered": "/prompts?rate_min=0.2&rate_max=0.8",
    "searched": "/prompts?text=prompt+1234",
    "never solved": "/prompts?list=never-solved",
    "lost": "/prompts?list=lost",
    "always solved": "/prompts?list=always-solved",
    "most expensive": "/prompts?list=expensive",
    "ground truth": "/prompts?list=ground-truth",
    "CSV": "/export?format=csv",
    "parquet": "/export?format=parquet",
}
CHARACTERS_OF_A_PROMPT = 600
TOKENS_OF_A_ROLLOUT = 3000


def make_run(folder: Path, prompts: int, steps: int, prompts_per_step: int, kept: int) -> None:
    """Write the files of a run: made-up outcomes, the trainer's own writers."""
    rng = np.random.default_rng(0)
    messages = [
        [{"role": "user", "content": f"prompt {number} ".ljust(CHARACTERS_OF_A_PROMPT, "x")}]
        for number in range(prompts)
    ]
    ids = [prompt_id("benchmark", one) for one in messages]
    rates = rng.choice([0.0, 0.05, 0.3, 0.6, 0.9, 1.0], prompts)
    metrics = MetricsFile(folder)
    history = ExplorationHistory(folder / "history")
    dump = RolloutDump(folder / ROLLOUTS_FOLDER, limit_bytes=2**40)
    for step in range(1, steps + 1):
        batch = rng.choice(prompts, prompts_per_step, replace=False)
        budgets = rng.integers(2, 15, prompts_per_step)
        successes = rng.binomial(budgets, rates[batch])
        chosen = [ids[number] for number in batch]
        epoch = (step - 1) * prompts_per_step // prompts
        rules = rng.choice(PLACING_RULES, prompts_per_step).tolist()
        history.append(step, epoch, chosen, rates[batch], budgets, successes, budgets * TOKENS_OF_A_ROLLOUT, rules)
        rows = rng.integers(0, prompts_per_step, kept)
        dump.append(
            step,
            epoch,
            {
                "prompt_id": [chosen[row] for row in rows],
                "prompt_class": ["mixed"] * kept,
                "estimate": rates[batch][rows],
                "budget": budgets[rows],
                "score": np.zeros(kept),
                "acc": np.zeros(kept),
                "pred": [str(number) for number in rng.integers(0, 9, kept)],
                "is_success": np.zeros(kept, dtype=bool),
                "advantage": np.zeros(kept),
                "response_tokens": np.full(kept, TOKENS_OF_A_ROLLOUT),
                "response": ["Let me see. "] * kept,
            },
        )
        metrics.log({f"metric/{number}": 0.5 for number in range(100)}, step=step)
    history.flush()
    dump.flush()
    data = {
        "data_source": ["benchmark"] * prompts,
        "prompt": messages,
        "reward_model": [{"ground_truth": "1"}] * prompts,
    }
    pq.write_table(pa.table(data), folder / "train.parquet")
    config = {"data": {"train_files": [str(folder / "train.parquet")]}, "exploration": {"n_low": 2}}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config))


class Viewer:
    """A viewer in a process of its own, and how much it has taken since its start."""

    def __init__(self, run: Path) -> None:
        self._started = time.perf_counter()
        command = [sys.executable, "-m", "recipe.knapsack.view", str(run), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[0].rstrip("/")

    def taken(self) -> np.ndarray:
        """Seconds by the clock and of processors."""
        used = psutil.Process(self.process.pid).cpu_times()
        return np.array([time.perf_counter() - self._started, used.user + used.system])

    def get(self, address: str) -> str:
        """The content of a page."""
        with urllib.request.urlopen(self.address + address, timeout=600) as response:
            return response.read().decode(errors="replace")


@contextmanager
def opened(run: Path) -> Iterator[Viewer]:
    """A viewer that is ended after the block."""
    viewer = Viewer(run)
    try:
        yield viewer
    finally:
        viewer.process.terminate()
        viewer.process.wait(timeout=60)


def measure(run: Path) -> Iterator[tuple[str, np.ndarray]]:
    """What was waited for, and the seconds by the clock and of processors that it took."""
    with opened(run) as viewer:
        while "Reading the history" in viewer.get("/prompts"):
            pass
        yield "first page with the table", viewer.taken()
        while "Reading the " in viewer.get("/"):
            time.sleep(1.0)  # what asking takes counts too
        yield "everything is read", viewer.taken()
        found = re.search(r"/prompt\?id=\w+", viewer.get("/prompts"))
        for name, address in {**PAGES, **({"one prompt": found[0]} if found else {})}.items():
            before = viewer.taken()
            viewer.get(address)
            yield name, viewer.taken() - before


def main(arguments: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="folder of a run (default: a made-up one)")
    parser.add_argument("--prompts", type=int, default=17_917, help="of the made-up run (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of the made-up run (default: %(default)s)")
    parser.add_argument("--prompts-per-step", type=int, default=256, help="of the made-up run (default: %(default)s)")
    parser.add_argument("--kept", type=int, default=64, help="rollouts kept of a step (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="benchmark-view-") as folder:
        if options.run is None:
            make_run(Path(folder), options.prompts, options.steps, options.prompts_per_step, options.kept)
        print(f"{'':26} {'clock':>9} {'processors':>11} {'of ' + format(BOUND, 'g') + ' s':>8}")
        for name, (clock, processors) in measure(options.run or Path(folder)):
            print(f"{name:26} {clock:7.2f} s {processors:9.2f} s {processors / BOUND:8.0%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
