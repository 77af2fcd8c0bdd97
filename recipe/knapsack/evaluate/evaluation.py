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

Writes, for each model, a folder with every response (``responses/0.jsonl``), the configuration, the log and the success
rate of each prompt (``success_rates.parquet``), which ``exploration.success_rate.prior`` and the planner read. The file
``scores.json`` has all scores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from knapsack_rl.run_folder import CONFIG_FILE
from recipe.knapsack.evaluate.benchmark_scores import BenchmarkScore, format_table, score_benchmarks
from recipe.knapsack.evaluate.evaluation_config import (
    CONFIG_NAME,
    RESPONSES_FILE,
    EvaluationError,
    Subject,
    evaluation_config,
    find_subject,
)
from recipe.knapsack.evaluate.evaluation_data import (
    check_prompt_lengths,
    read_outcomes,
    read_prompts,
    write_success_rates,
)
from recipe.knapsack.processes.child_processes import ended_by_sigterm, run_logged

ROOT = Path(__file__).parents[3]
_LINES_OF_LOG_SHOWN = 30
SUCCESS_RATES_FILE = "success_rates.parquet"


def _run(module: str, arguments: Sequence[str], log_path: Path, what: str) -> None:
    """Run a Python module in a process of its own, its output appended to ``log_path``."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    status = run_logged([sys.executable, "-m", module, *arguments], environment, log_path, what)
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
    _run("verl.model_merger", arguments, log_path, "merging the checkpoint")
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
        folders = [f"--config-path={output}", f"hydra.run.dir={output}", "hydra.output_subdir=null"]
        what = f"{len(prompts) * responses:,} responses to {len(prompts):,} prompts"
        _run("verl.trainer.main_ppo", [f"--config-name={CONFIG_NAME}", *folders], log_path, what)
    threshold = config.exploration.success_threshold
    is_right = read_outcomes(output / RESPONSES_FILE, len(prompts), responses, threshold)
    write_success_rates(output / SUCCESS_RATES_FILE, prompts, config.data.prompt_key, is_right)
    sources = [row[config.data.reward_fn_key] for row in prompts]
    return score_benchmarks(sources, is_right, powers_of_two(responses) if ks is None else ks)


def _starting_model(subject: Subject) -> str:
    return str(OmegaConf.load(subject.run_folder / CONFIG_FILE).actor_rollout_ref.model.path)


def powers_of_two(limit: int) -> list[int]:
    """The powers of two from 1 to ``limit``.

    >>> powers_of_two(16)
    [1, 2, 4, 8, 16]
    """
    return [2**power for power in range(limit.bit_length())]


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
        with ended_by_sigterm():
            print(run(_parse(arguments)))
    except (EvaluationError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
