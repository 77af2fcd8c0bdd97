r"""Turns the benchmarks of the paper (Table 2) into verl's parquet schema, for validation and for the final evaluation.

    python3 examples/data_preprocess/math_evaluation.py --output-dir $RAY_DATA_HOME/math_evaluation

writes ``evaluation.parquet``, all problems of AIME 2024 and 2025 (one benchmark, as in the paper), AMC, MATH-500,
Minerva, OlympiadBench and GPQA-diamond, and ``validation.parquet``, at most 100 of each, drawn with ``--seed``, for the
validation during training. ``data_source`` names the benchmark, and verl reports its metrics by it.

GPQA-diamond has to be unlocked on its page on the hub; ``--benchmarks`` leaves out what you do not have. From local
files: ``--input aime_2024=PATH --input aime_2025=PATH ...``, with the names that ``--help`` lists.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_parquet import (
    BOXED_INSTRUCTION,
    HubError,
    HubSource,
    PreprocessingError,
    check_count,
    load_source,
    make_row,
    value_of,
    write_parquet,
)

VALIDATION_SIZE = 100
CHOICE_INSTRUCTION = r"Please reason step by step, and put the letter of the correct choice within \boxed{}."
QUESTION_COLUMNS = ("problem", "question", "Problem", "Question")
ANSWER_COLUMNS = ("answer", "Answer", "final_answer", "ground_truth")
IDENTITY_COLUMNS = ("unique_id", "id", "ID", "Record ID", "problem_idx")


@dataclass(frozen=True)
class Problem:
    """A prompt with its ground truth."""

    content: str
    ground_truth: str
    ability: str


Reader = Callable[[str, Mapping[str, Any], int], Problem]


def read_problem(name: str, row: Mapping[str, Any], seed: int) -> Problem:
    """A problem with one final answer, whatever the data set calls its columns."""
    question = str(value_of(row, name, QUESTION_COLUMNS)).strip()
    ground_truth = answer_text(value_of(row, name, ANSWER_COLUMNS))
    return Problem(f"{question}\n\n{BOXED_INSTRUCTION}", ground_truth, "math")


def answer_text(answer: Any) -> str:
    r"""The ground truth as a string: a whole float without its point, several answers joined by commas.

    >>> answer_text(142.0), answer_text(["$1$", "$2$"]), answer_text(r"\frac{1}{2}")
    ('142', '1, 2', '\\frac{1}{2}')
    """
    if isinstance(answer, list | tuple):
        return ", ".join(answer_text(part) for part in answer)
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    text = str(answer).strip()
    is_one_formula = len(text) > 1 and text[0] == text[-1] == "$" and text.count("$") == 2
    return text[1:-1].strip() if is_one_formula else text


def read_choice(name: str, row: Mapping[str, Any], seed: int) -> Problem:
    """A question of GPQA with its four choices in an order that depends on the question and ``seed`` only."""
    question = str(value_of(row, name, QUESTION_COLUMNS[::-1])).strip()
    correct = str(value_of(row, name, ("Correct Answer",))).strip()
    choices = [correct] + [str(value_of(row, name, (f"Incorrect Answer {n}",))).strip() for n in (1, 2, 3)]
    random.Random(f"{seed} {question}").shuffle(choices)
    lines = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True))
    letter = "ABCD"[choices.index(correct)]
    return Problem(f"{question}\n\n{lines}\n\n{CHOICE_INSTRUCTION}", letter, "science")


@dataclass(frozen=True)
class Benchmark:
    """A column of the paper's Table 2: the data sets it consists of and how to read a row."""

    sources: dict[str, HubSource]
    read: Reader = read_problem


