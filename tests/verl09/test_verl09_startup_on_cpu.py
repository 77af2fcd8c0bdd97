"""What happens before Ray starts: refusals in a line, the dry run, the plug-in named to every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from knapsack_rl import ConfigError, TaskStatus
from knapsack_verl09.checks import check_config, exploration_config
from knapsack_verl09.compatibility import IncompatibleVerl, check_verl
from knapsack_verl09.startup import load_plugin_everywhere, plan_of_a_step

ROOT = Path(__file__).parents[2]
INSTALLED = Path(distribution("verl").locate_file("verl"))
SMALL = (
    "hydra.searchpath=[pkg://knapsack_verl09.config]",
    "+exploration=knapsack",
    "data.train_batch_size=8",
    "data.train_files=null",
    "data.val_files=null",
    "actor_rollout_ref.rollout.name=vllm",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", [*SMALL, *overrides])


def test_the_packaged_file_is_accepted_and_says_what_the_method_says():
    config = composed()
    check_config(config)
    defaults = exploration_config(config)
    assert (defaults.allocator, defaults.n_low, defaults.n_up) == ("knapsack", 2, 128)
    assert config.algorithm.adv_estimator == "grpo" and config.algorithm.adv_clip == 5.0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["exploration.n_low=0"], "exploration.n_low=0 is not accepted: expected an integer of at least 1."),
        (["+exploration.n_upp=9"], "exploration.n_upp is not a known key: did you mean exploration.n_up?"),
        (["exploration.success_rate.estimator=mean"], "exploration.success_rate.estimator='mean' is not accepted"),
        (["exploration.n_low=1"], "exploration.n_low=1 is not accepted: algorithm.adv_estimator=grpo compares"),
        (["exploration.n_up=3"], "train_batch_size * actor_rollout_ref.rollout.n=32 is infeasible for 8 prompts"),
        (["exploration.total_budget=40"], "exploration.total_budget=40 must be a multiple of 32 rollouts"),
        (["exploration.value=nonsense"], "exploration.value='nonsense' is not accepted"),
        (["exploration.value=remax"], "exploration.value=remax is not accepted on verl 0.9: no greedy response"),
        (["exploration.value=expected"], "needs exploration.success_rate.estimator=beta"),
        (["algorithm.adv_estimator=gae"], "algorithm.adv_estimator='gae' is not accepted"),
        (["algorithm.adv_estimator=remax"], "algorithm.adv_estimator=remax is not accepted on verl 0.9"),
        (["algorithm.adv_clip=0"], "algorithm.adv_clip=0 is not accepted: expected null or a number above 0."),
        (
            ["exploration.allocator=homogeneous", "actor_rollout_ref.rollout.n=1"],
            "actor_rollout_ref.rollout.n=1 is not accepted",
        ),
        (["trainer.use_v1=false"], "trainer.use_v1=False is not accepted"),
        (["trainer.v1.trainer_mode=sync"], "trainer.v1.trainer_mode=sync would train without Knapsack RL"),
        (["trainer.v1.trainer_mode=separate_async"], "separate_async is not accepted: each of its updates"),
        (["trainer.v1.trainer_mode=knapsack_separate_async"], "knapsack_separate_async is not accepted"),
        (["exploration.dispatch=packed"], "exploration.dispatch=packed is not accepted on verl 0.9"),
        (["exploration.rollout_is_cap=2"], "set algorithm.rollout_correction"),
        (["exploration.dump_rollouts=some"], "exploration.dump_rollouts='some' is not accepted"),
        (["exploration.log_histogram_every=-1"], "exploration.log_histogram_every=-1 is not accepted"),
        (["exploration.dynamic_sampling.enable=true"], "set algorithm.filter_groups.enable"),
        (
            ["exploration.total_budget=64", "algorithm.filter_groups.enable=true"],
            "exploration.total_budget=64 is not accepted where verl replaces prompts",
        ),
        (["exploration.preset=best"], "exploration.preset='best' is not accepted: expected null or one of"),
        (["algorithm.prompt_weight=log"], "algorithm.prompt_weight='log' is not accepted: expected one of rows, sqrt"),
        (["exploration.max_expected_tokens=-1"], "exploration.max_expected_tokens=-1 is not accepted"),
        (["exploration.review.after_steps=0"], "exploration.review.after_steps=0 is not accepted"),
        (["exploration.success_rate.prior=nowhere.csv"], "exploration.success_rate.prior=nowhere.csv is not accepted"),
        (["exploration.max_expected_tokens=0.1x"], "exploration.max_expected_tokens=0.1x cannot be met: the least"),
        (["exploration.max_expected_tokens=1.0x", "exploration.solver=dp"], "needs exploration.solver=auto or greedy"),
        (
            ["exploration.max_expected_tokens=1.0x", "exploration.allocator=homogeneous"],
            "needs exploration.allocator=knapsack",
        ),
        (
            ["exploration.review.after_steps=9", "exploration.review.max_share=0.01"],
            "no prompt would ever be reviewed",
        ),
        (["data.train_files=nowhere.parquet"], "data.train_files=nowhere.parquet does not exist."),
        (["data.train_batch_size=null"], "data.train_batch_size=None is not accepted: expected an integer"),
        (["actor_rollout_ref.rollout.n=2.5"], "actor_rollout_ref.rollout.n=2.5 is not accepted: expected an integer"),
        (["actor_rollout_ref.actor.ppo_mini_batch_size=0"], "ppo_mini_batch_size=0 is not accepted"),
        (["trainer.default_local_dir=null"], "trainer.default_local_dir=None is not accepted: expected text"),
        (["trainer.v1.trainer_mode=null"], "trainer.v1.trainer_mode=None is not accepted: expected text"),
        (["knapsack.task_status=5"], "knapsack.task_status=5 is not accepted: expected null or text"),
        (["knapsack.dry_run=maybe"], "knapsack.dry_run='maybe' is not accepted: expected true or false"),
        (["knapsack.task_status=nowhere.npz"], "knapsack.task_status=nowhere.npz is not accepted"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_run_is_refused_in_a_line(overrides, said):
    with pytest.raises(ConfigError, match=re.escape(said)) as refusal:
        check_config(composed(*overrides))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.v1.trainer_mode=knapsack_colocate_async"],
        ["exploration.total_budget=[[1,64],[9,32]]"],
        ["algorithm.filter_groups.enable=true"],
        ["algorithm.adv_estimator=rloo", "algorithm.adv_clip=null"],
        ["exploration.value=expected", "exploration.success_rate.estimator=beta"],
        ["exploration.allocator=homogeneous"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_can_run_is_accepted(overrides):
    check_config(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "estimator", "prompt_weight"),
    [
        ([], "previous_epoch", "rows"),
        (["exploration.preset=recommended"], "beta", "sqrt"),
        (["exploration.preset=recommended", "algorithm.prompt_weight=equal"], "beta", "equal"),
    ],
)
def test_a_preset_sets_what_is_not_set(overrides, estimator, prompt_weight):
    config = composed(*overrides)
    check_config(config)
    assert exploration_config(config).success_rate.estimator == estimator
    assert config.algorithm.prompt_weight == prompt_weight


@pytest.mark.parametrize(
    ("prior", "said"),
    [("nope", "has no column 'nope'"), ("count", "holds 3 in row 0"), ("prompt", "holds .* in row 0")],
)
def test_a_prior_column_that_cannot_be_used_is_refused(prior, said, tmp_path):
    file = tmp_path / "train.parquet"
    rows = {"data_source": ["s"], "prompt": [[{"role": "user", "content": "1 + 1"}]], "rate": [0.5], "count": [3]}
    pd.DataFrame(rows).to_parquet(file)
    check_config(composed(f"data.train_files={file}", "exploration.success_rate.prior=rate"))
    with pytest.raises(ConfigError, match=said):
        check_config(composed(f"data.train_files={file}", f"exploration.success_rate.prior={prior}"))


def test_columns_by_which_prompts_are_similar_are_those_of_the_data(tmp_path):
    file = tmp_path / "train.parquet"
    pd.DataFrame({"data_source": ["s"], "extra_info": [{"level": 3}]}).to_parquet(file)
    key = "exploration.success_rate.similar_by"
    check_config(composed(f"data.train_files={file}", f"{key}=[data_source,extra_info.level]"))
    with pytest.raises(ConfigError, match=f"{key}=extra_info.lvl is not accepted: .*has entries level"):
        check_config(composed(f"data.train_files={file}", f"{key}=extra_info.lvl"))


def test_prior_rates_of_prompts_that_there_are_not_are_refused(tmp_path):
    data, prior = tmp_path / "train.parquet", tmp_path / "prior.csv"
    pd.DataFrame({"data_source": ["s"], "prompt": [[{"role": "user", "content": "1 + 1"}]]}).to_parquet(data)
    prior.write_text("data_source,prompt,success_rate\ns,1 + 2,0.5\n")
    with pytest.raises(ConfigError, match="1 of 1 prompts that are not in the training data"):
        check_config(composed(f"data.train_files={data}", f"exploration.success_rate.prior={prior}"))


def test_a_damaged_task_status_is_refused(tmp_path):
    file = tmp_path / "task_status.npz"
    TaskStatus().save(file)
    check_config(composed(f"knapsack.task_status={file}"))
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="task_status.npz is not accepted: .*damaged"):
        check_config(composed(f"knapsack.task_status={file}"))


def run_main(*overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """verl's own entry point, from a folder that holds nothing, with the checkout on the path."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "verl.trainer.main_ppo",
            *SMALL,
            "hydra.output_subdir=null",
            "hydra.run.dir=.",
            *overrides,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_bad_input_ends_verls_own_entry_point_in_a_line_before_ray_starts(tmp_path):
    result = run_main("exploration.n_low=0", folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "error: exploration.n_low=0 is not accepted: expected an integer of at least 1."
    )
    assert "ray init" not in result.stdout and list(tmp_path.glob("*step*")) == []


