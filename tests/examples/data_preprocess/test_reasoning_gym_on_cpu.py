"""The adapter of reasoning-gym and its reward function; with the real package where it is installed."""

from __future__ import annotations

import doctest
import importlib.util
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "data_preprocess"
needs_package = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs reasoning-gym")
needs_no_package = pytest.mark.skipif(find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed")


def load_reward():
    """As verl loads a reward function: from its file, whatever folder that is in."""
    spec = importlib.util.spec_from_file_location("custom_module", FOLDER / "reasoning_gym_reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REWARD = load_reward()


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(FOLDER / "reasoning_gym.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
        timeout=300,
    )


def make(folder: Path, *arguments: object) -> tuple[pd.DataFrame, pd.DataFrame]:
    result = run("--output-dir", folder, *arguments)
    assert result.returncode == 0, result.stderr
    return pd.read_parquet(folder / "train.parquet"), pd.read_parquet(folder / "validation.parquet")


def question(row) -> str:
    return row["prompt"][0]["content"]


def score(row, response: str, **options):
    return REWARD.compute_score(
        row["data_source"], response, row["reward_model"]["ground_truth"], row["extra_info"], **options
    )


# ---------------------------------------------------------------- what JSON cannot hold


def test_docstring_examples_hold():
    assert doctest.testmod(REWARD).failed == 0


@pytest.mark.parametrize(
    "value",
    [
        ((1, 2), [(3,), []], ()),
        {1: "a", (2, 3): {"b": None}, "c": True},
        {"tuple of": [1]},
        {"items of": {"tuple of": (1,)}},
        [1.5, -1, "x", None, False, {}],
    ],
)
def test_what_is_kept_as_json_comes_back_as_it_was(value):
    back = REWARD.decode(json.loads(json.dumps(REWARD.encode(value))))
    assert back == value and repr(back) == repr(value)


@pytest.mark.parametrize("value", [{1, 2}, b"x", [object()]])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(TypeError, match="of the type (set|bytes|object)"):
        REWARD.encode(value)


def test_a_prompt_of_another_data_set_is_named():
    with pytest.raises(ValueError, match="extra_info has no reasoning_gym"):
        REWARD.compute_score("gsm8k", "1", "1", {"index": 0})


# ---------------------------------------------------------------- the command


@needs_no_package
def test_without_the_package_one_line_says_how_to_install_it():
    result = run("--datasets", "chain_sum")
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "install reasoning-gym with pip install -r requirements/reasoning_gym.txt" in result.stderr
    with pytest.raises(ModuleNotFoundError, match="pip install -r requirements/reasoning_gym.txt"):
        REWARD._dataset("gcd", "{}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--datasets is needed"),
        (["--datasets", "gcd", "--train-size", "0"], "--train-size and --validation-size must be at least 1"),
        (["--datasets", "gcd", "--levels", "-1"], "--levels must be at least 0, got -1"),
        (["--datasets", "gcd", "gcd"], "must name each but once"),
        (["--datasets", "gcd", "--levels", "1", "1"], "must name each but once"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2 and message in result.stderr


@needs_package
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "gdc"], "gdc is no data set of reasoning-gym; --list names all"),
        (["--datasets", "gcd", "--set", "gcd.most=3"], "gcd.most is not a known key; known keys: "),
        (["--datasets", "gcd", "--set", "gcd.seed=3"], "gcd.seed is not a known key"),
        (["--datasets", "gcd", "--set", "gcd"], "--set gcd: expected DATASET.KEY=VALUE"),
        (["--datasets", "gcd", "--set", "lcm.min_value=3"], "lcm is not among --datasets gcd"),
        (["--datasets", "gcd", "--set", "gcd.min_value=-3"], "gcd does not accept {'min_value': -3}: "),
        (["--datasets", "acre", "--levels", "0"], "acre has no levels"),
        (["--datasets", "coin_flip", "chain_sum", "--levels", "0", "--train-size", "5000"], "different prompts in"),
    ],
)
def test_what_the_package_does_not_have_is_refused_in_one_line(arguments, message, tmp_path):
    result = run("--output-dir", tmp_path, *arguments)
    assert result.returncode == 1 and message in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@needs_package
def test_the_names_of_all_data_sets_are_listed():
    names = run("--list").stdout.split()
    assert {"chain_sum", "gcd", "sudoku"} <= set(names) and "composite" not in names


# ---------------------------------------------------------------- rows and rewards


