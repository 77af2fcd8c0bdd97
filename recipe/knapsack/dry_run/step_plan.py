"""The dry run of a training script: checks its whole configuration on any machine and prints the plan of a step.

    DRY_RUN=1 bash examples/knapsack_trainer/run_knapsack_grpo_7b.sh [HYDRA OVERRIDES]
    python -m recipe.knapsack.step_plan [HYDRA OVERRIDES]

Errors end it with exit status 2, one line for each. Data, model and logins that are not on this machine are named, and
are no error; keys added by ``+`` that verl does not read are warned of. ``GPU_MEMORY_GB`` (default 80) is the memory of
a GPU that the estimates are compared with.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from knapsack_rl.messages import one_line
from recipe.knapsack.dry_run.preflight import Missing, find_errors, find_missing, find_unknown_keys
from recipe.knapsack.planner.model_size import model_size
from recipe.knapsack.planner.step_plan_text import format_plan, memory_warnings
from recipe.knapsack.planner.training_step import DEFAULT_GPU_MEMORY_GB, plan_step
from verl.trainer.config.composition import COMPOSITION_ERRORS, explain_composition_error
from verl.utils.quiet import prints_to_log

logger = logging.getLogger(__name__)


def compose(overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Return the trainer's configuration with ``overrides``, and without.

    Raises:
        HydraException: an override is malformed or its key unknown.
    """
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=list(overrides)), hydra.compose("knapsack_trainer")


def gpu_memory_from_environment() -> float:
    """Return ``GPU_MEMORY_GB`` as a number.

    Raises:
        ValueError: it is no number above 0.
    """
    text = os.environ.get("GPU_MEMORY_GB", str(DEFAULT_GPU_MEMORY_GB))
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise ValueError(f"GPU_MEMORY_GB={text} is not accepted: expected a number above 0.")
    return gigabytes


def _describe_missing(missing: Sequence[Missing]) -> list[str]:
    return ["Missing on this machine, and needed to train:", *(f"  {item}" for item in missing)] if missing else []


def dry_run(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Check the configuration and plan a step.

    Returns:
        What is to be printed, and the reasons why the configuration cannot run.

    Raises:
        HydraException, OmegaConfBaseException: the configuration cannot be composed.
        ValueError: ``GPU_MEMORY_GB`` is no number, or the model's ``config.json`` cannot be understood.
    """
    config, defaults = compose(overrides)
    gpu_memory_gb = gpu_memory_from_environment()
    model = config.actor_rollout_ref.model
    size = model_size(str(model.path), trust_remote_code=bool(model.trust_remote_code))
    with prints_to_log(logger):
        errors = find_errors(config, defaults, size)
    if errors:
        return "", errors
    plan = plan_step(config, size, gpu_memory_gb)
    lines = [format_plan(plan, str(model.path), gpu_memory_gb)]
    lines += [f"WARNING: {warning}" for warning in memory_warnings(plan, gpu_memory_gb)]
    lines += [
        f"WARNING: {key} is not known to verl 0.5.0: nothing reads it unless your own code does"
        for key in find_unknown_keys(config, defaults)
    ]
    lines += _describe_missing(find_missing(config))
    lines.append("The configuration is accepted. Nothing was started: unset DRY_RUN to train.")
    return "\n".join(lines), []


def main(overrides: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        text, errors = dry_run(sys.argv[1:] if overrides is None else overrides)
    except COMPOSITION_ERRORS as error:
        text, errors = "", [explain_composition_error(error)]
    except (ValueError, OSError) as error:
        text, errors = "", [one_line(error)]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    if text:
        print(text)
    return 2 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
