"""Every command of README and docs is run by a test, or says beside it what it needs.

`COMMANDS` has them all. A command that is documented and not listed fails, and so does one that is listed and no longer
documented.
"""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import setuptools
from documentation import PAGES, ROOT, commands, prose
from make_environment import environment_without_make
from warm_commands import run_warm


@dataclass(frozen=True)
class Listed:
    """How a documented command is known to work.

    Attributes:
        tests: what runs it, or its short form where it needs something; none for a program that is not ours.
        needs: a word that the page must say beside the command: what no test on a CPU has.
    """

    tests: tuple[str, ...] = ()
    needs: str = ""


def by(*tests: str, needs: str = "") -> Listed:
    return Listed(tuple(f"tests/{test}" for test in tests), needs)


NOT_OURS = Listed()
_THIS = "test_documented_commands_on_cpu.py"
_SHORT = f"{_THIS}::test_a_short_form_runs"
_MAKE = f"{_THIS}::test_what_a_target_of_make_runs"
_SCRIPTS = "examples/test_knapsack_scripts_on_cpu.py"
_PREPROCESSING = "examples/data_preprocess/test_preprocessing_on_cpu.py"
_REASONING_GYM = "examples/data_preprocess/test_reasoning_gym_on_cpu.py"
_VIEW_BENCHMARKS = "recipe/knapsack/benchmarks/test_benchmark_view_on_cpu.py"
_BENCHMARKS = "recipe/knapsack/benchmarks/test_benchmarks_on_cpu.py"
_STUDIES = "recipe/knapsack/studies"
_LEARNING = f"{_STUDIES}/test_learning_simulation_on_cpu.py"
_VIEW = "recipe/knapsack/view/test_view_command_on_cpu.py"
_REPORT = "recipe/knapsack/report/test_report_on_cpu.py"
_7B = "bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh"
_VERL09 = "verl09/test_verl09_startup_on_cpu.py"
_7B_VERL09 = "bash examples/knapsack_trainer_verl09/run_knapsack_grpo_7b.sh"
_WHEEL = "test_overlay_on_cpu.py::test_the_wheel_installs_beside_upstream_and_uninstalls_without_a_trace"
_LANDING = (
    "ci/test_project_on_cpu.py::test_the_landing_check_lints_checks_types_and_tests_with_a_browser_where_there_is_one"
)

