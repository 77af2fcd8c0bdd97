"""What the runs of ``examples/knapsack_trainer/check_gpu.sh`` tell about a machine, as verdicts and a report.

python -m recipe.knapsack.gpu_check gpus              # how many GPUs there are (1 where there is none)
python -m recipe.knapsack.gpu_check report FOLDER     # print the verdicts, write FOLDER/report.md
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics

RUNS = {"one_gpu": 8, "all_gpus": 8, "async": 4}
TOTAL_BUDGET = 128 * 8
# Of probabilities, in bf16. Float32 gives 1e-6; weights that are one step old give 0.05 and more.
LARGEST_MEAN_DIFFERENCE = 0.02
PACKAGES = ("torch", "vllm", "verl", "transformers", "ray", "tensordict", "flash-attn", "numpy", "peft")
PHASES = ("gen", "reshard", "reward", "old_log_prob", "update_actor", "testing", "save_checkpoint", "step")


@dataclass(frozen=True)
class Verdict:
    """One check: what was measured, what was expected, and whether that holds."""

    name: str
    measured: str
    expected: str
    holds: bool

    def __str__(self) -> str:
        return f"{'ok    ' if self.holds else 'FAILED'} {self.name}: {self.measured} (expected {self.expected})"


def exit_verdict(folder: Path) -> Verdict:
    """Whether the run's process ended well."""
    status = (folder / "exit_status").read_text().strip()
    return Verdict("the run ends", f"exit status {status}", "0", status == "0")


def step_verdicts(steps: Sequence[Mapping[str, Any]], number: int) -> list[Verdict]:
    """Check the metrics of a run's training steps.

    Args:
        steps: the metrics of every training step, in order.
        number: how many there should be.
    """
    numbers = [step["training/global_step"] for step in steps]
    verdicts = [Verdict("steps", str(numbers), f"1 to {number}, each once", numbers == list(range(1, number + 1)))]
    differences = [step.get("training/rollout_probs_diff_mean") for step in steps]
    known = [difference for difference in differences if difference is not None]
    largest = max(known) if known else float("nan")
    agrees = len(known) == len(steps) > 0 and largest < LARGEST_MEAN_DIFFERENCE
    verdicts.append(
        Verdict("engine against actor, mean difference", f"{largest:.2g}", f"below {LARGEST_MEAN_DIFFERENCE}", agrees)
    )
    norms = [step["actor/grad_norm"] for step in steps]
    finite = bool(norms) and all(norm is not None and 0 < norm < 1e3 for norm in norms)
    span = f"{min(norms):.2g} to {max(norms):.2g}" if finite else str(norms)
    verdicts.append(Verdict("gradient norms", span, "finite, above 0", finite))
    rollouts = [step["training/cumulative_rollouts"] for step in steps]
    expected = [TOTAL_BUDGET * step for step in range(1, number + 1)]
    verdicts.append(Verdict("rollouts so far", str(rollouts[-1:]), str(expected[-1:]), rollouts == expected))
    return verdicts


def budget_verdicts(steps: Sequence[int], budgets: Sequence[int]) -> list[Verdict]:
    """Check the budgets that the prompts of each step had: their sums, and that the knapsack makes them uneven.

    Args:
        steps: (B,) the step of each record.
        budgets: (B,) the rollouts of its prompt.
    """
    sums: dict[int, int] = {}
    for step, budget in zip(steps, budgets, strict=True):
        sums[step] = sums.get(step, 0) + budget
    distinct = sorted(set(sums.values()))
    last = {budget for step, budget in zip(steps, budgets, strict=True) if step == max(steps)}
    return [
        Verdict("budgets of a step sum to", str(distinct), str([TOTAL_BUDGET]), distinct == [TOTAL_BUDGET]),
        Verdict("budgets of the last step", f"{min(last)} to {max(last)}", "uneven", len(last) > 1),
    ]


def run_verdicts(folder: Path, number: int) -> list[Verdict]:
    """Check the run in ``folder``, of ``number`` steps."""
    verdicts = [exit_verdict(folder)]
    if not (folder / "metrics.jsonl").exists():
        return [*verdicts, Verdict("steps", "none", f"1 to {number}", False)]
    verdicts += step_verdicts(training_steps(folder), number)
    if not (folder / "history").is_dir():
        return [*verdicts, Verdict("budgets", "no history", f"of {number} steps", False)]
    history = read_history(folder / "history").to_pydict()
    return verdicts + (budget_verdicts(history["step"], history["budget"]) if history["step"] else [])


def training_steps(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of the run's training steps, without those of validations before training."""
    return [record for record in read_metrics(folder) if "training/global_step" in record]


def phase_table(folder: Path) -> list[str]:
    """Return the seconds of each phase as lines of a table: the first step, and the median of the later ones."""
    steps = training_steps(folder) if (folder / "metrics.jsonl").exists() else []
    lines = ["| phase | first step, s | later steps, median s |", "|---|---|---|"]
    for phase in PHASES:
        seconds = [step[f"timing_s/{phase}"] for step in steps if f"timing_s/{phase}" in step]
        if seconds:
            lines.append(f"| {phase} | {seconds[0]:.2f} | {median(seconds[1:] or seconds):.2f} |")
    memory = [step["perf/max_memory_allocated_gb"] for step in steps if "perf/max_memory_allocated_gb" in step]
    return lines + ([f"| most memory allocated, GB | {memory[0]:.2f} | {max(memory):.2f} |"] if memory else [])


def environment_lines() -> list[str]:
    """Return what this machine and its packages are, a line each."""
    import torch

    lines = [f"Python {platform.python_version()}, {platform.platform()}, CUDA of torch {torch.version.cuda}"]
    lines += [f"{package} {_installed(package)}" for package in PACKAGES]
    lines += [_first_lines("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")]
    # flash-attn is compiled where no wheel of it can be had; torch 2.8.0 takes a compiler of CUDA 12 only.
    return [*lines, _first_lines("nvcc", "--version")]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def _first_lines(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{command[0]}: " + "; ".join((output.stdout or output.stderr).strip().splitlines()[:8])


def write_report(folder: Path) -> list[Verdict]:
    """Write ``report.md`` on the runs that are in ``folder``, and return all verdicts.

    Raises:
        FileNotFoundError: there is none.
    """
    runs = {name: number for name, number in RUNS.items() if (folder / name / "exit_status").exists()}
    if not runs:
        raise FileNotFoundError(f"{folder} holds no run of check_gpu.sh: expected {', '.join(RUNS)}")
    text = ["# check_gpu.sh", "", *(f"- {line}" for line in environment_lines())]
    verdicts = []
    for name, number in runs.items():
        found = run_verdicts(folder / name, number)
        verdicts += found
        text += ["", f"## {name}", "", *(f"    {verdict}" for verdict in found), "", *phase_table(folder / name)]
    (folder / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    return verdicts


def count_gpus() -> int:
    """Return the number of GPUs of this machine, and 1 where there is none: the runs then have one CPU worker."""
    import torch

    return max(1, torch.cuda.device_count())


def _lines(verdicts: Iterable[Verdict], folder: Path) -> str:
    failed = [verdict for verdict in verdicts if not verdict.holds]
    return (
        f"{len(failed)} checks failed" if failed else "all checks passed"
    ) + f"; the report to send back is {folder / 'report.md'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("gpus", help="print the number of GPUs")
    commands.add_parser("report", help="print verdicts and write report.md").add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "gpus":
        print(count_gpus())
        return 0
    try:
        verdicts = write_report(options.folder)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((options.folder / "report.md").read_text(encoding="utf-8"))
    print(_lines(verdicts, options.folder))
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
