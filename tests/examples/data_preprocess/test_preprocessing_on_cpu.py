"""The preprocessing scripts, run as users run them, on small files in the schemas of the hub."""

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from warm_commands import run_warm

from recipe.knapsack.dry_run.step_plan import compose
from verl.trainer.config.checks import Facts
from verl.trainer.config.checks.files import check_data_files
from verl.trainer.config.checks.rewards import check_reward_function
from verl.utils.reward_score import default_compute_score, math_reward

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "data_preprocess"
WRAPPED = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script without network."""
    return run_warm([FOLDER / script, *arguments])


def write(rows: list[dict], path: Path) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dapo_row(problem: str, answer: str, index: str | None) -> dict:
    row = {
        "data_source": "math_dapo",
        "prompt": [{"content": WRAPPED.format(problem), "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
    }
    return row if index is None else {**row, "extra_info": {"index": index}}


@pytest.fixture
def dapo_file(tmp_path):
    """Three prompts 100 times each, shuffled; the third has the text of the first, but another answer."""
    prompts = [("What is $1+1$?", "2", "a"), ("Find\n\n$x$.", "34", "b"), ("What is $1+1$?", "3", "c")]
    return write([dapo_row(*prompt) for _ in range(100) for prompt in prompts], tmp_path / "dapo.parquet")


def preprocess_dapo(file: Path, *arguments: object) -> tuple[list[dict], str]:
    result = run("dapo_math_17k.py", "--input", file, "--output-dir", file.parent, "--allow-other-counts", *arguments)
    assert result.returncode == 0, result.stderr
    return pd.read_parquet(file.parent / "train.parquet").to_dict("records"), result.stdout


@pytest.mark.parametrize("module", ["dapo_math_17k", "math_evaluation"])
def test_examples_in_the_documentation_hold(module, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_each_prompt_of_dapo_is_kept_once_in_verls_schema(dapo_file):
    rows, _ = preprocess_dapo(dapo_file)
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["2", "34", "3"]
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert rows[1]["data_source"] == "dapo_math_17k"
    assert rows[1]["reward_model"]["style"] == "rule"
    assert [row["extra_info"] for row in rows] == [
        {"index": index, "split": "train", "source_id": identity} for index, identity in enumerate("abc")
    ]
    assert [dict(message) for message in rows[1]["prompt"]] == [
        {
            "role": "user",
            "content": "Find\n\n$x$.\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]


def test_original_prompts_can_be_kept(dapo_file):
    rows, _ = preprocess_dapo(dapo_file, "--prompt", "original")
    assert rows[0]["prompt"][0]["content"] == WRAPPED.format("What is $1+1$?")


def test_prompts_with_the_same_text_can_be_merged_and_are_reported(dapo_file):
    rows, output = preprocess_dapo(dapo_file)
    assert len(rows) == 3
    assert "2 different texts; 1 of them occur with different ground truths" in output
    rows, _ = preprocess_dapo(dapo_file, "--unique-by", "text")
    assert [row["extra_info"]["source_id"] for row in rows] == ["a", "b"]


def test_without_an_index_the_text_tells_prompts_apart(tmp_path):
    file = write([dapo_row(problem, "1", None) for problem in "xyxzy"], tmp_path / "dapo.parquet")
    assert len(preprocess_dapo(file)[0]) == 3


def test_another_count_of_prompts_is_an_error_unless_allowed(dapo_file):
    result = run("dapo_math_17k.py", "--input", dapo_file, "--output-dir", dapo_file.parent)
    assert result.returncode == 1
    assert result.stderr.strip() == (
        "dapo_math_17k: 3 rows, expected 17,917; if that is intended, pass --allow-other-counts"
    )
    assert not (dapo_file.parent / "train.parquet").exists()


def test_the_papers_count_of_prompts_is_accepted_and_each_is_kept_once(tmp_path):
    """As in the hub's file, which holds every prompt 100 times, but fewer times, and a few oftener than the rest."""
    prompts = [(f"What is ${number}+1$?", str(number + 1), f"id-{number}") for number in range(17_917)]
    repeated = [*prompts, *prompts[:100], *reversed(prompts)]
    file = write([dapo_row(*prompt) for prompt in repeated], tmp_path / "dapo.parquet")
    result = run("dapo_math_17k.py", "--input", file, "--output-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "dapo_math_17k: 35,934 rows read",
        "dapo_math_17k: 17,917 rows, as expected",
        "dapo_math_17k: 17,917 different texts; 0 of them occur with different ground truths",
        f"wrote 17,917 rows to {tmp_path / 'train.parquet'}",
    ]
    rows = pd.read_parquet(tmp_path / "train.parquet")
    assert len(rows) == 17_917
    assert [info["source_id"] for info in rows["extra_info"]] == [identity for _, _, identity in prompts]
    assert [reward["ground_truth"] for reward in rows["reward_model"]] == [answer for _, answer, _ in prompts]


