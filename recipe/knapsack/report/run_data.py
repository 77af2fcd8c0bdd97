"""The folder of a training run, read for reports: metrics per step, history per prompt, configuration.

A run that still goes on, that crashed, or that lost a file gives what there is; what is missing is said in
`Run.problems`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from knapsack_rl.history import SCHEMA, HistoryError, read_history
from knapsack_rl.metrics_file import read_metrics
from knapsack_rl.run_folder import CONFIG_FILE, HISTORY_FOLDER, METRICS_FILE
from recipe.knapsack.report.prompt_dynamics import never_solved
from recipe.knapsack.report.run_names import shortest_names
from recipe.knapsack.report.settings import flatten_settings

__all__ = [
    "PHASES",
    "Run",
    "RunError",
    "RunSummary",
    "common_sources",
    "config_differences",
    "load_run",
    "load_runs",
    "summarize",
]


EFFECTIVE_RATIO = "training/effective_gradient_ratio"
ALL_POSITIVE = "prompt/all_positive_ratio"
ALL_NEGATIVE = "prompt/all_negative_ratio"
CUMULATIVE_ROLLOUTS = "training/cumulative_rollouts"
LARGEST_BUDGET = "allocation/max_budget"
EPOCH = "training/epoch"
STEP_SECONDS = "timing_s/step"

# The parts of a step that do not overlap, by what they do, with the keys of the trainer's timers.
ALLOCATION_PHASE = "allocation and task status"
PHASES: Mapping[str, tuple[str, ...]] = {
    "generation": ("gen", "gen_max"),
    "rewards": ("reward", "reward_wait"),
    "log-probs and values": ("old_log_prob", "ref", "values"),
    "advantages": ("adv",),
    "update": ("update_critic", "update_actor"),
    ALLOCATION_PHASE: ("allocate", "observe"),
    "validation": ("testing",),
    "checkpoints and dumps": ("save_checkpoint", "dump_rollout_generations", "keep_rollouts"),
}
OTHER_PHASE = "other"
# What a step does now and then, not at every step.
OCCASIONAL_PHASES = ("validation", "checkpoints and dumps")

_HELD_OUT_KEY = re.compile(r"val-(?:core|aux)/(?P<source>.+)/(?P<variable>acc|score|reward)/mean@(?P<count>\d+)")
_HELD_OUT_VARIABLES = ("reward", "score", "acc")  # the last one that a run has is its accuracy

# Settings that name a run instead of changing what it does.
_NAMING_SETTINGS = {
    "trainer.default_local_dir",
    "trainer.experiment_name",
    "trainer.project_name",
    "trainer.rollout_data_dir",
    "trainer.validation_data_dir",
}


class RunError(ValueError):
    """A folder is not that of a training run, or the runs cannot be told apart; the message says what to change."""


@dataclass(frozen=True)
class Run:
    """What is known of one training run.

    Attributes:
        name: how reports call the run.
        folder: where it lies.
        position: its place among the runs of a report, from 0; decides how it is drawn.
        metrics: one row per logged step, which is the index; one column of floats per metric, NaN where not logged.
        history: one row per prompt and step, with the columns of `exploration_history.SCHEMA`.
        config: the nested configuration; empty if unknown.
        problems: sentences about what could not be read.
    """

    name: str
    folder: Path
    position: int
    metrics: pd.DataFrame
    history: pd.DataFrame
    config: Mapping[str, Any]
    problems: tuple[str, ...] = ()

    def metric(self, key: str) -> pd.Series:
        """The logged values of ``key`` by step; empty if the run never logged it.

        >>> run = Run("a", Path(), 0, pd.DataFrame({"x": [1.0, np.nan]}, index=[1, 2]), pd.DataFrame(), {})
        >>> run.metric("x").to_dict(), len(run.metric("y"))
        ({1: 1.0}, 0)
        """
        if key not in self.metrics:
            return pd.Series(dtype=np.float64)
        return self.metrics[key].dropna()

    def setting(self, key: str) -> Any:
        """The value of the dotted ``key`` in the configuration; None if it is not there."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value

    @property
    def last_step(self) -> int:
        """The last step that metrics or history know; 0 if there is none."""
        steps = [frame.max() for frame in (self.metrics.index, self.history["step"]) if len(frame)]
        return int(max(steps, default=0))

    @property
    def planned_steps(self) -> int | None:
        """The number of steps the configuration asks for; None if it leaves that to the number of epochs."""
        planned = self.setting("trainer.total_training_steps")
        return planned if isinstance(planned, int) else None

    @cached_property
    def cumulative_rollouts(self) -> pd.Series:
        """Rollouts generated up to and including each logged step, from the metrics or else from the history.

        Empty if both lack them.
        """
        rollouts = self.metric(CUMULATIVE_ROLLOUTS)
        if rollouts.empty:
            rollouts = self.history.groupby("step")["budget"].sum().cumsum()
        return self._carried_to_logged_steps(rollouts)

    @cached_property
    def cumulative_seconds(self) -> pd.Series:
        """Wall time spent inside the training steps up to each logged step: start-up does not count, validation does.

        Empty if the run has no timings.
        """
        return self._carried_to_logged_steps(self.metric(STEP_SECONDS).cumsum())

    @cached_property
    def tokens_per_step(self) -> pd.Series:
        """Response tokens generated at each step that the history knows; empty without a history."""
        return self.history.groupby("step")["response_tokens"].sum()

    @cached_property
    def cumulative_tokens(self) -> pd.Series:
        """Response tokens generated up to and including each logged step, as far as the history reaches.

        Empty without a history.
        """
        tokens = self.tokens_per_step.cumsum()
        return self._carried_to_logged_steps(tokens).loc[: tokens.index.max()] if len(tokens) else tokens

    def _carried_to_logged_steps(self, by_step: pd.Series) -> pd.Series:
        if by_step.empty:
            return by_step
        return by_step.reindex(self.metrics.index.union(by_step.index)).ffill().fillna(0)

    @cached_property
    def held_out_accuracy(self) -> pd.DataFrame:
        """Held-out accuracy by step (rows) and data source (columns), named such as ``aime24 (avg@16)``.

        Of a source logged in several ways, ``acc`` goes before ``score`` and ``reward``, and more samples before fewer.
        """
        best: dict[str, tuple[tuple[int, int], str]] = {}
        for key in self.metrics.columns:
            match = _HELD_OUT_KEY.fullmatch(key)
            if match and not self.metric(key).empty:
                rank = (_HELD_OUT_VARIABLES.index(match["variable"]), int(match["count"]))
                best[match["source"]] = max(best.get(match["source"], ((-1, -1), "")), (rank, key))
        columns = {_held_out_name(source, *rank): self.metrics[key] for source, (rank, key) in sorted(best.items())}
        return pd.DataFrame(columns, index=self.metrics.index).dropna(how="all")

    @cached_property
    def steps_per_epoch(self) -> int | None:
        """The number of steps of a whole epoch; None if not even one epoch has ended."""
        epochs = self.metric(EPOCH)
        counts = epochs.groupby(epochs).size().iloc[:-1]
        return None if counts.empty else int(counts.median())

    @cached_property
    def phase_seconds(self) -> pd.DataFrame:
        """Seconds of each phase (columns: `PHASES`, then `OTHER_PHASE`) of each step (rows); empty without timings."""
        steps = self.metric(STEP_SECONDS)
        phases = pd.DataFrame(index=steps.index)
        if steps.empty:
            return phases
        for phase, timers in PHASES.items():
            present = [f"timing_s/{timer}" for timer in timers if f"timing_s/{timer}" in self.metrics]
            phases[phase] = self.metrics.loc[steps.index, present].fillna(0).sum(axis=1)
        phases[OTHER_PHASE] = (steps - phases.sum(axis=1)).clip(lower=0)
        return phases