COMMANDS = {
    # Environments
    "make env": by(_MAKE, "ci/test_make_environment_on_cpu.py::test_the_version_decides"),
    "source .venv/bin/activate": NOT_OURS,
    "pip install .": by(_WHEEL),
    "pip install '.[verl05]'": by(_WHEEL, f"{_THIS}::test_what_pip_installs_with_an_extra"),
    "pip install '.[verl09]'": by(f"{_THIS}::test_what_pip_installs_with_an_extra"),
    "pip install '.[history]'": by(f"{_THIS}::test_what_pip_installs_with_an_extra"),
    "pip uninstall knapsack-rl": by(_WHEEL),
    "pip install -r requirements/vllm.txt": by(
        "test_requirements_on_cpu.py::test_uv_resolves_the_pins_of_the_gpu_environment_together", needs="GPUs"
    ),
    "pip install --no-build-isolation --no-deps flash-attn==2.8.3": by(
        "test_requirements_on_cpu.py::"
        "test_the_gpu_environment_has_vllm_its_torch_and_what_builds_flash_attn_in_a_step_of_its_own",
        needs="GPUs",
    ),
    'python -c "import torch, vllm; print(torch.__version__, torch.cuda.device_count(), vllm.__version__)"': NOT_OURS,
    # The house
    "make quickstart": by(_MAKE, "end_to_end/test_short_quickstart_on_cpu.py::test_the_quickstart", needs="minutes"),
    "make test": by(_MAKE, needs="minutes"),
    "make test-slow": by(_MAKE, needs="minutes"),
    "make test-vllm": by(_MAKE, needs="minutes"),
    "make test-pins": by(_MAKE, needs="minutes"),
    "make test-verl09": by(_MAKE, needs="minutes"),
    "make compare": by(_MAKE, needs="hours"),
    "make compare SEEDS=1 STEPS=40": by(_MAKE, needs="minutes"),
    "make lint": by(_MAKE),
    "make format": by("ci/test_makefile_on_cpu.py::test_what_a_target_runs"),
    "make typecheck": by("ci/test_makefile_on_cpu.py::test_what_a_target_runs"),
    "make clean": by("ci/test_makefile_on_cpu.py::test_clean_removes_build_products_and_no_training_result"),
    ".ci/run": by(_LANDING, needs="minutes"),
    # Training
    "python3 -m verl.trainer.main_ppo": by(
        "trainer/test_main_ppo_on_cpu.py::test_bad_input_ends_in_one_line_before_ray_starts"
    ),
    "export RAY_DATA_HOME=/data RAY_SAVE_HOME=/results RAY_MODEL_HOME=/models NNODES=1 NGPUS_PER_NODE=8": by(
        f"{_SCRIPTS}::test_folders_and_machines_come_from_the_environment"
    ),
    "python examples/data_preprocess/dapo_math_17k.py": by(
        f"{_PREPROCESSING}::test_each_prompt_of_dapo_is_kept_once_in_verls_schema", needs="download"
    ),
    "python examples/data_preprocess/math_evaluation.py": by(
        f"{_PREPROCESSING}::test_every_benchmark_is_scored_and_its_own_ground_truth_is_right", needs="download"
    ),
    "pip install -r requirements/reasoning_gym.txt": by(
        "test_requirements_on_cpu.py::test_every_requirement_is_pinned_and_every_file_named_exists",
        f"{_REASONING_GYM}::test_without_the_package_one_line_says_how_to_install_it",
    ),
    "python examples/data_preprocess/reasoning_gym.py --datasets chain_sum gcd --levels 0 2 4 "
    "--output-dir data/gym": by(f"{_REASONING_GYM}::test_rows_are_in_verls_schema_and_split_over_data_sets_and_levels"),
    "huggingface-cli download Qwen/Qwen2.5-Math-7B --local-dir $RAY_MODEL_HOME/Qwen2.5-Math-7B": NOT_OURS,
    "huggingface-cli login": NOT_OURS,
    f"DRY_RUN=1 {_7B}": by(f"{_SCRIPTS}::test_a_dry_run_accepts_the_script_and_plans_its_step"),
    _7B: by(f"{_SCRIPTS}::test_a_script_has_the_settings_of_the_paper", needs="GPUs"),
    f"{_7B} exploration.preset=recommended": by(f"{_SCRIPTS}::test_an_appended_override_wins", needs="GPUs"),
    f"{_7B} trainer.total_training_steps=4 trainer.save_freq=2 trainer.val_before_train=false trainer.test_freq=-1 "
    "trainer.logger=[] trainer.experiment_name=first_steps": by(
        f"{_SCRIPTS}::test_an_appended_override_wins", needs="GPUs"
    ),
    f"DRY_RUN=1 {_7B_VERL09}": by(f"{_VERL09}::test_a_script_is_dry_run_without_a_gpu"),
    _7B_VERL09: by(f"{_VERL09}::test_a_script_is_dry_run_without_a_gpu", needs="GPUs"),
    "bash examples/knapsack_trainer_verl09/run_knapsack_grpo_qwen3.5.sh": by(
        f"{_VERL09}::test_a_script_is_dry_run_without_a_gpu", needs="GPUs"
    ),
    "bash examples/knapsack_trainer/check_gpu.sh": by(
        "vllm_engine/test_check_gpu_on_cpu.py::test_all_checks_pass_and_the_report_is_written", needs="GPUs"
    ),
    "bash examples/knapsack_trainer/run_grpo_7b.sh": by(
        f"{_SCRIPTS}::test_baseline_and_knapsack_differ_in_the_allocator_and_in_their_folder_only", needs="GPUs"
    ),
    "python examples/explorer_without_verl.py": by(
        "examples/test_explorer_without_verl_on_cpu.py::test_it_prints_what_the_documentation_shows"
    ),
    # Around training
    "python -m recipe.knapsack.plan": by(
        "recipe/knapsack/planner/test_plan_on_cpu.py::test_table_shows_ratios_and_histogram"
    ),
    "python -m recipe.knapsack.plan success_rates.parquet --observed-rollouts rollouts": by(
        "recipe/knapsack/evaluate/test_evaluation_on_cpu.py::"
        "test_the_success_rates_of_an_evaluation_are_a_prior_and_an_input_of_the_planner"
    ),
    "python -m recipe.knapsack.plan --help": by(
        "recipe/knapsack/planner/test_plan_on_cpu.py::test_runs_as_a_module_and_explains_itself"
    ),
    "python -m recipe.knapsack.view": by(
        f"{_VIEW}::test_the_command_serves_until_it_is_interrupted_and_leaves_nothing_behind"
    ),
    "python -m recipe.knapsack.view runs/quickstart/knapsack": by(
        f"{_VIEW}::test_the_command_serves_until_it_is_interrupted_and_leaves_nothing_behind"
    ),
    "python -m recipe.knapsack.view runs/quickstart/grpo runs/quickstart/knapsack": by(
        f"{_VIEW}::test_the_command_serves_until_it_is_interrupted_and_leaves_nothing_behind"
    ),
    "python -m recipe.knapsack.view RUN --static folder": by(
        f"{_VIEW}::test_static_pages_link_to_each_other_and_to_nothing_else"
    ),
    "python -m recipe.knapsack.report RUN --output folder --follow": by(
        f"{_REPORT}::test_following_writes_the_report_again_when_the_run_has_grown_and_ends_with_it"
    ),
    "pip install mlflow==3.17.2": NOT_OURS,
    "pip install swanlab==0.10.3": NOT_OURS,
    "pip install trackio==0.20.2 gradio==6.17.3 'huggingface-hub<1'": NOT_OURS,
    "python -m recipe.knapsack.report RUN [RUN ...] --output report": by(
        f"{_REPORT}::test_every_figure_is_on_the_page_and_in_a_file", f"{_REPORT}::test_a_real_run"
    ),
    "python -m recipe.knapsack.report runs/quickstart/grpo runs/quickstart/knapsack --names GRPO Knapsack-GRPO": by(
        f"{_REPORT}::test_names_are_shown_as_they_are"
    ),
    "python -m recipe.knapsack.evaluate RUN/global_step_N --output eval --data "
    "$RAY_DATA_HOME/math_evaluation/evaluation.parquet": by(
        "recipe/knapsack/evaluate/test_evaluation_on_cpu.py::test_a_checkpoint_of_two_workers_is_evaluated_on_one"
    ),
    "python -m recipe.knapsack.dashboard --project NAME": by(
        "recipe/knapsack/report/test_dashboard_on_cpu.py::test_prints_a_specification_with_five_sections", needs="wandb"
    ),
    "python -m recipe.knapsack.metric_table": by(_SHORT),
    "python -m recipe.knapsack.metric_table docs/metrics.md": by(
        "test_readme_on_cpu.py::test_the_metric_table_is_that_of_the_code"
    ),
    # Studies
    "python -m recipe.knapsack.compare --output runs/compare --ablation-seeds 4": by(
        f"{_STUDIES}/test_comparison_jobs_on_cpu.py::"
        "test_an_interrupted_comparison_stops_its_runs_and_continues_with_the_unfinished",
        needs="hours",
    ),
    "python -m recipe.knapsack.compare --output runs/compare --ablation-seeds 4 --show": by(
        f"{_STUDIES}/test_compare_on_cpu.py::test_a_run_that_was_ended_before_it_wrote_a_history_has_a_row"
    ),
    **{
        f"python -m recipe.knapsack.compare_worlds{options}": by(
            "recipe/knapsack/worlds/test_compare_worlds_on_cpu.py::"
            "test_a_finished_training_is_kept_and_an_interrupted_one_is_not",
            needs="hours",
        )
        for options in (
            "",
            " --tune --worlds 0 1",
            " --rollouts 4 --methods paper recommended",
            " --task lengths --worlds 20 21 22 23",
            " --task reasoning_gym",
        )
    },
    ".venv-vllm/bin/python -m recipe.knapsack.compare_engines --output runs/engines": by(_SHORT, needs="minutes"),
    "python -m recipe.knapsack.compare_estimators RUN": by(
        f"{_STUDIES}/test_compare_estimators_on_cpu.py::test_command_line_names_the_best"
    ),
    "python -m recipe.knapsack.compare_estimators RUN --data train.parquet "
    "--similar-by data_source extra_info.level": by(
        f"{_STUDIES}/test_first_visits_on_cpu.py::test_the_command_says_what_similar_prompts_tell"
    ),
    "python -m recipe.knapsack.simulate --picture images/simulation.png": by(
        f"{_STUDIES}/test_simulate_on_cpu.py::test_command_line_prints_json_and_draws"
    ),
    "python -m recipe.knapsack.simulate --no-fallback": by(
        f"{_STUDIES}/test_simulate_on_cpu.py::test_command_line_can_switch_the_fallback_off"
    ),
    "python -m recipe.knapsack.simulate --learning": by(
        f"{_LEARNING}::test_without_a_rule_of_the_users_own_the_projects_are_compared"
    ),
    "python -m recipe.knapsack.simulate --learning --seeds 4 --regime normalised --regime normalised-slow "
    "--regime interference --regime plain": by(
        f"{_LEARNING}::test_regimes_are_chosen_by_name_and_their_rate_can_be_changed", needs="minutes"
    ),
    "python -m recipe.knapsack.simulate --learning --value my_values:solved_at_least_once --estimator beta "
    "--prompt-weight sqrt": by(f"{_LEARNING}::test_a_rule_of_the_users_own_is_judged"),
    # Benchmarks
    "python -m recipe.knapsack.benchmark_allocation": by(
        f"{_BENCHMARKS}::test_the_allocation_benchmark_prints_times_and_both_ratios"
    ),
    "python -m recipe.knapsack.benchmark_dispatch": by(
        f"{_BENCHMARKS}::test_the_dispatch_benchmark_prints_every_phase_and_layout_against_the_bound"
    ),
    "python -m recipe.knapsack.benchmark_rollout --task runs/quickstart/warm_start": by(
        f"{_BENCHMARKS}::test_the_rollout_benchmark_prints_both_speeds_and_their_ratio"
    ),
    "python -m recipe.knapsack.benchmark_overhead --run runs/quickstart/knapsack": by(
        "recipe/knapsack/benchmarks/test_benchmark_overhead_on_cpu.py::test_a_run_is_measured_at_its_own_size"
    ),
    "python -m recipe.knapsack.benchmark_view": by(
        f"{_VIEW_BENCHMARKS}::test_benchmark_view_opens_a_run_and_answers_every_page"
    ),
    "python -m recipe.knapsack.benchmark_kept_rollouts": by(
        f"{_VIEW_BENCHMARKS}::test_benchmark_kept_rollouts_prints_a_number_and_all"
    ),
    "python -m recipe.knapsack.benchmark_rewards --num-workers 2": by(_SHORT),
    "python -m recipe.knapsack.benchmark_grading tests/utils/reward_score/grading_cases.jsonl "
    "tests/utils/reward_score/outside_cases.jsonl": by(
        "recipe/knapsack/benchmarks/test_benchmark_grading_on_cpu.py::test_each_grader_is_counted_against_the_labels"
    ),
    ".venv-vllm/bin/python -m recipe.knapsack.benchmark_prefix_cache": by(_SHORT, needs="minutes"),
}

