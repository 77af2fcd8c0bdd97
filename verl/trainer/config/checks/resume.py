"""Start-up checks of a resume: what the checkpoint holds, and which settings it cannot be resumed with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from knapsack_rl.config import ConfigError
from knapsack_rl.run_folder import CONFIG_FILE
from verl.trainer.config.checks.checkpoints import (
    checkpoint_to_resume,
    is_checkpoint_name,
    loader_state,
    read_json_if_there,
    saved_by_workers,
    saved_parts,
    step_of,
)
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.files import count_rows
from verl.trainer.config.checks.reading import prompts_per_batch, refuse_home_sign, uses_critic, world_size

_OF_THE_METHOD = (
    "exploration.allocator",
    "exploration.preset",
    "exploration.value",
    "exploration.success_rate.estimator",
    "algorithm.prompt_weight",
)
_NEW_RUN = "start a new run with trainer.resume_mode=disable in another trainer.default_local_dir"
# What verl shuffles by if data.seed is not there.
_DEFAULT_DATA_SEED = 1
# Keys of a model's config.json without which weights do not fit.
_SHAPE_KEYS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


@dataclass(frozen=True)
class KeptSetting:
    """A setting that a resumed run keeps from its checkpoint, whatever is asked for."""

    key: str
    asked: Any
    in_force: Any

    def __str__(self) -> str:
        return (
            f"{self.key}={self.asked} has no effect on a resumed run: its checkpoint goes on with {self.in_force}. To "
            f"change it, {_NEW_RUN}."
        )


def check_resume_path(config: DictConfig, facts: Facts) -> None:
    """Refuse a checkpoint to resume from that is none."""
    trainer = config.trainer
    if trainer.default_hdfs_dir is not None and checkpoint_to_resume(config) is not None:
        raise ConfigError(
            f"trainer.default_hdfs_dir={trainer.default_hdfs_dir} is not accepted where a run is resumed: verl 0.5.0 "
            f"refuses to load then. Set it to null, or {_NEW_RUN}."
        )
    if trainer.resume_mode != "resume_path":
        return
    path = trainer.resume_from_path
    if path is None:
        raise ConfigError(
            "trainer.resume_mode=resume_path needs trainer.resume_from_path: give a global_step_N folder."
        )
    refuse_home_sign("trainer.resume_from_path", str(path))
    folder = Path(str(path))
    is_missing = not folder.is_dir()
    if is_missing and facts.trains_here:
        raise ConfigError(f"trainer.resume_from_path={path} does not exist: give a global_step_N folder.")
    if not is_checkpoint_name(folder.name):
        raise ConfigError(
            f"trainer.resume_from_path={path} is not a checkpoint: expected a folder named global_step_N"
            f"{_checkpoints_in(folder)}."
        )
    if not is_missing and not (folder / "actor").is_dir():
        raise ConfigError(
            f"trainer.resume_from_path={path} has no folder actor: its weights were removed or never saved. Give "
            f"another global_step_N folder{_checkpoints_in(folder.parent)}."
        )


def _checkpoints_in(folder: Path) -> str:
    checkpoints = [actor.parent for actor in folder.glob("*/actor") if is_checkpoint_name(actor.parent.name)]
    return f" such as {max(checkpoints, key=step_of)}" if checkpoints else ""


def _parts_of_model(config: DictConfig, checkpoint: Path) -> Iterator[tuple[str, Path, DictConfig]]:
    """Yield section, folder and checkpoint settings of each model that is resumed by FSDP."""
    actor = config.actor_rollout_ref.actor
    if actor.strategy != "megatron":
        yield "actor_rollout_ref.actor", checkpoint / "actor", actor.checkpoint
    if uses_critic(config) and config.critic.strategy != "megatron":
        yield "critic", checkpoint / "critic", config.critic.checkpoint


def check_resumed_contents(config: DictConfig, facts: Facts) -> None:
    """Refuse to resume without weights, and from a checkpoint that lacks what is to be loaded."""
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is None:
        return
    for section, folder, contents in _parts_of_model(config, checkpoint):
        saved, wanted = saved_parts(folder), list(contents.load_contents)
        missing = [part for part in ("model", "optimizer", "extra") if part in wanted and part not in saved]
        key = f"{section}.checkpoint.load_contents=[{','.join(wanted)}]"
        holds = f"{folder} holds {', '.join(sorted(saved)) or 'no state to resume from'}"
        if "model" not in saved or "model" not in wanted:
            fault = holds if "model" not in saved else f"{key} lacks model"
            raise ConfigError(
                f"Cannot resume from step {step_of(checkpoint)}: {fault}, and the run would go on with the initial "
                f"weights. {_how_to_use(folder)}"
            )
        if missing:
            raise ConfigError(
                f"{key} cannot be loaded: {holds}. Set "
                f"load_contents=[{','.join(part for part in wanted if part in saved)}]"
                f" to resume with a new {' and '.join(missing)}, or {_NEW_RUN}."
            )


def _how_to_use(folder: Path) -> str:
    exported = folder / "huggingface"
    if any(exported.glob("*.safetensors")) or any(exported.glob("*.bin")):
        return f"To train on from its weights, {_NEW_RUN}, and actor_rollout_ref.model.path={exported}."
    if saved_parts(folder):
        return "Add model to load_contents."
    return f"Save model, optimizer and extra (checkpoint.save_contents), and {_NEW_RUN}."


def check_resumed_workers(config: DictConfig, facts: Facts) -> None:
    """Refuse another number of workers, or another FSDP, than wrote the checkpoint."""
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is None:
        return
    for section, folder, _ in _parts_of_model(config, checkpoint):
        workers = saved_by_workers(folder)
        if workers is not None and workers != world_size(config):
            raise ConfigError(
                f"trainer.nnodes * trainer.n_gpus_per_node = {world_size(config)} workers cannot resume {folder}, "
                "which "
                f"{workers} workers wrote: use {workers}, or merge its weights (python -m verl.model_merger merge "
                f"--backend fsdp --local_dir {folder} --target_dir MODEL) and {_NEW_RUN}, and "
                "actor_rollout_ref.model.path=MODEL (with a new optimizer)."
            )
        strategy = OmegaConf.select(config, f"{section}.strategy")
        version = read_json_if_there(folder / "fsdp_config.json").get("FSDP_version")
        if version is not None and strategy != ("fsdp2" if version == 2 else "fsdp"):
            raise ConfigError(
                f"{section}.strategy={strategy} cannot resume {folder}, which FSDP {version} wrote: set it to "
                f"{'fsdp2' if version == 2 else 'fsdp'}."
            )


def check_resumed_model(config: DictConfig, facts: Facts) -> None:
    """Refuse to load a checkpoint into a model of another shape, or with adapters into one without."""
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is None or config.actor_rollout_ref.actor.strategy == "megatron":
        return
    model, actor = config.actor_rollout_ref.model, checkpoint / "actor"
    ours = read_json_if_there(Path(str(model.path)).expanduser() / "config.json")
    theirs = read_json_if_there(actor / "huggingface" / "config.json")
    for key in _SHAPE_KEYS:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            raise ConfigError(
                f"actor_rollout_ref.model.path={model.path} has {key}={ours[key]}, and the checkpoint {checkpoint} "
                f"{theirs[key]}: give the model that the run started from, or {_NEW_RUN}."
            )
    has_adapters = (actor / "lora_adapter").is_dir()
    if saved_parts(actor) and has_adapters != (model.lora_rank > 0):
        raise ConfigError(
            f"actor_rollout_ref.model.lora_rank={model.lora_rank} cannot resume {checkpoint}, which was trained "
            f"{'with' if has_adapters else 'without'} LoRA: set it as it was, or {_NEW_RUN}."
        )


def check_resumed_data(config: DictConfig, facts: Facts) -> None:
    """Refuse data and a data loader that cannot stand where the checkpoint's stood."""
    checkpoint = checkpoint_to_resume(config)
    state = None if checkpoint is None else loader_state(checkpoint)
    if state is None or config.data.sampler.class_path is not None:
        return
    data = config.data
    if data.dataloader_num_workers != state.num_workers:
        raise ConfigError(
            f"data.dataloader_num_workers={data.dataloader_num_workers} cannot resume {checkpoint}, whose data loader "
            f"had {state.num_workers}: set it to {state.num_workers}."
        )
    if data.shuffle != state.shuffles:
        before = str(state.shuffles).lower()
        raise ConfigError(
            f"data.shuffle={str(data.shuffle).lower()} cannot resume {checkpoint}, which was trained with "
            f"data.shuffle={before}: set it to {before}, or {_NEW_RUN}."
        )
    rows = count_rows(config, facts, "train_files") if data.custom_cls.path is None else None
    if rows is not None and rows < state.prompts_read:
        raise ConfigError(
            f"data.train_files holds {rows} prompts, and the checkpoint {checkpoint} stands after {state.prompts_read} "
            f"of an epoch: give the data that the run was trained on, or {_NEW_RUN}."
        )


