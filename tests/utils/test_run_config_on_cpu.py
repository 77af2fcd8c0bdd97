"""A run's configuration in force is config.yaml; what was in force before stays beside it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

import knapsack_rl
from verl.utils.run_config import save_run_config


@pytest.fixture
def save(tmp_path):
    """Save a configuration with this learning rate."""

    def save_config(lr: float, val_only: bool = False) -> None:
        config = OmegaConf.create({"lr": lr, "trainer": {"val_only": val_only}})
        OmegaConf.set_struct(config, True)  # as Hydra's are
        save_run_config(config, tmp_path / "run")

    return save_config


def rates(folder) -> dict[str, float]:
    return {file.name: OmegaConf.load(file).lr for file in folder.glob("*.yaml")}


def test_the_configuration_tells_which_knapsack_rl_made_the_run(save, tmp_path):
    save(1)
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").made_by.knapsack_rl == knapsack_rl.__version__


def checkpoint(folder, step: int) -> None:
    (folder / f"global_step_{step}" / "actor").mkdir(parents=True)
    (folder / f"global_step_{step}" / "complete").touch()


def test_an_earlier_configuration_is_kept_under_the_step_until_which_it_was_in_force(save, tmp_path):
    run = tmp_path / "run"
    save(1)
    checkpoint(run, 40)
    save(1)
    assert rates(run) == {"config.yaml": 1}
    save(2)
    assert rates(run) == {"config.yaml": 2, "config.until_step_40.yaml": 1}
    save(3)
    assert rates(run) == {"config.yaml": 3, "config.until_step_40.yaml": 1, "config.until_step_40.2.yaml": 2}
    checkpoint(run, 80)
    save(4)
    assert rates(run)["config.until_step_80.yaml"] == 3 and rates(run)["config.yaml"] == 4


def test_a_validation_leaves_what_tells_how_the_run_was_trained(save, tmp_path):
    save(1)
    save(2, val_only=True)
    assert rates(tmp_path / "run") == {"config.yaml": 1}


def test_a_validation_in_a_folder_of_its_own_has_a_configuration(save, tmp_path):
    save(2, val_only=True)
    assert rates(tmp_path / "run") == {"config.yaml": 2}