DOCUMENTED = [command for page in PAGES for command in commands(page)]


def test_every_documented_command_is_listed_here():
    assert sorted({f"{command.page}: {command.text}" for command in DOCUMENTED if command.text not in COMMANDS}) == []


def test_every_listed_command_is_documented():
    assert sorted(set(COMMANDS) - {command.text for command in DOCUMENTED}) == []


@pytest.mark.parametrize("command", [command for command, listed in COMMANDS.items() if listed.needs])
def test_every_page_says_what_a_command_needs(command):
    notes: dict[str, str] = {}
    for documented in DOCUMENTED:
        if documented.text == command:
            notes[documented.page] = f"{notes.get(documented.page, '')} {documented.note}"
    needs = COMMANDS[command].needs
    assert [page for page, note in notes.items() if needs not in note] == [], f"{command} needs {needs}"


@pytest.mark.parametrize("test", sorted({test for listed in COMMANDS.values() for test in listed.tests}))
def test_every_test_that_is_named_exists(test):
    assert exists(test)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    assert [test for test in re.findall(r"tests/[\w/]+\.py::\w+", prose(page)) if not exists(test)] == []


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    module = ast.parse((ROOT / path).read_text())
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in ast.walk(module))


def subject(command: str) -> str:
    """The one word of a command of ours that says what runs: a module, a script, a target, what pip does."""
    words = [word for word in command.split() if "=" not in word or word.startswith("exploration.")]
    if words[0] in ("make", "pip"):
        return words[1]
    if "-m" in words:
        return words[words.index("-m") + 1].rpartition(".")[2]
    paths = [word for word in words if "/" in word]
    return paths[0].rpartition("/")[2] if paths else command.split()[1].partition("=")[0]