def test_a_dry_run_ends_with_the_plan_of_a_step(tmp_path):
    result = run_main("knapsack.dry_run=true", f"trainer.default_local_dir={tmp_path}/run", folder=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "A step: 8 prompts, 32 rollouts, 2 to 128 each; mini-batches of 32 rollouts." in result.stdout
    assert not (tmp_path / "run").exists()


def test_the_plan_names_what_was_found():
    assert plan_of_a_step(composed()).startswith("Accepted: verl 0.9.")
    assert "the same for each" in plan_of_a_step(composed("exploration.allocator=homogeneous"))


@pytest.mark.parametrize("named", ["", "my_module", "my_module,knapsack_verl09.plugin"])
def test_every_process_loads_the_plug_in_beside_the_users_modules(named, monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_MODULES", named)
    config = composed()
    load_plugin_everywhere(config)
    loaded = config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES
    assert loaded == "my_module,knapsack_verl09.plugin" if named else loaded == "knapsack_verl09.plugin"


def test_modules_that_the_configuration_names_are_kept():
    config = composed()
    with open_dict(config):
        OmegaConf.update(
            config, "ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES", "theirs", force_add=True
        )
    load_plugin_everywhere(config)
    loaded = config.ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES
    assert loaded == "theirs,knapsack_verl09.plugin"


def test_the_installed_verl_fits():
    check_verl(INSTALLED)


def test_another_version_is_refused_naming_both(tmp_path):
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "version").write_text("0.10.0\n")
    with pytest.raises(IncompatibleVerl, match=r"extends verl 0\.9\.x, and verl 0\.10\.0 is installed in"):
        check_verl(tmp_path)


def test_a_verl_that_lacks_a_part_is_refused_naming_it(tmp_path):
    for file in INSTALLED.glob("trainer/ppo/v1/*.py"):
        copy = tmp_path / file.relative_to(INSTALLED)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text().replace("def _clear_groups", "def _forget_groups"))
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "version").write_text("0.9.7")
    with pytest.raises(IncompatibleVerl, match=r"verl 0\.9\.7 .*ReplayBuffer\._clear_groups in verl/trainer/ppo/v1"):
        check_verl(tmp_path)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "docs"], ids=["in_the_checkout", "elsewhere"])
def test_with_verl_09_installed_import_verl_is_verl_09_whatever_is_on_the_path(folder):
    where = "import verl, verl.version, verl.utils.import_utils as part; print(verl.__file__, part.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", where],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [str(INSTALLED / "__init__.py"), str(INSTALLED / "utils" / "import_utils.py")]


@pytest.mark.parametrize("script", ["run_knapsack_grpo_7b.sh", "run_knapsack_grpo_qwen3.5.sh"])
def test_a_script_is_dry_run_without_a_gpu(script, tmp_path):
    for name in ("dapo_math_17k/train.parquet", "math_evaluation/validation.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    result = subprocess.run(
        ["bash", str(ROOT / "examples" / "knapsack_trainer_verl09" / script), "exploration.n_up=64"],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "DRY_RUN": "1",
            "RAY_DATA_HOME": str(tmp_path),
            "RAY_SAVE_HOME": str(tmp_path / "runs"),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "A step: 256 prompts, 2048 rollouts, 2 to 64 each; mini-batches of 2048 rollouts." in result.stdout
