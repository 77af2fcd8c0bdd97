"""The wandb workspace of a project: the curves that tell whether Knapsack RL works, in five sections.

    python -m recipe.knapsack.dashboard --entity TEAM --project knapsack_rl     # creates it and prints its address
    python -m recipe.knapsack.dashboard --print                                 # shows the specification, no network

Needs ``pip install wandb-workspaces==0.3.10``, and ``wandb login`` to create the workspace. What each metric means
and what to do when it looks wrong is in ``knapsack_rl.metrics.METRICS``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from knapsack_rl.charts import BUDGET_HISTOGRAM, BUDGETS_BY_SUCCESS_RATE
from knapsack_rl.classes import DIFFICULTIES

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

LIBRARY = "wandb-workspaces==0.3.10"
DEFAULT_PROJECT = "knapsack_rl"


@dataclass(frozen=True)
class Lines:
    """A panel of curves over training steps: one of ``metrics`` each, or all that match ``pattern``."""

    title: str
    metrics: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True)
class Pictures:
    """A panel that shows a logged picture, with a slider over the steps at which it was logged."""

    title: str
    key: str


SECTIONS: Mapping[str, tuple[Lines | Pictures, ...]] = {
    "learning": (
        Lines("Validation", pattern="^val-core/.*"),
        Lines("Mean score: every prompt counted once", ("training/prompt_mean_score",)),
        Lines("Mean score: every rollout counted once", ("critic/score/mean",)),
        Lines("Entropy", ("actor/entropy",)),
        Lines("Gradient norm", ("actor/grad_norm",)),
        Lines("Response length (tokens)", ("response_length/mean", "response_length/max")),
        Lines("Share of advantages clipped", ("actor/adv_clip_ratio",)),
        Lines("Rollout and training probabilities: largest difference", ("training/rollout_probs_diff_max",)),
    ),
    "exploration": (
        Lines("Effective-gradient ratio", ("training/effective_gradient_ratio", "training/effective_prompt_ratio")),
        Lines("Prompts in the gradient", ("gradient_share/prompts",)),
        Lines("Cumulative rollouts", ("training/cumulative_rollouts",)),
        Lines("Prompts all right, all wrong", ("prompt/all_positive_ratio", "prompt/all_negative_ratio")),
        Lines("Prompts with a success", ("prompt/positive_coverage_ratio",)),
        Lines(
            "Prompts by difficulty",
            tuple(f"prompt/{difficulty.name}_ratio" for difficulty in DIFFICULTIES),
        ),
    ),
    "allocation": (
        Lines("Budgets", (BUDGET_HISTOGRAM,)),
        Pictures("Budgets by success rate", BUDGETS_BY_SUCCESS_RATE),
        Lines("Largest and smallest budget", ("allocation/max_budget", "allocation/min_budget")),
        Lines(
            "Mean budget by estimate",
            (
                "allocation/mean_budget_unsolved",
                "allocation/mean_budget_mixed",
                "allocation/mean_budget_solved",
            ),
        ),
        Lines("Prompts at a bound", ("allocation/at_n_low_ratio", "allocation/at_n_up_ratio")),
        Lines("Rollouts placed by the fallback", ("allocation/budget_fallback",)),
        Lines("Covered prompts", ("allocation/covered_prompts",)),
    ),
    "beliefs": (
        Lines("Brier score", ("beliefs/brier_score",)),
        Lines("Calibration error", ("beliefs/calibration_error",)),
        Lines("Estimated and observed success rate", ("beliefs/mean_estimate", "beliefs/mean_observed")),
        Lines(
            "Effective-gradient ratio: predicted and observed",
            (
                "allocation/predicted_effective_gradient_ratio",
                "allocation/observed_effective_gradient_ratio",
            ),
        ),
        Lines("Unseen prompts", ("allocation/unseen_ratio",)),
    ),
    "speed": (
        Lines("Step (seconds)", ("timing_s/step",)),
        Lines(
            "Phases of a step (seconds)",
            ("timing_s/gen", "timing_s/old_log_prob", "timing_s/update_actor", "timing_s/reward"),
        ),
        Lines("Added by the allocation (seconds)", ("timing_s/allocate", "timing_s/observe")),
        Lines("Tokens per second and worker", ("perf/throughput",)),
        Lines(
            "Imbalance over workers (1 = even)",
            ("dispatch/row_imbalance", "dispatch/token_imbalance", "dispatch/time_imbalance"),
        ),
        Lines("Workers per prompt", ("dispatch/workers_per_prompt",)),
    ),
}
"""Panels of each section. Every metric is logged by every run with the knapsack allocator that reaches its second
epoch, validates, and logs its budget histogram."""


def build_workspace(entity: str, project: str, name: str) -> Workspace:
    """Build the workspace, without saving it.

    Args:
        entity: wandb user or team that owns the project.
        project: ``trainer.project_name`` of the runs.
        name: what the workspace is called in the project.

    Raises:
        SystemExit: the library that describes workspaces is not installed.
    """
    workspaces, reports = _import_workspaces()

    def panel(content: Lines | Pictures) -> Any:
        if isinstance(content, Pictures):
            return reports.MediaBrowser(title=content.title, media_keys=[content.key], num_columns=1)
        return reports.LinePlot(title=content.title, y=list(content.metrics), metric_regex=content.pattern)

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            workspaces.Section(name=section, panels=[panel(content) for content in contents], is_open=True)
            for section, contents in SECTIONS.items()
        ],
    )


def specification(workspace: Workspace) -> dict[str, Any]:
    """The workspace as wandb stores it."""
    return workspace._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json")


def _import_workspaces() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic, about how the library declares its fields
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("wandb_workspaces"):
            raise
        sys.exit(f"error: the dashboard needs wandb's workspaces library: pip install {LIBRARY}")
    return workspaces, reports


def create_workspace(entity: str | None, project: str, name: str) -> str:
    """Create the workspace in wandb; ``entity`` None stands for the login's default.

    Returns:
        The workspace's address.

    Raises:
        SystemExit: there is no login, wandb cannot be reached, or it refuses the workspace; the message says which.
    """
    _import_workspaces()
    import wandb
    from wandb.errors import Error as WandbError

    try:
        entity = entity or wandb.Api().default_entity
        if not entity:
            sys.exit("error: this wandb login has no default entity: give --entity.")
        return build_workspace(entity, project, name).save().url
    except (WandbError, ValueError, OSError) as error:
        sys.exit(f"error: wandb did not create the workspace: {error} (is `wandb login` done?)")


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entity", help="wandb user or team (default: the login's)")
    parser.add_argument("--project", default=DEFAULT_PROJECT, help="trainer.project_name of the runs")
    parser.add_argument("--name", default="Knapsack RL", help="name of the workspace")
    parser.add_argument("--print", action="store_true", help="print the specification and create nothing")
    options = parser.parse_args(arguments)
    if options.print:
        print(json.dumps(specification(build_workspace(options.entity or "", options.project, options.name)), indent=2))
        return
    print(f"Workspace: {create_workspace(options.entity, options.project, options.name)}")


if __name__ == "__main__":
    main()
