r"""Turns data sets of reasoning-gym, procedural tasks with verifiers of their own, into verl's parquet schema.

    python3 examples/data_preprocess/reasoning_gym.py --datasets chain_sum gcd --levels 0 2 4 --output-dir data/gym

writes ``train.parquet`` and ``validation.parquet``; no prompt is in both. Rewards are reasoning-gym's own:
``custom_reward_function.path=examples/data_preprocess/reasoning_gym_reward.py``. ``--list`` names all data sets.

Levels are those of reasoning-gym's curricula, 0 the easiest; every level gives as many prompts. Without ``--levels``
each data set has its default difficulty. ``--set chain_sum.max_terms=3`` sets any key of a data set's configuration.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from reasoning_gym_reward import FORMATS, INSTALL, KEY, encode, score_answer
from tqdm import tqdm
from verl_parquet import PreprocessingError, make_row, write_parquet

# A data set that repeats itself more often than this has no more prompts to give.
_CANDIDATES_PER_PROMPT = 10


def import_reasoning_gym() -> ModuleType:
    """The installed package, which has the name of this script: the script's own folder is left out of the search.

    Raises:
        PreprocessingError: it is not installed.
    """
    here, searched = Path(__file__).resolve().parent, sys.path
    sys.path = [folder for folder in searched if Path(folder or os.curdir).resolve() != here]
    try:
        return importlib.import_module("reasoning_gym")
    except ModuleNotFoundError as error:
        raise PreprocessingError(f"{error}: install reasoning-gym with {INSTALL}") from error
    finally:
        sys.path = searched


def configuration(gym: ModuleType, name: str, level: int | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a data set at a level of its curriculum, with settings of the user's.

    Args:
        gym: the package.
        name: of the data set.
        level: at which every attribute of its curriculum is put, or at its hardest where it has fewer; None = defaults.
        settings: keys that replace those.

    Raises:
        PreprocessingError: no such data set, no curriculum, an unknown key, or a value that the data set refuses.
    """
    if name not in gym.factory.DATASETS:
        raise PreprocessingError(f"{name} is no data set of reasoning-gym; --list names all")
    config_class = gym.factory.DATASETS[name][1]
    known = [entry.name for entry in dataclasses.fields(config_class) if entry.name not in ("seed", "size")]
    for key in settings:
        if key not in known:
            raise PreprocessingError(f"{name}.{key} is not a known key; known keys: {', '.join(known)}")
    chosen = dict(settings)
    if level is not None:
        chosen = {**_at_level(gym, name, level, known), **chosen}
    try:
        config = config_class(**chosen)
        config.validate()
    except (AssertionError, ValueError, TypeError) as error:
        raise PreprocessingError(f"{name} does not accept {chosen}: {' '.join(str(error).split())}") from error
    return chosen


def _at_level(gym: ModuleType, name: str, level: int, known: Sequence[str]) -> dict[str, Any]:
    if name not in gym.factory.CURRICULA:
        raise PreprocessingError(f"{name} has no levels; leave --levels out, and set its keys by --set")
    curriculum = gym.factory.create_curriculum(name)
    for attribute in curriculum.attributes.values():
        curriculum.set_attr_level(attribute.name, min(level, len(attribute.levels) - 1))
    ranges = gym.coaching.base_curriculum
    context = ranges.DefaultCurriculumContext(mode=ranges.RangeAttributeMode.UPPER_BOUND)
    config = curriculum.generate_configuration(context=context)
    return {key: getattr(config, key) for key in known}


def entries(
    gym: ModuleType, name: str, config: Mapping[str, Any], seed: int, wanted: int, seen: set[str]
) -> Iterator[dict[str, Any]]:
    """Yield ``wanted`` entries of a data set whose questions are not among those ``seen``, and add these to them.

    Raises:
        PreprocessingError: it does not have so many.
    """
    size = wanted * _CANDIDATES_PER_PROMPT
    dataset = gym.create_dataset(name, **config, seed=seed, size=size)
    found = 0
    for index in range(size):
        if found == wanted:
            return
        entry = dataset[index]
        if entry["question"] not in seen:
            seen.add(entry["question"])
            found += 1
            yield entry
    raise PreprocessingError(
        f"{name} with {dict(config)} gave {found} different prompts in {size} tries, {wanted} are wanted: "
        "ask for fewer, or for another level"
    )


def row_of(
    entry: Mapping[str, Any], name: str, config: Mapping[str, Any], level: int | None, answer_format: str
) -> dict[str, Any]:
    """A row in verl's schema; ``extra_info`` has as JSON what the verifier needs (`reasoning_gym_reward`)."""
    content = entry["question"] + FORMATS[answer_format]
    answer = "" if entry["answer"] is None else entry["answer"]
    row = make_row(f"reasoning_gym/{name}", content, answer, ability="reasoning", index=0, split="", source_id="")
    task = {"dataset": name, "config": config, "entry": dict(entry), "answer_format": answer_format}
    try:
        packed = json.dumps(encode(task), sort_keys=True)
    except TypeError as error:
        raise PreprocessingError(f"{name}: what its verifier needs cannot be kept as JSON: {error}") from error
    row["extra_info"].update({KEY: packed, "level": -1 if level is None else level})
    return row