BENCHMARKS = {
    "aime_2024_2025": Benchmark(
        {
            "aime_2024": HubSource("HuggingFaceH4/aime_2024", "train", (30,)),
            "aime_2025": HubSource("math-ai/aime25", "test", (30,)),
        }
    ),
    "amc": Benchmark({"amc": HubSource("AI-MO/aimo-validation-amc", "train", (83,))}),
    "math_500": Benchmark({"math_500": HubSource("HuggingFaceH4/MATH-500", "test", (500,))}),
    "minerva_math": Benchmark({"minerva_math": HubSource("math-ai/minervamath", "test", (272,))}),
    "olympiad_bench": Benchmark(
        {"olympiad_bench": HubSource("Hothan/OlympiadBench", "train", (674, 675), "OE_TO_maths_en_COMP")}
    ),
    "gpqa_diamond": Benchmark(
        {"gpqa_diamond": HubSource("Idavidrein/gpqa", "train", (198,), "gpqa_diamond")}, read_choice
    ),
}
SOURCE_NAMES = [name for benchmark in BENCHMARKS.values() for name in benchmark.sources]


def benchmark_rows(
    data_source: str, inputs: Mapping[str, Path], seed: int, allow_other_counts: bool
) -> list[dict[str, Any]]:
    """All rows of a benchmark in verl's schema; prints and checks the count of each of its data sets.

    Raises:
        PreprocessingError: a data set cannot be read, or has another count or other columns than expected.
    """
    benchmark = BENCHMARKS[data_source]
    rows: list[dict[str, Any]] = []
    for name, source in benchmark.sources.items():
        dataset = load_source(name, source, inputs.get(name))
        print(check_count(name, len(dataset), source.counts, allow_other_counts))
        for position, row in enumerate(dataset):
            problem = benchmark.read(name, row, seed)
            identity = next((row[column] for column in IDENTITY_COLUMNS if row.get(column) is not None), position)
            source_id = f"{name}/{identity}"
            rows.append(
                make_row(
                    data_source, problem.content, problem.ground_truth, problem.ability, len(rows), "test", source_id
                )
            )
    return rows


def validation_rows(rows: list[dict[str, Any]], size: int, seed: int) -> list[dict[str, Any]]:
    """``size`` of ``rows`` drawn without replacement, or all of them where there are fewer, in order."""
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(size, len(rows))))
    return [rows[position] for position in chosen]


def input_argument(argument: str) -> tuple[str, Path]:
    name, equals, path = argument.partition("=")
    if not equals or name not in SOURCE_NAMES:
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=PATH with NAME one of {', '.join(SOURCE_NAMES)}")
    return name, Path(path)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--input",
        type=input_argument,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"read a data set from a file or folder instead of the hub; NAME is one of {', '.join(SOURCE_NAMES)}",
    )
    parser.add_argument("--benchmarks", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument(
        "--output-dir", type=Path, default=Path(os.environ.get("RAY_DATA_HOME", "data")) / "math_evaluation"
    )
    parser.add_argument("--validation-size", type=int, default=VALIDATION_SIZE, help="rows a benchmark at most")
    parser.add_argument("--seed", type=int, default=0, help="draws the validation rows, shuffles the choices of GPQA")
    parser.add_argument("--allow-other-counts", action="store_true", help="warn where the counts are not as expected")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    evaluation: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    for data_source in arguments.benchmarks:
        try:
            rows = benchmark_rows(data_source, dict(arguments.input), arguments.seed, arguments.allow_other_counts)
        except HubError as error:
            others = " ".join(name for name in arguments.benchmarks if name != data_source)
            sys.exit(f"{error}" + (f"; or leave it out by --benchmarks {others}" if others else ""))
        except PreprocessingError as error:
            sys.exit(str(error))
        evaluation += rows
        chosen = validation_rows(rows, arguments.validation_size, arguments.seed)
        print(f"{data_source}: {len(chosen):,} of {len(rows):,} for validation")
        validation += chosen
    for name, rows in {"evaluation": evaluation, "validation": validation}.items():
        path = arguments.output_dir / f"{name}.parquet"
        write_parquet(rows, path)
        print(f"wrote {len(rows):,} rows to {path}")


if __name__ == "__main__":
    main()