@pytest.mark.parametrize("command", [command for command, listed in COMMANDS.items() if listed.tests])
def test_one_of_the_tests_that_are_named_speaks_of_the_command(command):
    own = ROOT / "tests" / _THIS
    files = {ROOT / test.partition("::")[0] for test in COMMANDS[command].tests}
    texts = [SHORT_FORMS_TEXT if path == own else path.read_text() for path in files]
    assert any(subject(command) in text for text in texts), f"no test of {subject(command)}"


def module_file(command: str) -> Path:
    name = command.split(" -m ")[1].split()[0]
    spec = find_spec(name)
    return Path(spec.origin).with_name("__main__.py") if spec.submodule_search_locations else Path(spec.origin)


@pytest.mark.parametrize("command", [command for command in COMMANDS if " -m recipe." in command])
def test_a_command_has_the_options_that_it_is_given_and_is_given_those_that_it_needs(command):
    given = set(re.findall(r" (--[a-z-]+)", command)) - {"--help"}
    texts = [file.read_text() for file in {module_file(command), *module_file(command).parent.glob("*.py")}]
    assert [option for option in given if not any(f'"{option}"' in text for text in texts)] == []
    needed = re.findall(r'add_argument\(\s*"(--[a-z-]+)"[^)]*required=True', module_file(command).read_text())
    assert "--help" in command or set(needed) <= given, f"{command} needs {needed}"


