"""Evaluates checkpoints: avg@16 and pass@k per benchmark and on average, as the paper's Table 2.

    python -m recipe.knapsack.evaluate runs/knapsack_grpo_Qwen2.5-Math-7B runs/homogeneous_grpo_Qwen2.5-Math-7B \\
        --data $RAY_DATA_HOME/math_evaluation/evaluation.parquet --output runs/evaluation --base

Each CHECKPOINT is a folder global_step_N, or the folder of a run, which stands for its latest whole checkpoint. What
the run trained with (rollout engine, lengths, sampling in validation, rewards, machines) is taken from its config.yaml,
and any Hydra override may be appended: ``data.max_response_length=7168``, ``trainer.n_gpus_per_node=4``. The number of
GPUs may differ from training's: the checkpoint is first merged into one model, in bfloat16 as the rollout engine
computes.

The paper's final evaluation allows sequences of 4K tokens for Qwen2.5-Math-7B, 8K for the Qwen3-4B models and 16K for
DeepSeek-R1-Distill-Qwen-1.5B.

Writes, for each model, a folder with every response (``responses/0.jsonl``), the configuration and the log, and
``scores.json`` with all scores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow.parquet
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from transformers import AutoTokenizer

from recipe.knapsack.evaluate.benchmark_scores import BenchmarkScore, format_table, score_benchmarks
from verl.utils.checkpoint_state import whole_checkpoints

ROOT = Path(__file__).parents[3]
CONFIG_NAME = "evaluation"
RESPONSES_FILE = Path("responses") / "0.jsonl"
_LINES_OF_LOG_SHOWN = 30


class EvaluationError(RuntimeError):
    """An evaluation that cannot be done; the message says what to change."""


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        name: of its row in the table and of its folder in the output.
        run_folder: of the run whose settings it is evaluated with.
        checkpoint: folder global_step_N; None stands for the model that the run started from.
    """

    name: str
    run_folder: Path
    checkpoint: Path | None


def find_subject(path: Path) -> Subject:
    """Return the checkpoint that ``path`` stands for: itself, or the latest of a run.

    Raises:
        EvaluationError: there is no whole checkpoint, or no config.yaml beside it.
    """
    checkpoint = path.absolute()
    if not checkpoint.name.startswith("global_step_"):
        checkpoints = whole_checkpoints(checkpoint)
        if not checkpoints:
            raise EvaluationError(
                f"{path} holds no whole checkpoint: expected a run's folder or a folder global_step_N."
            )
        checkpoint = checkpoints[0]
    if not (checkpoint / "actor").is_dir():
        raise EvaluationError(f"{path} is no checkpoint: it has no folder actor.")
    run_folder = checkpoint.parent
    if not (run_folder / "config.yaml").is_file():
        raise EvaluationError(f"{run_folder} has no config.yaml, from which a run's settings are taken.")
    return Subject(f"{run_folder.name}-{checkpoint.name}", run_folder, checkpoint)


# --- Configuration ----------------------------------------------------------------------------------------------------