@needs_package
def test_rows_are_in_verls_schema_and_split_over_data_sets_and_levels(tmp_path):
    train, validation = make(
        tmp_path, "--datasets", "chain_sum", "gcd", "--levels", 0, 3, "--train-size", 42, "--validation-size", 8
    )
    assert (len(train), len(validation)) == (42, 8)
    assert set(train) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    infos = train["extra_info"]
    assert infos.map(lambda info: (info["index"], info["split"])).tolist() == [(i, "train") for i in range(42)]
    groups = pd.DataFrame({"name": train["data_source"], "level": infos.map(lambda info: info["level"])})
    assert groups.value_counts().to_dict() == {
        ("reasoning_gym/chain_sum", 0): 11,
        ("reasoning_gym/chain_sum", 3): 11,
        ("reasoning_gym/gcd", 0): 10,
        ("reasoning_gym/gcd", 3): 10,
    }
    questions = [question(row) for _, row in pd.concat([train, validation]).iterrows()]
    assert len(set(questions)) == 50
    easy, hard = (train[(groups["name"] == "reasoning_gym/chain_sum") & (groups["level"] == level)] for level in (0, 3))
    assert easy.apply(question, axis=1).str.len().max() < hard.apply(question, axis=1).str.len().min()


@needs_package
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path):
    sizes = ("--datasets", "gcd", "--train-size", 5, "--validation-size", 2)
    first, again, other = (
        make(tmp_path / name, *sizes, "--seed", seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert (tmp_path / "a" / "train.parquet").read_bytes() == (tmp_path / "b" / "train.parquet").read_bytes()
    assert len(first) == len(again)
    assert first.apply(question, axis=1).tolist() != other.apply(question, axis=1).tolist()


@needs_package
def test_a_response_is_scored_by_what_stands_in_its_last_tags(tmp_path):
    train, _ = make(tmp_path, "--datasets", "gcd", "--train-size", 3, "--validation-size", 1)
    row = train.iloc[0]
    right = row["reward_model"]["ground_truth"]
    assert question(row).endswith("as in <answer>42</answer>.")
    assert score(row, f"It is <answer>0</answer> or rather\n<answer> {right} </answer>.") == {"score": 1.0, "acc": True}
    for wrong in (f"<answer>{right}</answer> no, <answer>{right}1</answer>", right, "", "<answer></answer>"):
        assert score(row, wrong) == {"score": 0.0, "acc": False}


@needs_package
def test_a_plain_answer_is_the_whole_response_and_part_of_the_credit_can_be_had(tmp_path):
    train, _ = make(
        tmp_path, "--datasets", "chain_sum", "--answer-format", "plain", "--train-size", 3, "--validation-size", 1
    )
    row = train.iloc[0]
    right = row["reward_model"]["ground_truth"]
    assert "<answer>" not in question(row)
    assert score(row, f" {right}\n")["acc"] and not score(row, f"It is {right}")["acc"]
    partly = score(row, f"It is {right}", partial_credit=True)
    assert 0 < partly["score"] < 1 and partly["acc"] is False
    assert score(row, f"It is {right}")["score"] == 0.0


@needs_package
@pytest.mark.parametrize(
    "name", ["arc_agi", "countdown", "graph_color", "mini_sudoku", "word_sorting", "zebra_puzzles"]
)
def test_verifiers_of_every_kind_get_what_they_need(name, tmp_path):
    """Also where the metadata hold tuples or keys that are numbers (arc_agi, graph_color)."""
    import reasoning_gym

    train, _ = make(tmp_path, "--datasets", name, "--train-size", 2, "--validation-size", 1)
    packed = json.loads(train.iloc[0]["extra_info"]["reasoning_gym"])
    kept = REWARD.decode(packed)["entry"]
    dataset = reasoning_gym.create_dataset(name, seed=0, size=30)
    original = next(entry for entry in map(dataset.__getitem__, range(30)) if entry["question"] == kept["question"])
    assert kept == original
    answer = original["answer"] or "1"
    assert REWARD.score_answer(answer, train.iloc[0]["extra_info"]) == dataset.score_answer(answer, original)
    if original["answer"]:
        assert dataset.score_answer(answer, original) == 1.0


def test_the_reward_function_is_accepted_by_the_start_up_checks():
    if find_spec("ray") is None:
        pytest.skip("needs what verl needs")
    from recipe.knapsack.dry_run.step_plan import compose
    from verl.trainer.config.checks import Facts
    from verl.trainer.config.checks.rewards import check_reward_function

    path = f"custom_reward_function.path={FOLDER / 'reasoning_gym_reward.py'}"
    for overrides in ([path], [path, "+custom_reward_function.reward_kwargs.partial_credit=true"]):
        config, _ = compose(overrides)
        check_reward_function(config, Facts())
