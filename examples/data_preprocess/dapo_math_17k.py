r"""Turns DAPO-Math-17K, the training set of the paper, into verl's parquet schema, each prompt once.

    python3 examples/data_preprocess/dapo_math_17k.py --output-dir $RAY_DATA_HOME/dapo_math_17k

The hub's file holds every prompt 100 times, told apart by ``extra_info.index``: 17,917 different ones, the number the
paper gives. A few hundred of them have the same text as another; ``--unique-by text`` keeps the first of each text.
The prompts ask for ``Answer: ...`` in the last line. ``--prompt boxed``, the default, asks for ``\boxed{}`` instead, as
the evaluation sets do and as the models of the paper were taught; ``--prompt original`` leaves them as they are.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from verl_parquet import (
    BOXED_INSTRUCTION,
    HubSource,
    PreprocessingError,
    check_count,
    load_source,
    make_row,
    write_parquet,
)

DATA_SOURCE = "dapo_math_17k"
SOURCE = HubSource("BytedTsinghua-SIA/DAPO-Math-17k", "train", (17_917,))
COLUMNS = {"prompt", "reward_model"}
ORIGINAL_WRAPPING = re.compile(
    r"\s*Solve the following math problem step by step\..*?\n\n(?P<problem>.*?)\s*Remember to put your answer[^\n]*\s*",
    re.DOTALL,
)


def first_of_each_prompt(dataset: datasets.Dataset, by_text: bool) -> datasets.Dataset:
    """The rows of ``dataset`` whose prompt did not occur before, in order.

    Args:
        dataset: rows of the hub's file.
        by_text: whether the text tells prompts apart; otherwise ``extra_info.index`` does, where every row has one.
    """
    identities = None if by_text else _identities(dataset)
    if identities is not None:
        return dataset.select(_first_positions(identities))
    texts = pd.Series([prompt[0]["content"] for prompt in dataset["prompt"]])
    return dataset.select(_first_positions(texts))


def _identities(dataset: datasets.Dataset) -> pd.Series | None:
    """``extra_info.index`` of every row, or None where there is none."""
    if "index" not in (dataset.features.get("extra_info") or {}):
        return None
    table: pa.Table = dataset.select_columns(["extra_info"]).with_format("arrow")[:]
    identities = pc.struct_field(table["extra_info"], "index").to_pandas()
    return None if identities.isna().any() else identities


def _first_positions(identities: pd.Series) -> list[int]:
    return identities.index[~identities.duplicated()].tolist()


def boxed_prompt(content: str) -> str:
    r"""``content`` without its request for an "Answer:" line, and with one for a box.

    >>> boxed_prompt("What is 1+1?").splitlines()
    ['What is 1+1?', '', 'Please reason step by step, and put your final answer within \\boxed{}.']
    """
    wrapped = ORIGINAL_WRAPPING.fullmatch(content)
    problem = wrapped.group("problem") if wrapped else content
    return f"{problem.strip()}\n\n{BOXED_INSTRUCTION}"


def training_rows(prompts: Iterable[dict[str, Any]], prompt_style: str) -> list[dict[str, Any]]:
    """Rows in verl's schema from ``prompts``, rows of the hub's file."""
    rows = []
    for index, prompt in enumerate(prompts):
        content = prompt["prompt"][0]["content"]
        rows.append(
            make_row(
                data_source=DATA_SOURCE,
                content=boxed_prompt(content) if prompt_style == "boxed" else content,
                ground_truth=str(prompt["reward_model"]["ground_truth"]),
                ability="math",
                index=index,
                split="train",
                source_id=str((prompt.get("extra_info") or {}).get("index", index)),
            )
        )
    return rows


def describe_repetition(rows: list[dict[str, Any]]) -> str:
    """A line on how many texts occur in several rows, and how many of those have different ground truths."""
    truths = defaultdict(list)
    for row in rows:
        truths[row["prompt"][0]["content"]].append(row["reward_model"]["ground_truth"])
    contradictory = sum(len(set(answers)) > 1 for answers in truths.values())
    return f"{len(truths):,} different texts; {contradictory:,} of them occur with different ground truths"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, help="parquet, json, jsonl or csv file, or folder; default: the hub")
    parser.add_argument("--output-dir", type=Path, default=Path(os.environ.get("RAY_DATA_HOME", "data")) / DATA_SOURCE)
    parser.add_argument("--prompt", choices=["boxed", "original"], default="boxed")
    parser.add_argument("--unique-by", choices=["index", "text"], default="index")
    parser.add_argument("--allow-other-counts", action="store_true", help="warn where the counts are not as expected")
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    try:
        dataset = load_source(DATA_SOURCE, SOURCE, arguments.input)
        if not COLUMNS <= set(dataset.column_names):
            raise PreprocessingError(f"{DATA_SOURCE}: columns {sorted(COLUMNS)} needed, got {dataset.column_names}")
        prompts = first_of_each_prompt(dataset, by_text=False)
        print(f"{DATA_SOURCE}: {len(dataset):,} rows read")
        print(check_count(DATA_SOURCE, len(prompts), SOURCE.counts, arguments.allow_other_counts))
    except PreprocessingError as error:
        sys.exit(str(error))
    if arguments.unique_by == "text":
        prompts = first_of_each_prompt(prompts, by_text=True)
    rows = training_rows(prompts, arguments.prompt)
    print(f"{DATA_SOURCE}: {describe_repetition(rows)}")
    write_parquet(rows, arguments.output_dir / "train.parquet")
    print(f"wrote {len(rows):,} rows to {arguments.output_dir / 'train.parquet'}")


if __name__ == "__main__":
    main()