def _held_out_name(source: str, variable_rank: int, count: int) -> str:
    variable = _HELD_OUT_VARIABLES[variable_rank]
    return f"{source} (avg@{count})" if variable == "acc" else f"{source} ({variable} avg@{count})"


# --- Reading ----------------------------------------------------------------------------------------------------------


def load_runs(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[Run]:
    """Read several runs.

    Args:
        folders: their folders.
        names: how to call them; None = by as much of their paths as tells them apart.

    Raises:
        RunError: a folder is not that of a run, the number of names differs from that of folders, or two are equal.
    """
    folders = [Path(folder) for folder in folders]
    if names is None:
        names = shortest_names(folders)
    if len(names) != len(folders):
        raise RunError(f"{len(names)} names for {len(folders)} runs: give every run a name, or none")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise RunError(f"more than one run is called {', '.join(map(repr, repeated))}: give each a name of its own")
    named = zip(folders, names, strict=True)
    return [load_run(folder, name, position) for position, (folder, name) in enumerate(named)]


def load_run(folder: Path, name: str | None = None, position: int = 0) -> Run:
    """Read one run.

    Raises:
        RunError: the folder does not exist, or holds neither metrics nor a history.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder: expected the folder of a run (trainer.default_local_dir)")
    if not (folder / METRICS_FILE).exists() and not (folder / HISTORY_FOLDER).is_dir():
        raise RunError(
            f"{folder} is not the folder of a run: it holds neither {METRICS_FILE} nor {HISTORY_FOLDER}/; "
            "expected the value of trainer.default_local_dir"
        )
    problems: list[str] = []
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        position=position,
        metrics=_load_metrics(folder, problems),
        history=_load_history(folder / HISTORY_FOLDER, problems),
        config=_load_config(folder / CONFIG_FILE, problems),
        problems=tuple(problems),
    )


def _load_metrics(folder: Path, problems: list[str]) -> pd.DataFrame:
    try:
        records = read_metrics(folder)
    except FileNotFoundError:
        problems.append(f"There is no {METRICS_FILE}: nothing that is measured per step is shown.")
        records = []
    except ValueError as error:
        problems.append(f"Damaged lines of {METRICS_FILE} are left out, the first for: {error}.")
        records = read_metrics(folder, skip_damaged=True)
    if not records:
        return pd.DataFrame(index=pd.Index([], name="step", dtype=np.int64))
    # A resumed run logs its first validation under the step of the checkpoint, which has a row already.
    rows = pd.DataFrame(records).groupby("step").last()
    numbers = rows.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    return numbers.replace([np.inf, -np.inf], np.nan)  # of a run that diverged: nothing that has a place in a figure


def _load_history(folder: Path, problems: list[str]) -> pd.DataFrame:
    try:
        return read_history(folder).to_pandas()
    except FileNotFoundError:
        problems.append(f"There is no {HISTORY_FOLDER} folder: nothing about single prompts is shown.")
    except HistoryError as error:
        problems.append(f"Part of the per-prompt history is left out: {error}.")
        return read_history(folder, skip_damaged=True).to_pandas()
    return SCHEMA.empty_table().to_pandas()


def _load_config(path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"There is no {path.name}: the settings are unknown.")
        return {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, or a date that does not exist
        problems.append(f"{path.name} is damaged ({' '.join(str(error).split())}): the settings are unknown.")
        return {}
    if not isinstance(config, Mapping):
        problems.append(f"{path.name} holds no settings.")
        return {}
    return config


# --- Summary ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunSummary:
    """The outcome of a run in a few numbers; None where the run does not tell.

    Attributes:
        last_step, planned_steps: how far the run got, and how far it was to go.
        accuracy: mean over the held-out sets at the last validation of all of them, which was at ``accuracy_step``.
        effective_ratio: mean effective-gradient ratio over the last quarter of the steps (paper, equation 4).
        never_solved, num_prompts: prompts without a single success in the whole run, of those that were tried.
        largest_budget: most rollouts for one prompt at one step.
        rollouts: rollouts generated for training.
        seconds: wall time inside the training steps; ``median_step_seconds``: of one of them.
        tokens: response tokens in the history; ``median_step_tokens``: of one step.
    """

    last_step: int
    planned_steps: int | None
    accuracy: float | None
    accuracy_step: int | None
    effective_ratio: float | None
    never_solved: int | None
    num_prompts: int | None
    largest_budget: int | None
    rollouts: int | None
    seconds: float | None
    median_step_seconds: float | None
    tokens: int | None
    median_step_tokens: float | None


def common_sources(runs: Sequence[Run]) -> list[str]:
    """The columns of `Run.held_out_accuracy` that all runs share, runs that have not validated yet left out."""
    columns = [set(run.held_out_accuracy.columns) for run in runs if not run.held_out_accuracy.empty]
    return sorted(set.intersection(*columns)) if columns else []


def summarize(run: Run, sources: Sequence[str] = ()) -> RunSummary:
    """Reduce a run to its summary; its accuracy is the mean over the held-out ``sources``, or over all it has."""
    held_out = run.held_out_accuracy
    accuracy = held_out[[source for source in sources or held_out if source in held_out]]
    accuracy = accuracy.mean(axis=1, skipna=False).dropna()
    ratios = run.metric(EFFECTIVE_RATIO)
    seconds = run.metric(STEP_SECONDS)
    has_history = not run.history.empty
    budgets = run.history["budget"] if has_history else run.metric(LARGEST_BUDGET)
    return RunSummary(
        last_step=run.last_step,
        planned_steps=run.planned_steps,
        accuracy=None if accuracy.empty else float(accuracy.iloc[-1]),
        accuracy_step=None if accuracy.empty else int(accuracy.index[-1]),
        effective_ratio=None if ratios.empty else float(ratios.iloc[-max(len(ratios) // 4, 1) :].mean()),
        never_solved=never_solved(run.history) if has_history else None,
        num_prompts=run.history["prompt_id"].nunique() if has_history else None,
        largest_budget=None if budgets.empty else int(budgets.max()),
        rollouts=None if run.cumulative_rollouts.empty else int(run.cumulative_rollouts.iloc[-1]),
        seconds=None if seconds.empty else float(seconds.sum()),
        median_step_seconds=None if seconds.empty else float(seconds.median()),
        tokens=int(run.tokens_per_step.sum()) if has_history else None,
        median_step_tokens=float(run.tokens_per_step.median()) if has_history else None,
    )


def config_differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which the runs differ, each with its value in every run; paths and names of runs left out.

    Runs whose configuration is unknown show as None everywhere and make no difference.
    """
    flat = [flatten_settings(run.config) for run in runs]
    keys = sorted(set().union(*flat) - _NAMING_SETTINGS) if flat else []
    differences = {}
    for key in keys:
        known = [repr(settings.get(key)) for settings in flat if settings]
        if len(set(known)) > 1:
            differences[key] = [settings.get(key) for settings in flat]
    return differences