def evaluation_config(
    subject: Subject, overrides: Sequence[str], data: Sequence[str], responses: int, model: Path, output: Path
) -> DictConfig:
    """The run's configuration, with ``overrides``, turned into one that validates ``model`` once and ends.

    Args:
        subject: whose run to take the configuration from.
        overrides: Hydra overrides.
        data: parquet files to evaluate on; empty for the run's own validation files.
        responses: to each prompt.
        model: folder of a transformers model.
        output: folder that gets the responses.

    Raises:
        HydraException: an override is malformed or its key unknown.
        EvaluationError: the run trained with Megatron or LoRA, or several responses would be greedy and so the same.
    """
    with hydra.initialize_config_dir(str(subject.run_folder), version_base=None):
        config = hydra.compose("config", overrides=list(overrides))
    _refuse_unsupported(config)
    _refuse_equal_responses(config, responses)
    files = list(data) or config.data.val_files
    rows = _smallest_batch(config)
    lengths = config.data.max_prompt_length, config.data.max_response_length
    changes: dict[str, Any] = {
        "data.train_files": files,
        "data.val_files": files,
        "data.val_batch_size": None,
        "data.validation_shuffle": False,
        "data.filter_overlong_prompts": False,
        "data.truncation": "error",
        "actor_rollout_ref.model.path": str(model),
        "actor_rollout_ref.rollout.val_kwargs.n": responses,
        # A run's saved configuration is resolved: what depended on the lengths does not follow their overrides.
        "actor_rollout_ref.rollout.prompt_length": lengths[0],
        "actor_rollout_ref.rollout.response_length": lengths[1],
        "actor_rollout_ref.rollout.max_num_batched_tokens": max(
            config.actor_rollout_ref.rollout.max_num_batched_tokens, sum(lengths)
        ),
        "trainer.val_only": True,
        "trainer.val_before_train": True,
        "trainer.resume_mode": "disable",
        "trainer.logger": [],
        "trainer.default_local_dir": str(output),
        "trainer.validation_data_dir": str(output / RESPONSES_FILE.parent),
        # Nothing is trained: the smallest batch that the workers can split, and no models besides the policy.
        "data.train_batch_size": rows,
        "data.gen_batch_size": rows,
        "actor_rollout_ref.rollout.n": 1,
        "actor_rollout_ref.actor.ppo_mini_batch_size": rows,
        "actor_rollout_ref.actor.use_dynamic_bsz": False,
        "actor_rollout_ref.actor.ppo_micro_batch_size": None,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 1,
        "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz": False,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size": None,
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu": 1,
        "actor_rollout_ref.actor.use_kl_loss": False,
        "algorithm.use_kl_in_reward": False,
        "algorithm.adv_estimator": "grpo",
        "exploration.allocator": "homogeneous",
        "exploration.total_budget": None,
        "exploration.rollout_is_cap": None,
        "exploration.dynamic_sampling.enable": False,
    }
    if config.trainer.device != "cpu":
        # The merged weights are in bfloat16; a master copy in float32 would only take memory from the rollout engine.
        changes["actor_rollout_ref.actor.fsdp_config.model_dtype"] = "bfloat16"
    for key, value in changes.items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


def _refuse_unsupported(config: DictConfig) -> None:
    model, strategy = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.strategy
    if strategy not in ("fsdp", "fsdp2"):
        raise EvaluationError(
            f"The run trained with actor_rollout_ref.actor.strategy={strategy}: only fsdp and fsdp2 are evaluated here."
        )
    if model.get("lora_rank", 0):
        raise EvaluationError(
            f"The run trained LoRA adapters (actor_rollout_ref.model.lora_rank={model.lora_rank}), which verl's merger "
            "leaves apart from the model: only full weights are evaluated here."
        )


def _refuse_equal_responses(config: DictConfig, responses: int) -> None:
    sampling = config.actor_rollout_ref.rollout.val_kwargs
    if responses > 1 and (not sampling.do_sample or sampling.temperature == 0):
        key = "actor_rollout_ref.rollout.val_kwargs"
        raise EvaluationError(
            f"The run validates greedily ({key}.do_sample={str(sampling.do_sample).lower()}, temperature="
            f"{sampling.temperature}), so that the {responses} responses to a prompt would all be the same: append "
            f"{key}.do_sample=true {key}.temperature=0.6 (the paper's), or give --responses 1."
        )


def _smallest_batch(config: DictConfig) -> int:
    workers = config.trainer.nnodes * config.trainer.n_gpus_per_node
    rollout = config.actor_rollout_ref.rollout
    return math.lcm(workers, rollout.agent.num_workers) if rollout.mode == "async" else workers


# --- Prompts and responses --------------------------------------------------------------------------------------------


def read_prompts(config: DictConfig) -> list[dict[str, Any]]:
    """Return the rows of the evaluation files, in the order in which the trainer validates them.

    Raises:
        EvaluationError: a file does not exist or lacks a column.
    """
    files = config.data.val_files
    rows: list[dict[str, Any]] = []
    columns = [config.data.prompt_key, config.data.reward_fn_key]
    for path in files if isinstance(files, ListConfig) else [files]:
        path = Path(path).expanduser()
        if not path.is_file():
            raise EvaluationError(
                f"--data: {path} does not exist; examples/data_preprocess/math_evaluation.py makes it."
            )
        lacking = set(columns) - set(pyarrow.parquet.read_schema(path).names)
        if lacking:
            raise EvaluationError(f"--data: {path} has no column {', '.join(sorted(lacking))}: expected verl's schema.")
        rows += pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    return rows


