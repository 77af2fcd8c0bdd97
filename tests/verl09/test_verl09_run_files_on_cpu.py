"""What a run on verl 0.9 keeps in its folder comes back."""

from __future__ import annotations

import os

import numpy as np

from knapsack_rl import ExplorationConfig, Explorer, Outcomes
from knapsack_rl.config import SuccessRateConfig
from knapsack_verl09.groups import Groups
from knapsack_verl09.run_files import RunFiles
from knapsack_verl09.wandb_run import name_wandb_run


def observed(explorer: Explorer) -> Explorer:
    plan = explorer.plan(["a", "b"], epoch=0, step=1)
    is_success = np.arange(len(plan.order)) % 3 == 0
    explorer.observe(plan, Outcomes(plan.order, is_success * 1.0, is_success, is_success, np.full(len(is_success), 7)))
    return explorer


def test_a_checkpoint_gives_the_status_back_under_the_options_of_the_run(tmp_path):
    options = ExplorationConfig(success_rate=SuccessRateConfig(estimator="beta", prior="prior.csv", prior_weight=2.0))
    explorer = observed(Explorer(options))
    files = RunFiles(tmp_path, options)
    files.save(1, explorer.task_status, {"epoch": 0})
    status, state = files.load(tmp_path / "global_step_1")
    assert state == {"epoch": 0} and status.estimator == "beta" and status.prior_weight == 2.0
    expected = explorer.task_status.success_rates(["a", "b"], epoch=1)
    assert status.success_rates(["a", "b"], epoch=1).tolist() == expected.tolist()


def test_what_was_learned_replaces_no_prior(tmp_path):
    config = ExplorationConfig(success_rate=SuccessRateConfig(estimator="beta"))
    saved = observed(Explorer(config)).state_dict()
    resumed = Explorer(config, prior={"unseen": 0.875})
    resumed.load_state_dict(saved)
    assert resumed.task_status.success_rates(["unseen"], epoch=1)[0] > 0.7


def test_groups_keep_the_lengths_that_were_expected(tmp_path):
    explorer = observed(Explorer(ExplorationConfig()))
    groups = Groups(explorer, 0.0)
    groups.add(explorer.plan(["a", "unseen"], epoch=1, step=2), ["u1", "u2"])
    again = Groups(explorer, 0.0)
    again.load_state_dict(groups.state_dict())
    assert [group["expected_length"] for group in again.state_dict().values()] == [7.0, 7.0]


def test_a_training_keeps_its_wandb_run_until_it_starts_anew(tmp_path, monkeypatch):
    def named(continues: bool) -> tuple[str, str | None]:
        for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
            monkeypatch.setenv(name, "")  # so that it is put back at the end of the test
            monkeypatch.delenv(name)
        name_wandb_run(tmp_path / "run", continues)
        return os.environ["WANDB_RUN_ID"], os.environ.get("WANDB_RESUME")

    first = named(continues=False)
    assert first[1] is None and named(continues=True) == (first[0], "allow")
    assert named(continues=False)[0] != first[0]


def test_a_wandb_run_that_the_user_names_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    name_wandb_run(tmp_path, continues=True)
    assert os.environ["WANDB_RUN_ID"] == "mine" and not list(tmp_path.iterdir())