def kept_settings(config: DictConfig) -> list[KeptSetting]:
    """Return the settings that differ from those in force in the run that is resumed, and that it cannot change.

    The optimizer's and the schedule's state bring back what they were made with; the data loader's state, its seed.
    """
    checkpoint = checkpoint_to_resume(config)
    if checkpoint is None or not (checkpoint.parent / CONFIG_FILE).is_file():
        return []
    earlier = OmegaConf.load(checkpoint.parent / CONFIG_FILE)
    settings = [
        KeptSetting(key, _value(config, key), _value(earlier, key))
        for key in _keys_that_state_brings_back(config, checkpoint)
    ]
    return [setting for setting in settings if setting.asked != setting.in_force is not None]


def _keys_that_state_brings_back(config: DictConfig, checkpoint: Path) -> Iterator[str]:
    for section, folder, contents in _parts_of_model(config, checkpoint):
        loaded = saved_parts(folder) & set(contents.load_contents)
        if "extra" in loaded:
            yield f"{section}.optim.lr"
        if "optimizer" in loaded:
            yield f"{section}.optim.betas"
            yield f"{section}.optim.weight_decay"
    state = loader_state(checkpoint)
    if state is not None and state.shuffles:
        yield "data.seed"


def _value(config: Any, key: str) -> Any:
    value = OmegaConf.select(config, key)
    if value is None and key == "data.seed":
        return _DEFAULT_DATA_SEED
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def resume_notices(config: DictConfig) -> list[str]:
    """Return a line for each part of the state that a resumed run, or a later resume of this one, starts without."""
    checkpoint = checkpoint_to_resume(config)
    notices = []
    if config.trainer.resume_from_path is not None and config.trainer.resume_mode != "resume_path":
        notices.append(
            f"trainer.resume_from_path={config.trainer.resume_from_path} has no effect with trainer.resume_mode="
            f"{config.trainer.resume_mode}: set it to resume_path to resume from there."
        )
    if checkpoint is not None:
        notices += _changed_data(config, checkpoint)
        notices += _changed_method(config, checkpoint)
        for section, folder, contents in _parts_of_model(config, checkpoint):
            absent = [part for part in ("optimizer", "extra") if part not in contents.load_contents]
            if absent:
                notices.append(
                    f"{folder} is resumed without {' and '.join(absent)} ({section}.checkpoint.load_contents): "
                    f"{_what_starts_anew(absent)} anew, so the run does not go on exactly as it would have."
                )
    if config.trainer.save_freq > 0:
        for section, _, contents in _parts_of_model(config, Path()):
            absent = [part for part in ("model", "optimizer", "extra") if part not in contents.save_contents]
            if absent:
                notices.append(
                    f"{section}.checkpoint.save_contents=[{','.join(contents.save_contents)}] saves no "
                    f"{' and no '.join(absent)}: this run cannot be resumed "
                    f"{'' if 'model' in absent else 'exactly '}from its checkpoints."
                )
    return notices


