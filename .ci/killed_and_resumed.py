"""Knapsack-GRPO on the tiny task for 24 steps, killed with SIGKILL on the way and resumed; checks what came out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from knapsack_rl.history import read_history  # noqa: E402
from knapsack_rl.metrics_file import read_metrics  # noqa: E402
from recipe.knapsack.processes.child_processes import ended_by_sigterm  # noqa: E402

RUNS = ROOT / "runs" / "ci"
RUN = RUNS / "knapsack"
STEPS, KILLED_AFTER, M, TOTAL_BUDGET, STEPS_PER_EPOCH = 24, 13, 128, 1024, 8
ACCURACY = "val-core/knapsack_tiny_task/acc/mean@4"
TIME_LIMIT_SECONDS = 600


def start() -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "WARM_START": str(RUNS / "warm_start"),
        "RUN_FOLDER": str(RUN),
    }
    script = ROOT / "examples" / "knapsack_trainer" / "run_tiny_cpu.sh"
    overrides = (f"trainer.total_training_steps={STEPS}", "trainer.save_freq=10", "trainer.test_freq=24")
    return subprocess.Popen(["bash", script, *overrides], env=environment, start_new_session=True)


def kill(process: subprocess.Popen) -> None:
    """End a run with all its Ray processes, as far as any are left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def last_step() -> int:
    metrics = read_metrics(RUN) if (RUN / "metrics.jsonl").exists() else []
    return metrics[-1]["step"] if metrics else 0


def main() -> None:
    shutil.rmtree(RUN, ignore_errors=True)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    process = start()
    try:
        while last_step() < KILLED_AFTER:
            assert process.poll() is None, f"the run ended with status {process.returncode} at step {last_step()}"
            assert time.monotonic() < deadline, f"only {last_step()} steps in {TIME_LIMIT_SECONDS} s"
            time.sleep(0.1)
    finally:
        kill(process)
    print(f"killed after step {last_step()}; resuming", flush=True)
    resumed = start()
    try:
        assert resumed.wait(timeout=TIME_LIMIT_SECONDS) == 0, "the resumed run failed"
    finally:
        kill(resumed)
    check()


def check() -> None:
    history = read_history(RUN / "history").to_pandas()
    by_step = history.groupby("step")["budget"]
    assert by_step.sum().tolist() == [TOTAL_BUDGET] * STEPS, "every step spends exactly the total budget"
    assert by_step.count().tolist() == [M] * STEPS, "every step explores every prompt of its batch"
    assert history["budget"].between(2, 128).all(), "every budget lies within the bounds"
    metrics: dict[int, dict] = {}
    for record in read_metrics(RUN):
        # A resumed run validates first and logs that at the step it resumes from.
        metrics.setdefault(record["step"], {}).update(record)
    assert sorted(metrics) == list(range(STEPS + 1)), "every step is logged"
    steps = range(1, STEPS + 1)
    ratio = [metrics[step]["training/effective_gradient_ratio"] for step in steps]
    first_epoch, last_epoch = ratio[:STEPS_PER_EPOCH], ratio[-STEPS_PER_EPOCH:]
    homogeneous, knapsack = sum(first_epoch) / STEPS_PER_EPOCH, sum(last_epoch) / STEPS_PER_EPOCH
    assert knapsack > homogeneous, (
        f"effective-gradient ratio {knapsack:.3f} is not above the first epoch's {homogeneous:.3f}"
    )
    before, after = metrics[0][ACCURACY], metrics[STEPS][ACCURACY]
    assert after > before, f"held-out accuracy {after:.3f} is not above the warm start's {before:.3f}"
    print(f"effective-gradient ratio {homogeneous:.3f} (first epoch, 8 each) -> {knapsack:.3f} (last epoch, knapsack)")
    print(f"held-out accuracy {before:.3f} (warm start) -> {after:.3f}")


if __name__ == "__main__":
    with ended_by_sigterm():
        main()