# --- Short forms ------------------------------------------------------------------------------------------------------

SHORT_FORMS = {
    "metric_table": ([], "| key | unit | what it is | when it looks wrong |"),
    "benchmark_rewards": (
        ["--num-workers", "1", "--num-responses", "8", "--num-sentences", "2"],
        "8 responses, 1 processes",
    ),
    # The rest of these two needs vLLM.
    "compare_engines": (["--help"], "usage: "),
    "benchmark_prefix_cache": (["--help"], "usage: "),
}
TARGETS = {
    "env": None,
    "quickstart": "python -m recipe.knapsack.quickstart --output runs/quickstart",
    "test": 'python -m pytest tests -m "not slow"',
    "test-slow": "python -m pytest tests -m slow",
    "compare": "python -m recipe.knapsack.compare --output runs/compare --seeds 4 --steps 240",
    "compare SEEDS=1 STEPS=40": "python -m recipe.knapsack.compare --output runs/compare --seeds 1 --steps 40",
    "lint": "python -m ruff format --check .",
    "test-vllm": ".venv-vllm/bin/python -m pytest --numprocesses=0 tests/vllm_engine "
    "tests/utils/test_newer_versions_on_cpu.py",
    "test-verl09": ".venv-verl09/bin/python -m pytest --numprocesses=2 --dist=loadfile --durations=15 "
    '-m "" tests/verl09',
    "test-pins": "CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 .venv-pins/bin/python -m pytest --numprocesses=2 "
    '--dist=loadgroup --durations=30 -m "" tests/vllm_engine tests/experimental tests/utils/test_gloo_on_cpu.py '
    "tests/utils/test_newer_versions_on_cpu.py",
}
SHORT_FORMS_TEXT = " ".join([*SHORT_FORMS, *TARGETS, "install"])


@pytest.mark.parametrize("module", SHORT_FORMS)
def test_a_short_form_runs(module):
    arguments, said = SHORT_FORMS[module]
    result = run_warm(["-m", f"recipe.knapsack.{module}", *arguments])
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.startswith(said)


def test_what_pip_installs_with_an_extra(monkeypatch):
    """The dependencies that setup.py declares; nothing is downloaded to see them."""
    declared: dict[str, list[str]] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **settings: declared.update(settings["extras_require"]))
    monkeypatch.setattr(sys, "argv", ["setup.py", "install"])
    runpy.run_path(str(ROOT / "setup.py"))
    names = {extra: {re.match(r"[\w-]+", need)[0] for need in needs} for extra, needs in declared.items()}
    assert {"verl", "ray", "transformers"} <= names["verl05"]
    assert {"verl", "TransferQueue", "pyarrow"} <= names["verl09"]
    assert (names["history"], names["dynamic"]) == ({"pyarrow"}, {"numba"})
    assert names["charts"] == {"matplotlib", "wandb"}


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
@pytest.mark.parametrize("target", TARGETS)
def test_what_a_target_of_make_runs(target):
    result = subprocess.run(
        ["make", "--dry-run", *target.split(), "PYTHON=python"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env=environment_without_make("RUNS", "SEEDS", "STEPS"),
    )
    assert result.returncode == 0, result.stderr
    if TARGETS[target] is not None:
        assert result.stdout.splitlines()[-1] == TARGETS[target]