def check_prompt_lengths(config: DictConfig, prompts: Sequence[dict[str, Any]], model: Path) -> None:
    """Refuse prompts that do not fit, which the trainer would drop, or fail on after the engine has started.

    Raises:
        EvaluationError: telling the longest, and the lengths that would do within the same sequence length.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=config.data.get("trust_remote_code", False))
    lengths = [
        len(tokenizer.apply_chat_template(row[config.data.prompt_key], add_generation_prompt=True)) for row in prompts
    ]
    limit, longest = config.data.max_prompt_length, max(lengths)
    if longest <= limit:
        return
    remaining = limit + config.data.max_response_length - longest
    raise EvaluationError(
        f"{sum(length > limit for length in lengths)} of {len(lengths)} prompts are longer than data.max_prompt_length="
        f"{limit} tokens. Append data.max_prompt_length={longest}, and data.max_response_length={remaining} if the "
        "sequence may not grow."
    )


def read_outcomes(file: Path, prompts: int, responses: int, success_threshold: float) -> np.ndarray:
    """Return whether each response is right, (prompts, responses) bool, from the trainer's dump of a validation.

    A response is right if its ``acc``, or else its ``score``, exceeds ``success_threshold``.

    Raises:
        EvaluationError: the dump does not hold ``responses`` responses to each prompt, in order.
    """
    with file.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    if len(entries) != prompts * responses:
        raise EvaluationError(f"{file} holds {len(entries)} responses, expected {prompts} prompts times {responses}.")
    inputs = np.array([entry["input"] for entry in entries], dtype=object).reshape(prompts, responses)
    if not (inputs == inputs[:, :1]).all():
        raise EvaluationError(f"{file} does not hold the responses to a prompt one after the other.")
    outcomes = np.array([entry.get("acc", entry["score"]) for entry in entries], dtype=float)
    return (outcomes > success_threshold).reshape(prompts, responses)


# --- Running ----------------------------------------------------------------------------------------------------------


def _run(module: str, arguments: Sequence[str], log_path: Path) -> None:
    """Run a Python module in a process of its own, its output appended to ``log_path``."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log_path.open("a") as log:
        command = [sys.executable, "-m", module, *arguments]
        status = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    if status != 0:
        tail = log_path.read_text(errors="replace").splitlines()[-_LINES_OF_LOG_SHOWN:]
        raise EvaluationError("\n".join([*tail, f"{module} ended with status {status}; all it said is in {log_path}"]))


def merge_checkpoint(checkpoint: Path, target: Path, log_path: Path) -> Path:
    """Return a folder with the checkpoint's weights as one transformers model in bfloat16, made in ``target``.

    A checkpoint that was saved with ``hf_model`` holds such a folder already.

    Raises:
        EvaluationError: verl's merger failed.
    """
    saved = checkpoint / "actor" / "huggingface"
    if any(saved.glob("*.safetensors")):
        return saved
    arguments = ["merge", "--backend", "fsdp", "--local_dir", str(checkpoint / "actor"), "--target_dir", str(target)]
    _run("verl.model_merger", arguments, log_path)
    return target