def _changed_data(config: DictConfig, checkpoint: Path) -> list[str]:
    file = checkpoint.parent / CONFIG_FILE
    before = OmegaConf.select(OmegaConf.load(file), "data.train_files") if file.is_file() else None
    if before is None or before == config.data.train_files:
        return []
    return [
        f"data.train_files={config.data.train_files} differs from {before}, with which {checkpoint} was trained: "
        "until the "
        "end of its epoch prompts may repeat or be left out."
    ]


def _changed_method(config: DictConfig, checkpoint: Path) -> list[str]:
    """A line for each key of the method that another value trained the checkpoint with."""
    file = checkpoint.parent / CONFIG_FILE
    before = OmegaConf.load(file) if file.is_file() else OmegaConf.create()
    now = {key: OmegaConf.select(config, key) for key in _OF_THE_METHOD}
    # Of a key that runs of earlier versions lack, no change is known.
    then = {key: OmegaConf.select(before, key, default=value) for key, value in now.items()}
    return [
        f"{key}={_shown(now[key])} from here on: {checkpoint} was trained with {_shown(then[key])}. Give another "
        "trainer.default_local_dir if this was to be a run of its own."
        for key in _OF_THE_METHOD
        if then[key] != now[key]
    ]


def _shown(value: Any) -> Any:
    return "null" if value is None else value


def _what_starts_anew(absent: list[str]) -> str:
    names = {"optimizer": "the optimizer's moments", "extra": "the learning-rate schedule and random states"}
    return f"{' and '.join(names[part] for part in absent)} start"


def finished_run(config: DictConfig, facts: Facts) -> str | None:
    """Return a line that says that the run in the folder is finished and how to go on; None if it is not."""
    checkpoint, trainer = checkpoint_to_resume(config), config.trainer
    if checkpoint is None or trainer.get("val_only", False):
        return None
    limits = {} if trainer.total_training_steps is None else {"total_training_steps": trainer.total_training_steps}
    rows = count_rows(config, facts, "train_files") if config.data.custom_cls.path is None else None
    if rows is not None and not config.exploration.dynamic_sampling.enable:
        limits["total_epochs"] = rows // prompts_per_batch(config) * trainer.total_epochs
    if not limits or step_of(checkpoint) < min(limits.values()):
        return None
    key = min(limits, key=lambda name: limits[name])
    return (
        f"The run in {checkpoint.parent} is finished: step {step_of(checkpoint)} of {limits[key]}. To train on, raise "
        f"trainer.{key} ({trainer[key]}); to train with other settings, set another trainer.default_local_dir."
    )
