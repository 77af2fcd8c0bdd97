"""The command line: refusals in one line before Ray starts, the runtime environment, a resumable sampler."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import hydra
import pytest
from torch.utils.data import SequentialSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from warm_commands import run_warm

import knapsack_rl
import verl
from verl.trainer.main_ppo import _runtime_env, create_rl_sampler, keep_settings_of_resumed_run
from verl.utils.run_lock import hold_run_folder


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("exploration.n_upp=64", "error: exploration.n_upp is not a known key: did you mean exploration.n_up?"),
        ("exploration.n_low=many", "error: exploration.n_low='many' is not accepted: expected a number (default 2)."),
        ("data.train_files=missing.parquet", "error: data.train_files=missing.parquet does not exist"),
        ("actor_rollout_ref.model.path=/no/model", "error: actor_rollout_ref.model.path=/no/model does not exist"),
        (
            "exploration.total_budget=10",
            "error: exploration.total_budget=10 is infeasible for 16 prompts a step with exploration.n_low=2 and "
            "exploration.n_up=16: expected 32 to 256.\n",
        ),
        ("data.train_files=a=b.parquet", "error: data.train_files=a=b.parquet cannot be parsed: quote the value"),
        ("trainer.device=cuda", "error: trainer.device='cuda' needs a GPU and this machine has none"),
    ],
)
def test_bad_input_ends_in_one_line_before_ray_starts(tiny_overrides, repository, tmp_path, override, said):
    # Ray would have to put its session's files here; a GPU that is here does not count, nor does somebody's cluster.
    environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "ray"), "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": ""}
    command = ["-m", "verl.trainer.main_ppo", *tiny_overrides(tmp_path / "run"), override]
    process = run_warm(command, cwd=repository, env=environment)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith(said) and process.stderr.count("\n") == 1
    assert not (tmp_path / "ray").exists() and not (tmp_path / "run").exists()


@pytest.fixture
def start(tiny_overrides, repository, tmp_path):
    """Run the command line in the run's folder."""

    def run(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "verl.trainer.main_ppo", *tiny_overrides(tmp_path / "run"), *overrides]
        environment = {**os.environ, "RAY_TMPDIR": str(tmp_path / "ray"), "RAY_ADDRESS": ""}
        return run_warm(command, cwd=repository, env=environment)

    return run


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_finished_run_says_so_and_leaves_its_folder_as_it_is(start, tmp_path):
    run = tmp_path / "run"
    (run / "global_step_5" / "actor").mkdir(parents=True)
    (run / "global_step_5" / "complete").touch()
    for part in ("model", "optim", "extra_state"):
        (run / "global_step_5" / "actor" / f"{part}_world_size_1_rank_0.pt").touch()
    (run / "config.yaml").write_text("actor_rollout_ref: {actor: {optim: {lr: 0.5}}}\n")
    before = contents_of(run)
    process = start("trainer.total_training_steps=5", "actor_rollout_ref.actor.optim.lr=1")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"The run in {run} is finished: step 5 of 5.") and process.stdout.count("\n") == 1
    assert contents_of(run) == before and not (tmp_path / "ray").exists()


def test_a_second_run_in_a_folder_is_refused_before_anything_is_written(start, tmp_path):
    with hold_run_folder(tmp_path / "run"):
        before = contents_of(tmp_path / "run")
        process = start()
        assert contents_of(tmp_path / "run") == before
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert f"in use by another run (process {os.getpid()} on" in process.stderr and not (tmp_path / "ray").exists()


def test_a_resumed_run_is_configured_with_what_it_keeps(tmp_path):
    run = tmp_path / "run"
    (run / "global_step_5" / "actor").mkdir(parents=True)
    (run / "global_step_5" / "complete").touch()
    (run / "global_step_5" / "actor" / "extra_state_world_size_1_rank_0.pt").touch()
    (run / "config.yaml").write_text("actor_rollout_ref: {actor: {optim: {lr: 0.5}}}\n")
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("knapsack_trainer", overrides=[f"trainer.default_local_dir={run}"])
    (notice,) = keep_settings_of_resumed_run(config)
    assert "optim.lr=1e-06 has no effect" in notice and config.actor_rollout_ref.actor.optim.lr == 0.5
    assert keep_settings_of_resumed_run(config) == []


def test_workers_of_a_local_cluster_find_the_overlay_first(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/elsewhere", str(verl.OVERLAY_FOLDER.parent)]))
    paths = _runtime_env(joins_cluster=False)["env_vars"]["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(verl.OVERLAY_FOLDER.parent), "/elsewhere"]


def test_both_packages_travel_to_a_cluster_that_may_not_have_them():
    modules = _runtime_env(joins_cluster=True)["py_modules"]
    assert [Path(module) for module in modules] == [verl.OVERLAY_FOLDER, Path(knapsack_rl.__file__).parent]


def test_settings_of_the_user_win_over_ours(monkeypatch):
    monkeypatch.setenv("VERL_LOGGING_LEVEL", "DEBUG")
    assert "VERL_LOGGING_LEVEL" not in _runtime_env(joins_cluster=False)["env_vars"]


def data_config(**settings):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(
            "knapsack_trainer", overrides=[f"data.{key}={value}" for key, value in settings.items()]
        ).data


def batches_of(loader: StatefulDataLoader, epochs: int) -> list[list[int]]:
    return [batch.tolist() for _ in range(epochs) for batch in loader]


@pytest.mark.parametrize("batches_before", [1, 4, 6, 8])
def test_the_random_order_survives_a_resume_in_any_epoch(batches_before):
    def make_loader() -> StatefulDataLoader:
        dataset = list(range(20))
        return StatefulDataLoader(dataset, batch_size=5, sampler=create_rl_sampler(data_config(), dataset))

    whole = batches_of(make_loader(), epochs=3)
    interrupted, seen = make_loader(), 0
    while seen < batches_before:
        for _ in interrupted:
            seen += 1
            if seen == batches_before:
                break
    resumed = make_loader()
    resumed.load_state_dict(interrupted.state_dict())
    assert batches_of(resumed, epochs=3)[: 12 - batches_before] == whole[batches_before:]


def test_without_shuffling_the_order_is_the_files():
    assert type(create_rl_sampler(data_config(shuffle="false"), list(range(4)))) is SequentialSampler