def evaluate(
    subject: Subject,
    output: Path,
    *,
    overrides: Sequence[str] = (),
    data: Sequence[str] = (),
    responses: int = 16,
    ks: Sequence[int] | None = None,
) -> dict[str, BenchmarkScore]:
    """Generate ``responses`` to every prompt with the subject and score them; everything is kept in ``output``.

    Args:
        subject: the model.
        output: folder for configuration, log and responses; the merged model is deleted in the end.
        overrides: Hydra overrides of the run's configuration.
        data: parquet files in verl's schema; empty for the run's own validation files.
        responses: N, to each prompt.
        ks: the k of pass@k; by default the powers of two up to N.

    Returns:
        data source -> score.

    Raises:
        EvaluationError: the evaluation cannot be done, or failed.
        HydraException: an override is malformed or its key unknown.
    """
    output.mkdir(parents=True, exist_ok=True)
    log_path = output / "evaluation.log"
    log_path.write_text("")
    (output / RESPONSES_FILE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix="merged-") as folder:
        model = Path(folder)
        config = evaluation_config(subject, overrides, data, responses, model, output)
        prompts = read_prompts(config)
        if subject.checkpoint is None:
            model = Path(_starting_model(subject))
        else:
            model = merge_checkpoint(subject.checkpoint, model, log_path)
        OmegaConf.update(config, "actor_rollout_ref.model.path", str(model))
        check_prompt_lengths(config, prompts, model)
        OmegaConf.save(config, output / f"{CONFIG_NAME}.yaml")
        location = [f"--config-path={output}", f"--config-name={CONFIG_NAME}"]
        _run("verl.trainer.main_ppo", [*location, f"hydra.run.dir={output}", "hydra.output_subdir=null"], log_path)
    threshold = config.exploration.success_threshold
    is_right = read_outcomes(output / RESPONSES_FILE, len(prompts), responses, threshold)
    sources = [row[config.data.reward_fn_key] for row in prompts]
    return score_benchmarks(sources, is_right, powers_of_two(responses) if ks is None else ks)


def _starting_model(subject: Subject) -> str:
    return str(OmegaConf.load(subject.run_folder / "config.yaml").actor_rollout_ref.model.path)


def powers_of_two(limit: int) -> list[int]:
    """The powers of two from 1 to ``limit``.

    >>> powers_of_two(16)
    [1, 2, 4, 8, 16]
    """
    return [2**power for power in range(limit.bit_length())]


# --- Command line -----------------------------------------------------------------------------------------------------


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "arguments", nargs="+", metavar="CHECKPOINT|OVERRIDE", help="checkpoints or runs, and Hydra overrides KEY=VALUE"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for responses and scores")
    # No option takes a list: it would swallow the overrides after it.
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="PARQUET",
        help="file to evaluate on, may be repeated (default: the run's validation files)",
    )
    parser.add_argument("--responses", type=int, default=16, metavar="N", help="to each prompt (default: %(default)s)")
    parser.add_argument("--pass-at", type=_integers, metavar="K,K,...", help="default: the powers of two up to N")
    parser.add_argument("--base", action="store_true", help="also evaluate the model that the first run started from")
    options = parser.parse_intermixed_args(arguments)
    options.overrides = [text for text in options.arguments if "=" in text and not Path(text).exists()]
    options.checkpoints = [Path(text) for text in options.arguments if text not in options.overrides]
    if not options.checkpoints:
        parser.error("no checkpoint is given")
    if options.responses < 1:
        parser.error(f"--responses {options.responses} is not accepted: expected at least 1")
    for k in options.pass_at or ():
        if not 1 <= k <= options.responses:
            parser.error(f"--pass-at {k} is not accepted: expected 1 to --responses {options.responses}")
    return options


def _subjects(options: argparse.Namespace) -> list[Subject]:
    subjects = [find_subject(path) for path in options.checkpoints]
    if options.base:
        model = _starting_model(subjects[0])
        subjects.insert(0, Subject(Path(model).name, subjects[0].run_folder, None))
    names = [subject.name for subject in subjects]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise EvaluationError(f"Two checkpoints are named {repeated.pop()}: evaluate them with different --output.")
    return subjects


def run(options: argparse.Namespace) -> str:
    """Evaluate as the command line asks; returns the table."""
    output = options.output.absolute()
    models: dict[str, dict[str, BenchmarkScore]] = {}
    for subject in _subjects(options):
        print(f"Evaluating {subject.name}: {output / subject.name / 'evaluation.log'}", file=sys.stderr)
        models[subject.name] = evaluate(
            subject,
            output / subject.name,
            overrides=options.overrides,
            data=[str(Path(path).absolute()) for path in options.data],
            responses=options.responses,
            ks=options.pass_at,
        )
        document = {
            name: {source: asdict(score) for source, score in scores.items()} for name, scores in models.items()
        }
        (output / "scores.json").write_text(json.dumps(document, indent=2) + "\n")
    return format_table(models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        print(run(_parse(arguments)))
    except (EvaluationError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
