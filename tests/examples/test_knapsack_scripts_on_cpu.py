"""The GPU scripts: each is dry-run, has the paper's settings, and takes environment and overrides as it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from recipe.knapsack.dry_run.step_plan import compose, dry_run
from verl.trainer.config.checks import Facts, find_config_errors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "knapsack_trainer"
SCRIPTS = sorted(path.name for path in FOLDER.glob("run_*.sh") if not path.name.startswith("run_tiny_"))
MODELS = {
    "run_grpo_7b.sh": "Qwen2.5-Math-7B",
    "run_knapsack_grpo_7b.sh": "Qwen2.5-Math-7B",
    "run_knapsack_grpo_deepseek_1.5b.sh": "DeepSeek-R1-Distill-Qwen-1.5B",
    "run_knapsack_grpo_qwen3_4b_base.sh": "Qwen3-4B-Base",
    "run_knapsack_grpo_qwen3_4b_instruct.sh": "Qwen3-4B-Instruct-2507",
}
# Section 5.1 and appendix C of the paper; temperatures as it trains and validates.
SETTINGS_OF_THE_PAPER = {
    "data.train_batch_size": 256,
    "actor_rollout_ref.rollout.n": 8,
    "trainer.total_training_steps": 1000,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.28,
    "actor_rollout_ref.actor.use_kl_loss": False,
    "algorithm.use_kl_in_reward": False,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "algorithm.adv_estimator": "grpo",
    "algorithm.adv_clip": 5.0,
    "trainer.test_freq": 10,
    "actor_rollout_ref.rollout.val_kwargs.n": 16,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.val_kwargs.temperature": 0.6,
    "actor_rollout_ref.rollout.val_kwargs.do_sample": True,
    "exploration.n_low": 2,
    "exploration.n_up": 128,
    "exploration.fallback": True,
    "exploration.success_rate.estimator": "previous_epoch",
}
OF_THIS_SHELL = (
    "RAY_ADDRESS",
    "RAY_DATA_HOME",
    "RAY_MODEL_HOME",
    "RAY_SAVE_HOME",
    "NNODES",
    "NGPUS_PER_NODE",
    "DRY_RUN",
)


def run(script: str, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script from another folder than the repository's, without what this shell may have set."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THIS_SHELL}
    return subprocess.run(
        ["bash", str(FOLDER / script), *overrides],
        env={**kept, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def echo(tmp_path_factory) -> str:
    """A stand-in for Python that prints its arguments, one a line."""
    path = tmp_path_factory.mktemp("bin") / "echo-arguments"
    path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def arguments(echo):
    """What a script calls Python with: ``-m``, the module, the overrides."""

    def read(script: str, *overrides: str, **environment: str) -> list[str]:
        result = run(script, *overrides, PYTHON=echo, **environment)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    return read


@pytest.fixture
def config_of(arguments):
    def read(script: str, *overrides: str, **environment: str):
        config, _ = compose(arguments(script, *overrides, **environment)[2:])
        OmegaConf.resolve(config)
        return config

    return read


def test_every_script_is_tested():
    assert set(SCRIPTS) == set(MODELS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_accepts_the_script_and_plans_its_step(script, arguments):
    module, *overrides = arguments(script, DRY_RUN="1")[1:]
    assert module == "recipe.knapsack.step_plan"
    text, errors = dry_run(overrides)
    assert errors == []
    assert MODELS[script] in text and "2,048" in text and "WARNING" not in text


def test_a_dry_run_prints_the_plan_and_starts_nothing():
    result = run("run_knapsack_grpo_7b.sh", "exploration.n_up=64", DRY_RUN="1")
    assert result.returncode == 0, result.stderr
    assert "2,048 (knapsack: 2 to 64 a prompt)" in result.stdout
    assert "success rates by previous_epoch, prompts weighted by rows" in result.stdout
    assert "7.62 billion parameters" in result.stdout and "Nothing was started" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_has_the_settings_of_the_paper(script, config_of):
    config = config_of(script)
    found = {key: OmegaConf.select(config, key) for key in SETTINGS_OF_THE_PAPER}
    assert found == SETTINGS_OF_THE_PAPER
    data = config.data
    if script == "run_knapsack_grpo_deepseek_1.5b.sh":
        assert data.max_response_length == 8192
    else:
        assert data.max_prompt_length + data.max_response_length == 4096
    assert Path(config.actor_rollout_ref.model.path).name == MODELS[script]
    assert config.exploration.allocator == ("homogeneous" if script == "run_grpo_7b.sh" else "knapsack")


def test_baseline_and_knapsack_differ_in_the_allocator_and_in_their_folder_only(config_of):
    baseline, knapsack = config_of("run_grpo_7b.sh"), config_of("run_knapsack_grpo_7b.sh")
    assert baseline.trainer.default_local_dir != knapsack.trainer.default_local_dir
    baseline.exploration.allocator = knapsack.exploration.allocator
    for key in ("experiment_name", "default_local_dir"):
        baseline.trainer[key] = knapsack.trainer[key]
    assert baseline == knapsack


def test_a_baseline_by_override_has_a_folder_of_its_own(config_of):
    script = "run_knapsack_grpo_qwen3_4b_base.sh"
    baseline, knapsack = config_of(script, "exploration.allocator=homogeneous"), config_of(script)
    assert baseline.trainer.default_local_dir != knapsack.trainer.default_local_dir


def test_each_preset_has_a_folder_of_its_own(config_of):
    script = "run_knapsack_grpo_7b.sh"
    paper, recommended = config_of(script), config_of(script, "exploration.preset=recommended")
    assert Path(paper.trainer.default_local_dir).name == "knapsack_grpo_Qwen2.5-Math-7B"
    assert Path(recommended.trainer.default_local_dir).name == "knapsack_recommended_grpo_Qwen2.5-Math-7B"


def test_an_appended_override_wins(config_of):
    config = config_of("run_knapsack_grpo_deepseek_1.5b.sh", "data.max_response_length=100", "trainer.save_freq=7")
    assert (config.data.max_response_length, config.trainer.save_freq) == (100, 7)


def test_folders_and_machines_come_from_the_environment(config_of, tmp_path):
    homes = {f"RAY_{kind}_HOME": str(tmp_path / f"my {kind}") for kind in ("DATA", "MODEL", "SAVE")}
    config = config_of("run_knapsack_grpo_7b.sh", NNODES="4", NGPUS_PER_NODE="16", **homes)
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node) == (4, 16)
    assert config.data.train_files == f"{tmp_path}/my DATA/dapo_math_17k/train.parquet"
    assert config.data.val_files == f"{tmp_path}/my DATA/math_evaluation/validation.parquet"
    assert config.actor_rollout_ref.model.path == f"{tmp_path}/my MODEL/Qwen2.5-Math-7B"
    assert config.trainer.default_local_dir == f"{tmp_path}/my SAVE/knapsack_grpo_Qwen2.5-Math-7B"


def test_folders_default_to_the_repository(config_of):
    config = config_of("run_knapsack_grpo_7b.sh", RAY_SAVE_HOME="elsewhere")
    assert config.data.train_files.startswith(f"{ROOT}/data/")
    assert config.actor_rollout_ref.model.path.startswith(f"{ROOT}/models/")
    assert config.trainer.default_local_dir.startswith(f"{ROOT}/elsewhere/")


@pytest.mark.parametrize("unset", ["RAY_DATA_HOME", "RAY_MODEL_HOME", "RAY_SAVE_HOME"])
def test_several_machines_need_folders_that_all_of_them_see(unset):
    homes = {name: "/shared" for name in ("RAY_DATA_HOME", "RAY_MODEL_HOME", "RAY_SAVE_HOME") if name != unset}
    result = run("run_knapsack_grpo_7b.sh", NNODES="2", DRY_RUN="1", **homes)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and f"NNODES=2 needs {unset}" in result.stderr


@pytest.mark.parametrize(
    ("activated", "with_requirements", "expected"),
    [
        ({"VIRTUAL_ENV": "/elsewhere"}, ["bin/python3", ".venv/bin/python"], "bin/python3"),
        ({"CONDA_PREFIX": "/elsewhere"}, ["bin/python3", ".venv/bin/python"], "bin/python3"),
        ({"CONDA_PREFIX": "/conda/base"}, [".venv/bin/python"], ".venv/bin/python"),
        ({}, ["bin/python3", ".venv/bin/python"], ".venv/bin/python"),
        ({}, ["bin/python3"], "bin/python3"),
    ],
)
def test_an_activated_environment_goes_before_the_one_of_the_quickstart(
    tmp_path, activated, with_requirements, expected
):
    scripts = shutil.copytree(FOLDER, tmp_path / "examples" / "knapsack_trainer")
    for name in ("bin/python3", ".venv/bin/python"):
        python = tmp_path / name
        python.parent.mkdir(parents=True)
        python.write_text('#!/bin/sh\necho "$0"\n' if name in with_requirements else "#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
    result = subprocess.run(
        ["bash", str(scripts / "run_knapsack_grpo_7b.sh")],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", **activated},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(result.stdout.strip()).relative_to(tmp_path) == Path(expected)


def test_a_python_that_is_not_there_is_named():
    result = run("run_knapsack_grpo_7b.sh", PYTHON="/nowhere/python")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: there is no /nowhere/python; name a Python with PYTHON=/path/to/python\n"


@pytest.mark.parametrize("dry_run", ["0", "1"])
def test_a_python_without_the_requirements_ends_in_one_line_that_says_what_to_install(tmp_path, dry_run):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho output; echo Traceback >&2; exit 1\n")
    python.chmod(0o755)
    result = run("run_knapsack_grpo_7b.sh", PYTHON=str(python), DRY_RUN=dry_run)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: {python} lacks the requirements: pip install -r requirements/vllm.txt (GPUs), or run make quickstart "
        "(laptop)\n"
    )


@pytest.mark.parametrize("lacking", [None, "hydra", "ray", "torch"])
def test_each_requirement_is_looked_for_and_none_imported(tmp_path, lacking):
    """The requirements are packages that would fail to be imported; in their place an isolated Python looks."""
    for name in {"hydra", "ray", "torch"} - {lacking}:
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then PYTHONPATH={tmp_path} exec {sys.base_prefix}/bin/python3 -S "$@"; fi\n'
        "echo trains\n"
    )
    python.chmod(0o755)
    result = run("run_knapsack_grpo_7b.sh", PYTHON=str(python))
    assert (result.returncode, result.stdout) == ((2, "") if lacking else (0, "trains\n")), result.stderr


def test_the_files_are_those_that_the_preprocessing_writes(arguments, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_DATA_HOME", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "data_preprocess"))
    import dapo_math_17k
    import math_evaluation

    overrides = arguments("run_knapsack_grpo_7b.sh", RAY_DATA_HOME=str(tmp_path))
    train = dapo_math_17k.parse_arguments([]).output_dir / "train.parquet"
    validation = math_evaluation.parse_arguments([]).output_dir / "validation.parquet"
    assert f"data.train_files={train}" in overrides and f"data.val_files={validation}" in overrides


@pytest.mark.skipif(
    torch.cuda.is_available() or Path("/tmp/ray/ray_current_cluster").exists(),
    reason="there is a GPU, or a Ray cluster",
)
def test_without_a_gpu_one_line_says_so_and_names_the_quickstart():
    result = run("run_knapsack_grpo_7b.sh")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and "needs a GPU" in lines[0] and "make quickstart" in lines[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_every_script_trains_with_is_refused_for_the_missing_gpu_first(script, arguments):
    module, *overrides = arguments(script)[1:]
    assert module == "verl.trainer.main_ppo"
    (error,) = map(str, find_config_errors(*compose(overrides), Facts(has_gpu=False, cluster=None)))
    assert "needs a GPU" in error and "make quickstart" in error and "\n" not in error