INPUTS = {
    "aime_2024.parquet": [
        {"id": 60 + n, "problem": f"AIME {n}", "solution": "s", "answer": f"{n:03}", "url": "u", "year": "2024"}
        for n in range(30)
    ],
    "aime_2025.jsonl": [{"problem": f"AIME 25 {n}", "answer": str(n), "id": str(n)} for n in range(30)],
    "amc.parquet": [{"id": n, "problem": f"AMC {n}", "answer": float(n), "url": "u"} for n in range(83)],
    "math_500.jsonl": [
        {"problem": f"MATH {n}", "solution": "s", "answer": rf"\frac{{{n}}}{{7}}", "subject": "Algebra", "level": 1}
        | {"unique_id": f"test/algebra/{n}.json"}
        for n in range(500)
    ],
    "minerva_math.jsonl": [{"question": f"Minerva {n}", "answer": rf"{n}e-5"} for n in range(272)],
    "olympiad_bench.parquet": [
        {"id": n, "question": f"Olympiad {n}", "solution": ["s"], "final_answer": [f"${n}$, ${n + 1}$"]}
        | {"is_multiple_answer": True, "unit": None, "answer_type": "Numerical"}
        for n in range(674)
    ],
    "gpqa_diamond.csv": [
        {"Record ID": f"r{n}", "Question": f"GPQA {n}", "Correct Answer": f"right {n}\n"}
        | {f"Incorrect Answer {k}": f"wrong {n} {k}" for k in (1, 2, 3)}
        for n in range(198)
    ],
}


@pytest.fixture(scope="module")
def evaluation_arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    files = [write(rows, folder / name) for name, rows in INPUTS.items()]
    return [argument for file in files for argument in ("--input", f"{file.stem}={file}")]


def preprocess_evaluation(arguments: list[str], output: Path, *more: object) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    result = run("math_evaluation.py", *arguments, "--output-dir", output, *more)
    assert result.returncode == 0, result.stderr
    return pd.read_parquet(output / "evaluation.parquet"), pd.read_parquet(output / "validation.parquet"), result.stdout


@pytest.fixture(scope="module")
def evaluation(evaluation_arguments, tmp_path_factory):
    return preprocess_evaluation(evaluation_arguments, tmp_path_factory.mktemp("out"))


def test_all_problems_for_evaluation_and_at_most_100_a_benchmark_for_validation(evaluation):
    full, subset, output = evaluation
    counts = {"aime_2024_2025": 60, "amc": 83, "math_500": 500, "minerva_math": 272, "olympiad_bench": 674}
    counts["gpqa_diamond"] = 198
    assert full["data_source"].value_counts().to_dict() == counts
    assert subset["data_source"].value_counts().to_dict() == {name: min(100, n) for name, n in counts.items()}
    assert output.count("as expected") == 7
    said = [line for line in output.splitlines() if line.endswith("for validation")]
    assert said == [f"{name}: {min(100, n)} of {n} for validation" for name, n in counts.items()]


def test_every_benchmark_is_scored_and_its_own_ground_truth_is_right(evaluation):
    full, _, _ = evaluation
    training_sources = {name for name in math_reward.MATH_DATA_SOURCES if name.startswith(("numina_", "dapo_math"))}
    benchmarks = math_reward.MATH_DATA_SOURCES - training_sources | math_reward.CHOICE_DATA_SOURCES
    assert set(full["data_source"]) == benchmarks
    for _, row in full.groupby("data_source").head(3).iterrows():
        truth = row["reward_model"]["ground_truth"]
        assert default_compute_score(row["data_source"], rf"\boxed{{{truth}}}", truth)["score"] == 1.0


def test_ground_truths(evaluation):
    full, _, _ = evaluation
    truths = {source: rows.iloc[1]["reward_model"]["ground_truth"] for source, rows in full.groupby("data_source")}
    del truths["gpqa_diamond"]
    assert truths == {
        "aime_2024_2025": "001",
        "amc": "1",
        "math_500": r"\frac{1}{7}",
        "minerva_math": "1e-5",
        "olympiad_bench": "$1$, $2$",
    }


def test_choices_are_shuffled_and_the_letter_is_that_of_the_right_one(evaluation):
    full, _, _ = evaluation
    questions = full[full["data_source"] == "gpqa_diamond"].reset_index()
    for number, row in questions.iterrows():
        letter = row["reward_model"]["ground_truth"]
        assert f"\n({letter}) right {number}\n" in row["prompt"][0]["content"]
        assert all(f"wrong {number} {k}" in row["prompt"][0]["content"] for k in (1, 2, 3))
    letters = questions["reward_model"].map(lambda reward: reward["ground_truth"]).value_counts()
    assert set(letters.index) == set("ABCD")
    assert letters.min() > 198 / 8


