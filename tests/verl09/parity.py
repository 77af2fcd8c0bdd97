"""Learning curves of the tiny task on verl 0.5 and on verl 0.9, from the same weights, over seeds.

    .venv-verl09/bin/python tests/verl09/parity.py --python-of-verl05 .venv/bin/python --output runs/parity

Both train with Knapsack-GRPO on the same prompts; the order of the prompts and the sampling are each trainer's own. A
training that is finished stays; the table shows what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from small_run import command, environment, make_tiny_task  # noqa: E402  (after the path is set)

from knapsack_rl.metrics_file import read_metrics  # noqa: E402
from recipe.knapsack.tiny.tiny_runs import ACCURACY  # noqa: E402
from recipe.knapsack.tiny.warm_start import MANIFEST, WarmStartSettings, make_warm_start  # noqa: E402

PROMPTS, PROMPTS_OF_A_STEP, ROLLOUTS = 256, 32, 8
STEPS, VALIDATE_EVERY = 32, 16
VERSIONS = ("0.5", "0.9")
# The same keys in both trainers.
SHARED = (
    f"data.train_batch_size={PROMPTS_OF_A_STEP}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={PROMPTS_OF_A_STEP}",
    f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={PROMPTS_OF_A_STEP * ROLLOUTS}",
    f"actor_rollout_ref.rollout.n={ROLLOUTS}",
    "actor_rollout_ref.rollout.val_kwargs.n=4",
    "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
    "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
    "actor_rollout_ref.actor.optim.lr=2e-4",
    "actor_rollout_ref.actor.optim.weight_decay=0.0",
    "actor_rollout_ref.actor.optim.betas=[0.9,0.99]",
    "actor_rollout_ref.actor.clip_ratio_low=0.2",
    "actor_rollout_ref.actor.clip_ratio_high=0.28",
    "exploration.n_up=64",
    f"trainer.total_training_steps={STEPS}",
    "trainer.total_epochs=1000",
    f"trainer.test_freq={VALIDATE_EVERY}",
    "trainer.val_before_train=true",
    "trainer.save_freq=-1",
)


def main() -> None:
    """Train what is not finished, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-of-verl05", type=Path, required=True, help="of the environment with verl 0.5")
    parser.add_argument("--output", type=Path, default=Path("runs/parity"), help="folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS, help="(default: both)")
    options = parser.parse_args()
    output = options.output.resolve()
    for seed, version in tqdm([(seed, version) for seed in options.seeds for version in options.versions]):
        folder = output / f"seed_{seed}"
        if curve(folder / version) is None:
            train(version, prepare(folder / "task", seed), folder / version, seed, options.python_of_verl05)
    print(
        table({version: [curve(output / f"seed_{seed}" / version) for seed in options.seeds] for version in VERSIONS})
    )


def prepare(folder: Path, seed: int) -> Path:
    """The model and the prompts of a seed, in a form that both take."""
    if not (folder / MANIFEST).exists():
        make_warm_start(folder / "warm_start", WarmStartSettings(seed=seed), show_progress=False)
        make_tiny_task(folder / "warm_start", folder, PROMPTS)
        write_for_transformers_4(folder / "model", folder / "model_for_transformers_4")
        shutil.copy(folder / "warm_start" / MANIFEST, folder)
    return folder


def write_for_transformers_4(model: Path, folder: Path) -> None:
    """Copy a model, with the names that version 4 of transformers knows in the configuration of its tokenizer."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    file.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2))


def train(version: str, task: Path, run_folder: Path, seed: int, python_of_verl05: Path) -> None:
    """One training; its output goes to ``train.log`` in its folder.

    Raises:
        SystemExit: it failed.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    if version == "0.9":
        start = command(task, run_folder, *SHARED, f"data.seed={seed}", "actor_rollout_ref.rollout.max_num_seqs=256")
        variables = environment(task)
    else:
        start = ["bash", str(ROOT / "examples" / "knapsack_trainer" / "run_tiny_cpu.sh"), *SHARED]
        start += [f"+data.seed={seed}", f"exploration.seed={seed}"]
        start.append(f"actor_rollout_ref.model.path={task}/model_for_transformers_4")
        python = str(Path(os.path.abspath(python_of_verl05)))
        variables = {**os.environ, "PYTHON": python, "RUN_FOLDER": str(run_folder), "WARM_START": str(task)}
    with (run_folder / "train.log").open("w") as log:
        status = subprocess.run(start, env=variables, cwd=run_folder, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        sys.exit(f"error: the training on verl {version} ended with status {status}; see {run_folder / 'train.log'}")


def curve(run_folder: Path) -> list[float] | None:
    """Held-out accuracy (avg@4) before the training and every 16 steps, of a finished training."""
    if not (run_folder / "metrics.jsonl").exists():
        return None
    metrics = read_metrics(run_folder)
    accuracies = {record["step"]: record[ACCURACY] for record in metrics if ACCURACY in record}
    due = range(0, STEPS + 1, VALIDATE_EVERY)
    return [accuracies[step] for step in due] if set(due) <= set(accuracies) else None


def table(curves: dict[str, list[list[float] | None]]) -> str:
    """Mean and spread over seeds of each verl's curve, and their difference, as Markdown."""
    lines = ["| step | verl 0.5 | verl 0.9 | difference, paired by seed |", "|---|---|---|---|"]
    finished = [pair for pair in zip(*(curves[version] for version in VERSIONS), strict=True) if None not in pair]
    if not finished:
        return "no seed is finished on both"
    old, new = np.array(finished, dtype=float).transpose(1, 0, 2)
    for column, step in enumerate(range(0, STEPS + 1, VALIDATE_EVERY)):
        cells = [_spread(values[:, column]) for values in (old, new, new - old)]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f} +- {values.std(ddof=1) if len(values) > 1 else 0.0:.3f}"


if __name__ == "__main__":
    main()