def numbered(rows: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """The rows with their split and their number in it."""
    for index, row in enumerate(rows):
        row["extra_info"].update(index=index, split=split, source_id=f"{row['data_source']}/{split}/{index}")
    return list(rows)


def shares(total: int, parts: int) -> list[int]:
    """``total`` in ``parts`` that differ by at most one.

    >>> shares(10, 3)
    [4, 3, 3]
    """
    return [total // parts + (part < total % parts) for part in range(parts)]


def make_rows(gym: ModuleType, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(training rows, validation rows), in the order of data sets and levels.

    Raises:
        PreprocessingError: a setting is not accepted, or a data set has too few prompts.
    """
    settings = _settings(arguments)
    variants = [(name, level) for name in arguments.datasets for level in arguments.levels or [None]]
    configs = [configuration(gym, name, level, settings.get(name, {})) for name, level in variants]
    train: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    seen: set[str] = set()  # of all variants, since levels may overlap
    sizes = zip(shares(arguments.train_size, len(variants)), shares(arguments.validation_size, len(variants)))
    of_variants = zip(variants, configs, sizes)
    for (name, level), config, (num_train, num_validation) in tqdm(
        of_variants, desc="data sets", total=len(variants), delay=1.0, leave=False, disable=None
    ):
        wanted = num_train + num_validation
        rows = [
            row_of(entry, name, config, level, arguments.answer_format)
            for entry in entries(gym, name, config, arguments.seed, wanted, seen)
        ]
        validation += rows[:num_validation]
        train += rows[num_validation:]
    return numbered(train, "train"), numbered(validation, "validation")


def _settings(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    settings: dict[str, dict[str, Any]] = {}
    for text in arguments.set:
        key, has_value, value = text.partition("=")
        name, has_key, key = key.partition(".")
        if not has_value or not has_key:
            raise PreprocessingError(f"--set {text}: expected DATASET.KEY=VALUE, as in chain_sum.max_terms=3")
        if name not in arguments.datasets:
            raise PreprocessingError(f"--set {text}: {name} is not among --datasets {' '.join(arguments.datasets)}")
        settings.setdefault(name, {})[key] = yaml.safe_load(value)
    return settings


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """How many rows there are of each data set, and of how many the given answer is not scored as right."""
    counts: dict[str, int] = {}
    unscored = 0
    for row in rows:
        counts[row["data_source"]] = counts.get(row["data_source"], 0) + 1
        unscored += score_answer(row["reward_model"]["ground_truth"], row["extra_info"]) < 1.0
    told = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    return told + (f"; the answer of {unscored:,} is not known or not scored as right" if unscored else "")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="names of reasoning-gym's data sets")
    parser.add_argument("--levels", nargs="+", type=int, metavar="LEVEL", help="of difficulty, from 0 (default: none)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="DATASET.KEY=VALUE", help="a key of a data set's configuration"
    )
    parser.add_argument("--train-size", type=int, default=1024, help="training prompts, in all (default: %(default)s)")
    parser.add_argument("--validation-size", type=int, default=256, help="the same (default: %(default)s)")
    parser.add_argument(
        "--answer-format",
        choices=sorted(FORMATS),
        default="tags",
        help="where the answer stands: between tags that the prompt asks for, or it is the whole response (plain)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path(os.environ.get("RAY_DATA_HOME", "data")) / "reasoning_gym"
    )
    parser.add_argument("--list", action="store_true", help="name all data sets and end")
    options = parser.parse_args(arguments)
    if not options.list and not options.datasets:
        parser.error("--datasets is needed: names of data sets, which --list shows")
    if options.train_size < 1 or options.validation_size < 1:
        parser.error("--train-size and --validation-size must be at least 1")
    if any(level < 0 for level in options.levels or []):
        parser.error(f"--levels must be at least 0, got {min(options.levels)}")
    if len(set(options.datasets)) < len(options.datasets) or len(set(options.levels or [])) < len(options.levels or []):
        parser.error("--datasets and --levels must name each but once")
    return options


def main() -> None:
    arguments = parse_arguments()
    try:
        gym = import_reasoning_gym()
        if arguments.list:
            print("\n".join(sorted(set(gym.factory.DATASETS) - {"composite"})))
            return
        train, validation = make_rows(gym, arguments)
    except PreprocessingError as error:
        sys.exit(str(error))
    for name, rows in (("train", train), ("validation", validation)):
        path = arguments.output_dir / f"{name}.parquet"
        write_parquet(rows, path)
        print(f"wrote {len(rows):,} rows to {path}: {describe(rows)}")


if __name__ == "__main__":
    main()