def test_rows_say_where_they_come_from_and_differ(evaluation):
    full, _, _ = evaluation
    identities = full["extra_info"].map(lambda info: info["source_id"])
    assert identities.is_unique
    assert identities.iloc[0] == "aime_2024/60"
    assert {"math_500/test/algebra/7.json", "gpqa_diamond/r3", "minerva_math/5"} <= set(identities)


def test_the_seed_decides_the_subset(evaluation, evaluation_arguments, tmp_path):
    _, subset, _ = evaluation
    _, same, _ = preprocess_evaluation(evaluation_arguments, tmp_path / "same")
    _, other, _ = preprocess_evaluation(evaluation_arguments, tmp_path / "other", "--seed", 1)
    contents = [[row[0]["content"] for row in frame["prompt"]] for frame in (subset, same, other)]
    assert contents[0] == contents[1] != contents[2]


def test_benchmarks_can_be_chosen(evaluation_arguments, tmp_path):
    full, _, _ = preprocess_evaluation(evaluation_arguments, tmp_path, "--benchmarks", "amc", "math_500")
    assert set(full["data_source"]) == {"amc", "math_500"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "p", "answer": 1.0}] * 3, "amc: 3 rows, expected 83"),
        ([{"text": "p", "answer": 1.0}] * 83, "amc: no column 'problem' or 'question' or 'Problem' or 'Question'"),
        ([{"problem": "p", "answer": None}] * 83, "amc: a row has nothing in the column 'answer'"),
    ],
    ids=["count", "column", "empty"],
)
def test_unexpected_files_are_refused_in_one_line(rows, message, tmp_path):
    file = write(rows, tmp_path / "amc.jsonl")
    result = run("math_evaluation.py", "--benchmarks", "amc", "--input", f"amc={file}", "--output-dir", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.parquet"))


@pytest.mark.parametrize("script", ["dapo_math_17k.py", "math_evaluation.py"])
def test_without_network_the_error_is_one_line_that_says_what_to_do(script, tmp_path):
    result = run(script, "--output-dir", tmp_path)
    assert result.returncode == 1
    assert "huggingface-cli download" in result.stderr and result.stderr.count("\n") == 1


def test_a_benchmark_that_the_hub_does_not_give_can_be_left_out_as_the_error_says(evaluation_arguments, tmp_path):
    at = next(n for n, argument in enumerate(evaluation_arguments) if argument.startswith("gpqa_diamond="))
    arguments = evaluation_arguments[: at - 1] + evaluation_arguments[at + 1 :]
    result = run("math_evaluation.py", *arguments, "--output-dir", tmp_path)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "huggingface-cli login" in result.stderr
    _, _, way_out = result.stderr.partition("leave it out by ")
    full, _, _ = preprocess_evaluation(arguments, tmp_path, *way_out.split())
    assert "gpqa_diamond" not in set(full["data_source"]) and full["data_source"].nunique() == 5


def test_an_input_of_unknown_name_is_refused(tmp_path):
    result = run("math_evaluation.py", "--input", "amc23=x.parquet")
    assert result.returncode == 2
    assert "is not NAME=PATH with NAME one of aime_2024, aime_2025" in result.stderr


def test_a_missing_file_is_named(tmp_path):
    result = run("dapo_math_17k.py", "--input", tmp_path / "nowhere.parquet")
    assert result.returncode == 1
    assert result.stderr.strip() == f"dapo_math_17k: {tmp_path / 'nowhere.parquet'} does not exist"


def test_the_readmes_own_data_are_what_the_start_up_checks_accept(tmp_path):
    readme = (ROOT / "README.md").read_text()
    section = readme[readme.index("### Your own data") : readme.index("<!-- own data: end -->")]
    writer, reward = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    subprocess.run([sys.executable, "-c", writer], cwd=tmp_path, check=True)
    (tmp_path / "my_reward.py").write_text(reward)

    file = tmp_path / "data" / "my_sums" / "train.parquet"
    rows = pd.read_parquet(file)
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) <= set(rows.columns)
    settings = {
        "data.train_files": file,
        "data.val_files": file,
        "data.train_batch_size": len(rows),
        "custom_reward_function.path": tmp_path / "my_reward.py",
        "actor_rollout_ref.model.path": "some/model",
    }
    config, _ = compose([f"{key}={value}" for key, value in settings.items()])
    check_data_files(config, Facts())
    check_reward_function(config, Facts())
