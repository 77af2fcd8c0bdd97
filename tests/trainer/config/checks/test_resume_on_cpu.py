"""A resume that could not go on as the run would have is refused, or said, before anything is started."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf
from training_process import ROOT
from verl_rows import row

from verl.trainer.config.checks import Facts, find_config_errors
from verl.trainer.config.checks.resume import (
    check_resume_path,
    check_resumed_contents,
    check_resumed_data,
    check_resumed_model,
    check_resumed_workers,
    finished_run,
    kept_settings,
    resume_notices,
)

RUN, GPUS, LOAD = (
    "trainer.default_local_dir",
    "trainer.n_gpus_per_node",
    "actor_rollout_ref.actor.checkpoint.load_contents",
)
SAVE, TRAIN = "actor_rollout_ref.actor.checkpoint.save_contents", "data.train_files"
LR, BETAS = "actor_rollout_ref.actor.optim.lr", "actor_rollout_ref.actor.optim.betas"
RUNNABLE = {
    "data.val_files": "hdfs://validation",
    "actor_rollout_ref.model.path": "hdfs://model",
    "actor_rollout_ref.actor.strategy": "fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 4,
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 1,
    "actor_rollout_ref.rollout.n": 2,
    "actor_rollout_ref.rollout.name": "hf",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 1,
    "custom_reward_function.path": str(ROOT / "recipe/knapsack/tiny/tiny_task.py"),
}
CHECKS = (
    check_resume_path,
    check_resumed_contents,
    check_resumed_workers,
    check_resumed_model,
    check_resumed_data,
)


@pytest.fixture
def settings(tmp_path, write):
    """Settings of the run whose checkpoints `checkpoint` makes."""
    return {
        RUN: str(tmp_path / "run"),
        GPUS: 1,
        TRAIN: str(write([row(number) for number in range(20)])),
        "data.train_batch_size": 4,
        "data.dataloader_num_workers": 0,
    }


@pytest.fixture
def said_of(refusal, settings):
    def said(**further):
        return [text for text in (refusal(check, {**settings, **further}) for check in CHECKS) if text]

    return said


def test_a_run_without_checkpoints_and_a_whole_checkpoint_are_accepted(said_of, checkpoint):
    assert said_of() == []
    checkpoint()
    assert said_of() == []


# --- the checkpoint that is named -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (None, "needs trainer.resume_from_path"),
        ("nowhere/global_step_2", "does not exist"),
        ("run", "is not a checkpoint: expected a folder named global_step_N such as"),
        ("run/global_step_2/actor", "is not a checkpoint"),
        ("run/global_step_x", "is not a checkpoint"),
        ("run/global_step_3", "has no folder actor"),
    ],
)
def test_a_path_to_resume_from_that_is_no_checkpoint_is_refused(refusal, checkpoint, tmp_path, path, said):
    checkpoint()
    for name in ("global_step_3", "global_step_x"):
        (tmp_path / "run" / name).mkdir()
    settings = {
        "trainer.resume_mode": "resume_path",
        "trainer.resume_from_path": None if path is None else str(tmp_path / path),
    }
    assert said in refusal(check_resume_path, settings)


def test_a_checkpoint_that_is_named_is_judged_as_the_latest_is(said_of, checkpoint, tmp_path):
    folder = checkpoint(parts=("optim",))
    named = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": str(folder), RUN: str(tmp_path / "new")}
    (said,) = said_of(**named)
    assert "initial weights" in said
    assert said_of(**{**named, "trainer.resume_mode": "disable"}) == []


def test_a_path_that_is_not_resumed_from_is_said(config_with, settings):
    (notice,) = resume_notices(config_with({**settings, "trainer.resume_from_path": "elsewhere/global_step_2"}))
    assert "resume_from_path=elsewhere/global_step_2 has no effect with trainer.resume_mode=auto" in notice


def test_a_run_that_copies_to_hdfs_is_not_resumed(said_of, checkpoint):
    assert said_of(**{"trainer.default_hdfs_dir": "hdfs://copies"}) == []
    checkpoint()
    (said,) = said_of(**{"trainer.default_hdfs_dir": "hdfs://copies"})
    assert "trainer.default_hdfs_dir=hdfs://copies" in said and "Set it to null" in said


# --- what it holds ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_exported_weights_alone_is_refused(said_of, checkpoint):
    folder = checkpoint(parts=())
    (folder / "actor" / "huggingface" / "model.safetensors").touch()
    (said,) = said_of(**{SAVE: ["hf_model"]})
    assert "Cannot resume from step 2" in said and "initial weights" in said
    assert f"actor_rollout_ref.model.path={folder / 'actor' / 'huggingface'}" in said


@pytest.mark.parametrize("wanted", [["optimizer", "extra"], ["hf_model"], []])
def test_loading_no_weights_is_refused(said_of, checkpoint, wanted):
    checkpoint()
    (said,) = said_of(**{LOAD: wanted})
    assert "lacks model" in said and "Add model" in said


def test_loading_what_was_not_saved_is_refused(said_of, checkpoint):
    checkpoint(parts=("model",))
    (said,) = said_of()
    assert "cannot be loaded" in said and "Set load_contents=[model]" in said


def test_going_on_without_the_optimizer_is_said(config_with, said_of, settings, checkpoint):
    checkpoint(parts=("model",))
    assert said_of(**{SAVE: ["model"]}) == []
    (notice,) = resume_notices(config_with({**settings, SAVE: ["model"]}))
    assert "is resumed without optimizer and extra" in notice and "moments" in notice


def test_saving_what_cannot_be_resumed_is_said_when_the_run_starts(config_with, settings):
    saving = {**settings, "trainer.save_freq": 2}
    assert resume_notices(config_with(saving)) == []
    (notice,) = resume_notices(config_with({**saving, SAVE: ["hf_model"]}))
    assert "cannot be resumed from its checkpoints" in notice
    (notice,) = resume_notices(config_with({**saving, SAVE: ["model"]}))
    assert "cannot be resumed exactly" in notice


def test_the_critics_checkpoint_is_judged_too(said_of, checkpoint):
    checkpoint()
    (said,) = said_of(**{"algorithm.adv_estimator": "gae"})
    assert "critic" in said and "no state to resume from" in said


# --- workers, model, data ---------------------------------------------------------------------------------------------


def test_another_number_of_workers_is_refused_with_how_to_merge(said_of, checkpoint):
    checkpoint(workers=2)
    assert said_of(**{GPUS: 2}) == []
    for workers in (1, 4):
        (said,) = said_of(**{GPUS: workers})
        assert f"= {workers} workers cannot resume" in said and "use 2, or merge" in said
        assert "verl.model_merger merge --backend fsdp" in said


def test_another_fsdp_is_refused(said_of, checkpoint):
    folder = checkpoint()
    (folder / "actor" / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 1, "world_size": 1}))
    assert said_of(**{"actor_rollout_ref.actor.strategy": "fsdp"}) == []
    (said,) = said_of(**{"actor_rollout_ref.actor.strategy": "fsdp2"})
    assert "strategy=fsdp2" in said and "set it to fsdp." in said


def test_a_model_of_another_shape_is_refused(said_of, checkpoint, tmp_path):
    folder, model = checkpoint(), tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"hidden_size": 64, "vocab_size": 74}))
    (folder / "actor" / "huggingface" / "config.json").write_text(json.dumps({"hidden_size": 64, "vocab_size": 80}))
    (said,) = said_of(**{"actor_rollout_ref.model.path": str(model)})
    assert "vocab_size=74" in said and "80" in said


def test_adapters_are_not_loaded_into_a_model_without(said_of, checkpoint):
    folder = checkpoint()
    (said,) = said_of(**{"actor_rollout_ref.model.lora_rank": 8})
    assert "without LoRA" in said
    (folder / "actor" / "lora_adapter").mkdir()
    (said,) = said_of()
    assert "with LoRA" in said


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_another_number_of_loader_processes_is_refused(said_of, checkpoint, before, after):
    checkpoint(loader_workers=before)
    (said,) = said_of(**{"data.dataloader_num_workers": after})
    assert f"data.dataloader_num_workers={after}" in said and f"set it to {before}" in said
    assert said_of(**{"data.dataloader_num_workers": before}) == []


@pytest.mark.parametrize("before", [True, False])
def test_shuffling_otherwise_is_refused(said_of, checkpoint, before):
    checkpoint(shuffle=before)
    assert said_of(**{"data.shuffle": before}) == []
    (said,) = said_of(**{"data.shuffle": not before})
    assert f"data.shuffle={str(not before).lower()}" in said and f"set it to {str(before).lower()}" in said


def test_smaller_data_than_were_read_are_refused(said_of, checkpoint, write):
    checkpoint(batches=3)
    enough, few = (str(write([row(n) for n in range(count)], f"{count}.parquet")) for count in (12, 11))
    assert said_of(**{TRAIN: enough}) == []
    (said,) = said_of(**{TRAIN: few})
    assert "holds 11 prompts" in said and "after 12 of an epoch" in said


def test_a_damaged_or_foreign_loader_state_is_left_to_the_trainer(said_of, checkpoint):
    folder = checkpoint()
    (folder / "data.pt").write_bytes(b"damaged")
    assert said_of(**{"data.dataloader_num_workers": 4}) == []


# --- settings that a resume keeps -------------------------------------------------------------------------------------


@pytest.fixture
def earlier(config_with, settings, tmp_path):
    """Write the configuration with which the run was trained before."""

    def write_config(**further):
        (tmp_path / "run").mkdir(exist_ok=True)
        OmegaConf.save(config_with({**settings, **further}), tmp_path / "run" / "config.yaml")

    return write_config


def test_settings_that_the_optimizers_state_brings_back_are_named(config_with, settings, checkpoint, earlier):
    checkpoint()
    earlier(**{LR: 0.1, BETAS: [0.9, 0.99], "data.seed": 3})
    assert kept_settings(config_with({**settings, LR: 0.1, BETAS: [0.9, 0.99], "data.seed": 3})) == []
    kept = kept_settings(config_with({**settings, LR: 0.2, BETAS: [0.8, 0.99], "data.seed": 4}))
    assert [(setting.key, setting.asked, setting.in_force) for setting in kept] == [
        (LR, 0.2, 0.1),
        (BETAS, [0.8, 0.99], [0.9, 0.99]),
        ("data.seed", 4, 3),
    ]
    assert str(kept[0]).startswith(f"{LR}=0.2 has no effect on a resumed run: its checkpoint goes on with 0.1.")


def test_settings_take_effect_where_the_state_is_not_loaded(config_with, settings, checkpoint, earlier):
    checkpoint()
    earlier(**{LR: 0.1})
    changed = {**settings, LR: 0.2, BETAS: [0.5, 0.5]}
    assert [setting.key for setting in kept_settings(config_with({**changed, LOAD: ["model", "extra"]}))] == [LR]
    assert [setting.key for setting in kept_settings(config_with({**changed, LOAD: ["model", "optimizer"]}))] == [BETAS]
    assert kept_settings(config_with({**changed, LOAD: ["model"]})) == []
    assert kept_settings(config_with({**changed, "trainer.resume_mode": "disable"})) == []


def test_other_data_are_said(config_with, settings, checkpoint, earlier, write):
    checkpoint()
    earlier()
    assert resume_notices(config_with(settings)) == []
    more = str(write([row(number) for number in range(40)], "more.parquet"))
    (notice,) = resume_notices(config_with({**settings, TRAIN: more}))
    assert notice.startswith(f"data.train_files={more} differs from {settings[TRAIN]}")


def test_another_method_is_said(config_with, settings, checkpoint, earlier):
    checkpoint()
    earlier()
    notices = resume_notices(config_with({**settings, "exploration.preset": "recommended"}))
    assert [notice.partition(" ")[0] for notice in notices] == [
        "exploration.preset=recommended",
        "exploration.success_rate.estimator=beta",
        "algorithm.prompt_weight=sqrt",
    ]
    assert "was trained with previous_epoch" in notices[1]
    (notice,) = resume_notices(config_with({**settings, "exploration.value": "hard_leaning"}))
    assert "exploration.value=hard_leaning from here on" in notice and "was trained with null" in notice


def test_the_seed_of_the_data_is_one_where_none_was_set(config_with, settings, checkpoint, earlier):
    checkpoint()
    earlier()
    assert kept_settings(config_with({**settings, "data.seed": 1})) == []
    (setting,) = kept_settings(config_with({**settings, "data.seed": 2}))
    assert setting.in_force == 1


# --- finished runs ----------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_and_how_to_go_on(config_with, settings, checkpoint, tmp_path):
    assert finished_run(config_with({**settings, "trainer.total_training_steps": 10}), Facts()) is None
    checkpoint(step=10)
    for steps, is_finished in ((9, True), (10, True), (11, False)):
        line = finished_run(config_with({**settings, "trainer.total_training_steps": steps}), Facts())
        assert (line is not None) == is_finished
    line = finished_run(config_with({**settings, "trainer.total_training_steps": 10}), Facts())
    assert line.startswith(f"The run in {tmp_path / 'run'} is finished: step 10 of 10.") and "\n" not in line
    assert "raise trainer.total_training_steps (10)" in line and "another trainer.default_local_dir" in line


def test_a_run_is_finished_when_its_epochs_are(config_with, settings, checkpoint):
    """20 prompts, 4 a step: 5 steps an epoch."""
    checkpoint(step=10)
    assert "raise trainer.total_epochs (2)" in finished_run(
        config_with({**settings, "trainer.total_epochs": 2}), Facts()
    )
    assert finished_run(config_with({**settings, "trainer.total_epochs": 3}), Facts()) is None


def test_a_finished_run_is_not_judged_as_one_that_is_resumed(config_with, composed, settings, checkpoint):
    checkpoint(step=10, parts=())

    def errors(steps: int) -> list[str]:
        further = {"trainer.total_training_steps": steps, "trainer.device": "cpu", "data.shuffle": False}
        found = find_config_errors(config_with({**settings, **RUNNABLE, **further}), composed, Facts(trains_here=False))
        return list(map(str, found))

    assert errors(10) == []
    assert len(errors(11)) == 2


def test_a_finished_run_may_be_validated_or_started_anew(config_with, settings, checkpoint):
    checkpoint(step=10)
    over = {**settings, "trainer.total_training_steps": 10}
    assert finished_run(config_with({**over, "trainer.val_only": True}), Facts()) is None
    assert finished_run(config_with({**over, "trainer.resume_mode": "disable"}), Facts()) is None
