"""Folders that cannot be written to, runs that are going on in them, and loggers that could not log are refused."""

from __future__ import annotations

import os

import pytest

from verl.trainer.config.checks import Facts
from verl.trainer.config.checks.run_folder import (
    check_folders,
    check_loggers,
    check_not_in_use,
    is_logged_in_to_wandb,
)
from verl.utils.run_lock import hold_run_folder

LOGGER = "trainer.logger"
FOLDERS = ("trainer.default_local_dir", "trainer.rollout_data_dir", "trainer.validation_data_dir")


@pytest.mark.parametrize("key", FOLDERS)
def test_a_folder_below_a_file_is_refused(refusal, tmp_path, key):
    (tmp_path / "file").touch()
    for path in ("file", "file/run", "file/a/b"):
        said = refusal(check_folders, {"trainer.default_local_dir": str(tmp_path), key: str(tmp_path / path)})
        assert f"{key}={tmp_path / path} cannot be made" in said and str(tmp_path / "file") in said
    assert refusal(check_folders, {key: str(tmp_path / "file/run")}, Facts(trains_here=False)) == ""


def test_a_folder_that_may_not_be_written_to_is_refused(refusal, tmp_path, monkeypatch):
    # The superuser may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    for path in (tmp_path, tmp_path / "a" / "run"):
        assert "is not writable" in refusal(check_folders, {"trainer.default_local_dir": str(path)})


def test_folders_that_can_be_made_are_accepted_and_not_made(refusal, tmp_path):
    assert refusal(check_folders, {key: str(tmp_path / "a" / "b") for key in FOLDERS}) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_which_a_run_is_going_on_is_refused(refusal, tmp_path):
    settings = {"trainer.default_local_dir": str(tmp_path / "run")}
    assert refusal(check_not_in_use, settings) == "" and not (tmp_path / "run").exists()
    with hold_run_folder(tmp_path / "run"):
        said = refusal(check_not_in_use, settings)
        assert f"is in use by another run (process {os.getpid()} on " in said and "another trainer.default" in said
        assert refusal(check_not_in_use, settings, Facts(trains_here=False)) == ""
    assert refusal(check_not_in_use, settings) == ""


@pytest.mark.parametrize("loggers", [["consol"], "wanb", ["console", "wandb2"], [None]])
def test_an_unknown_logger_is_refused_with_those_that_are_known(refusal, loggers):
    assert "expected a list of wandb, mlflow, swanlab" in refusal(check_loggers, {LOGGER: loggers})


@pytest.mark.parametrize("logger", ["mlflow", "swanlab", "clearml", "tensorboard", "trackio", "wandb", "vemlp_wandb"])
def test_a_logger_whose_package_is_not_installed_is_refused(refusal, logger):
    assert f"{LOGGER}={logger} needs the package" in refusal(check_loggers, {LOGGER: ["console", logger]})
    assert refusal(check_loggers, {LOGGER: [logger]}, Facts(trains_here=False)) == ""


def test_wandb_without_a_login_is_refused(refusal, tmp_path):
    def with_environment(**environment):
        return Facts(packages=frozenset({"wandb"}), environment={"HOME": str(tmp_path), **environment})

    assert "wandb has no login: set WANDB_API_KEY" in refusal(check_loggers, {LOGGER: ["wandb"]}, with_environment())
    for accepted in ({"WANDB_API_KEY": "key"}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}):
        assert refusal(check_loggers, {LOGGER: ["wandb"]}, with_environment(**accepted)) == ""
    assert refusal(check_loggers, {LOGGER: ["console"]}, with_environment()) == ""
    assert refusal(check_loggers, {LOGGER: []}, with_environment()) == ""


def test_a_login_may_be_in_the_file_that_netrc_names(tmp_path):
    file = tmp_path / "logins"
    file.write_text("machine api.wandb.ai login user password secret\n")
    assert is_logged_in_to_wandb({"HOME": str(tmp_path), "NETRC": str(file)})
    assert not is_logged_in_to_wandb({"HOME": str(tmp_path)})
