"""What a run survives, and how it ends when it does not: killed in every phase of a step, a dead worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics
from verl.utils.checkpoint_state import whole_checkpoints

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

ROLLOUTS_PER_STEP = 64
HOOKS = Path(__file__).parent / "hold_in_phase.py"
WITH_HOOKS = (f"actor_rollout_ref.model.external_lib={HOOKS.stem}", f"custom_reward_function.path={HOOKS}")
STEPS, SAVE_EVERY = 13, 3

# Each attempt goes on from the last whole checkpoint: (phase, call of it in this process, step that it belongs to).
ATTEMPTS = (
    ("rollout", 5, 5),
    ("reward", 3 * ROLLOUTS_PER_STEP + 20, 7),
    ("update", 3, 9),
    ("saving", 2, 12),
)


@pytest.fixture(autouse=True)
def external_libs_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOOKS.parent))


def history_of(run_folder: Path) -> pd.DataFrame:
    return read_history(run_folder / "history").to_pandas().reset_index(drop=True)


def decisions_of(run_folder: Path) -> list[dict[str, Any]]:
    """All metrics but those that measure time or memory."""
    measured = ("timing", "perf/", "dispatch/time_imbalance")
    return [
        {key: value for key, value in step.items() if not key.startswith(measured)} for step in read_metrics(run_folder)
    ]


def last_step(run_folder: Path) -> int:
    return read_metrics(run_folder)[-1]["step"] if (run_folder / "metrics.jsonl").exists() else 0


def test_a_run_killed_in_every_phase_of_a_step_continues_as_if_nothing_had_happened(
    train, start_training, few_prompts, tmp_path, monkeypatch
):
    settings = (
        f"trainer.total_training_steps={STEPS}",
        f"trainer.save_freq={SAVE_EVERY}",
        "trainer.max_actor_ckpt_to_keep=1",
        *WITH_HOOKS,
        few_prompts,
    )
    whole = train(tmp_path / "whole", *settings).run_folder

    for phase, call, step in ATTEMPTS:
        marker = tmp_path / phase
        monkeypatch.setenv("HOLD", f"{phase}:{call}")
        monkeypatch.setenv("HOLD_MARKER", str(marker))
        run = start_training(tmp_path / "killed", *settings)
        run.wait_until(marker.exists, f"phase {phase} of step {step}")
        run.kill()
        assert last_step(run.run_folder) == step - 1, f"held in phase {phase} of another step than {step}"
    half_saved = tmp_path / "killed" / "global_step_12"
    assert (half_saved / "actor").is_dir() and not (half_saved / "complete").exists()
    assert [folder.name for folder in whole_checkpoints(tmp_path / "killed")] == ["global_step_9"]

    monkeypatch.delenv("HOLD")
    resumed = train(tmp_path / "killed", *settings).run_folder
    pd.testing.assert_frame_equal(history_of(whole), history_of(resumed), check_exact=True)
    status = [(folder / f"global_step_{STEPS}" / "task_status.npz").read_bytes() for folder in (whole, resumed)]
    assert status[0] == status[1]
    assert decisions_of(whole) == decisions_of(resumed)
    assert [folder.name for folder in whole_checkpoints(resumed)] == [f"global_step_{STEPS}"]


def test_a_dead_worker_ends_the_run_within_a_minute_naming_the_cause(start_training, few_prompts, workers, tmp_path):
    run = start_training(
        tmp_path / "run",
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=2000",
        "actor_rollout_ref.model.external_lib=report_worker",
        few_prompts,
    )
    run.wait_until(lambda: last_step(run.run_folder) >= 2, "step 2")
    # Not the first: that one lives on, waiting for the dead one in a collective operation.
    killed = workers()[1]["pid"]
    os.kill(killed, signal.SIGKILL)
    killed_at = time.monotonic()
    assert run.finish() != 0
    assert time.monotonic() - killed_at < 60
    assert "ActorDiedError" in run.log and f"pid: {killed}" in run.log and "worker process has died" in run.log
    assert history_of(run.run_folder)["step"].max() >= 2
