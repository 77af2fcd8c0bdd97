"""The exploration section of a trainer's configuration, as frozen dataclasses that check themselves."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from knapsack_rl.allocation import SOLVERS
from knapsack_rl.dispatch import DISPATCHES
from knapsack_rl.options import TRUE_OR_FALSE, Option, integer_at_least, is_integer, null_or, number, one_of
from knapsack_rl.presets import DEFAULT_PRESET, PRESETS, with_preset
from knapsack_rl.prior import PRIOR
from knapsack_rl.similar_columns import SIMILAR_BY
from knapsack_rl.status_options import STATUS_OPTIONS
from knapsack_rl.token_limit import TOKEN_LIMIT

__all__ = [
    "ALLOCATORS",
    "BudgetSchedule",
    "ConfigError",
    "DynamicSamplingConfig",
    "ExplorationConfig",
    "ReviewConfig",
    "SuccessRateConfig",
    "check_preset",
]

ALLOCATORS = ("knapsack", "homogeneous")

_OPTIONS = {
    "allocator": one_of(ALLOCATORS),
    "max_expected_tokens": TOKEN_LIMIT,
    "n_low": integer_at_least(1),
    "n_up": integer_at_least(1),
    "value": null_or(Option("a name or package.module:function", lambda value: isinstance(value, str) and bool(value))),
    "solver": one_of(SOLVERS),
    "fallback": TRUE_OR_FALSE,
    "fallback_confidence": number("a number in (0, 1)", lambda value: 0 < value < 1),
    "dispatch": one_of(DISPATCHES),
    "seed": integer_at_least(0),
    "success_threshold": number("a number"),
    "rollout_is_cap": null_or(number("a number of at least 1", lambda value: value >= 1)),
    "log_histogram_every": integer_at_least(0),
    "dump_rollouts": Option(
        "null, all or an integer of at least 1",
        lambda value: value in (None, "all") or (is_integer(value) and value >= 1),
    ),
    "dump_limit_gb": number("a number above 0 and at most 1e9", lambda value: 0 < value <= 1e9),
}
_REVIEW_OPTIONS = {
    "after_steps": null_or(integer_at_least(1)),
    "rollouts": integer_at_least(1),
    "max_share": number("a number in (0, 1]", lambda value: 0 < value <= 1),
}
_DYNAMIC_SAMPLING_OPTIONS = {"enable": TRUE_OR_FALSE, "max_generations": integer_at_least(1)}


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key, the value and what would be accepted."""


def _require(section: str, config: Any, options: Mapping[str, Option]) -> None:
    for key, option in options.items():
        value = getattr(config, key)
        if not option.accepts(value):
            raise ConfigError(f"{section}.{key}={value!r} is not accepted: expected {option.accepted}.")


def check_preset(preset: Any) -> None:
    """Refuse what is neither None nor the name of a preset.

    Raises:
        ConfigError: naming it and those that there are.
    """
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise ConfigError(
            f"exploration.preset={preset!r} is not accepted: expected null or one of {', '.join(PRESETS)}."
        )


def _section_from_mapping(section: str, section_class: type, values: Mapping[str, Any]) -> Any:
    """Build ``section_class`` from a mapping; an unknown key is a :class:`ConfigError` with the nearest known one."""
    known = [entry.name for entry in fields(section_class)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {section}.{near[0]}?" if near else f"known keys: {', '.join(known)}."
            raise ConfigError(f"{section}.{key} is not a known key: {hint}")
    return section_class(**values)


@dataclass(frozen=True)
class SuccessRateConfig:
    """How a prompt's success rate is estimated from its earlier rollouts.

    Attributes:
        estimator: ``previous_epoch`` (the paper's), ``window`` (the last ``window`` rollouts) or ``beta`` (discounted
            counts under a Beta prior).
        window: number of latest rollouts that ``window`` counts.
        min_rollouts: a prompt seen with fewer rollouts than this counts as unseen.
        discount: factor in [0, 1] on the earlier counts of ``beta`` at each visit of a prompt.
        half_life: steps in which the counts of ``beta`` lose half of their weight besides; None = only visits count.
        prior_strength: weight of the prior of ``beta``, in rollouts.
        prior: where each prompt's success rate before training stands: a column of the data, or a ``.parquet`` or
            ``.csv`` file (`knapsack_rl.prior`); None = nowhere.
        prior_weight: rollouts that such a rate counts as.
        similar_by: columns of the data; an unseen prompt gets the mean of the seen ones with the same values there
            (`knapsack_rl.similar_columns`); None = it has no estimate.
    """

    estimator: str = "previous_epoch"
    window: int = 16
    min_rollouts: int = 1
    discount: float = 0.5
    half_life: float | None = None
    prior_strength: float = 1.0
    prior: str | None = None
    prior_weight: float = 4.0
    similar_by: Any = None

    @property
    def status_options(self) -> dict[str, Any]:
        """The options of the `TaskStatus`."""
        return {name: getattr(self, name) for name in STATUS_OPTIONS}

    def __post_init__(self) -> None:
        section = "exploration.success_rate"
        _require(section, self, {**STATUS_OPTIONS, "prior": PRIOR, "similar_by": SIMILAR_BY})
        if self.estimator == "window" and self.min_rollouts > self.window:
            raise ConfigError(
                f"{section}.min_rollouts={self.min_rollouts} is not accepted: a window of {self.window} rollouts "
                f"({section}.window) never holds so many."
            )


@dataclass(frozen=True)
class DynamicSamplingConfig:
    """DAPO's dynamic sampling: generate further batches until enough rollouts have a gradient.

    Attributes:
        enable: whether to filter out prompts whose rollouts all earned the same.
        max_generations: most batches generated for one step; at the cap the step trains on what it has.
    """

    enable: bool = False
    max_generations: int = 4

    def __post_init__(self) -> None:
        _require("exploration.dynamic_sampling", self, _DYNAMIC_SAMPLING_OPTIONS)


@dataclass(frozen=True)
class ReviewConfig:
    """A floor by age: prompts that told nothing for long get more than ``n_low`` rollouts.

    Attributes:
        after_steps: steps after which a prompt is reviewed, since its last visit with mixed outcomes or with at least
            ``rollouts`` rollouts; None = never.
        rollouts: least rollouts of a review.
        max_share: most of a step's budget that reviews take beyond ``n_low``; the oldest come first.
    """

    after_steps: int | None = None
    rollouts: int = 8
    max_share: float = 0.1

    def __post_init__(self) -> None:
        _require("exploration.review", self, _REVIEW_OPTIONS)


@dataclass(frozen=True)
class BudgetSchedule:
    """Rollouts per step as a step function of the training step.

    Attributes:
        stages: ``((from_step, budget), ...)`` with increasing steps, the first of them at most 1.

    Example:
        >>> schedule = BudgetSchedule(((1, 2048), (100, 1024)))
        >>> schedule.at(99), schedule.at(100)
        (2048, 1024)
    """

    stages: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, total_budget: Any, default: int) -> BudgetSchedule:
        """Read ``exploration.total_budget``: null (then ``default``), a number, or a list of [from_step, budget]."""
        if total_budget is None:
            return cls(((1, default),))
        if is_integer(total_budget):
            return cls(((1, total_budget),))
        accepted = "expected an integer, or a list of [from_step, budget] whose steps increase from 1"
        try:
            stages = tuple((step, budget) for step, budget in total_budget)
        except (TypeError, ValueError):
            raise ConfigError(f"exploration.total_budget={total_budget!r} is not accepted: {accepted}.") from None
        steps = [step for step, _ in stages]
        all_integers = all(is_integer(number) for stage in stages for number in stage)
        if not stages or not all_integers or steps != sorted(set(steps)) or steps[0] > 1:
            raise ConfigError(f"exploration.total_budget={total_budget!r} is not accepted: {accepted}.")
        return cls(stages)

    def at(self, step: int) -> int:
        """Return the rollouts of training step ``step`` (the first step is 1)."""
        return [budget for from_step, budget in self.stages if from_step <= max(step, 1)][-1]

    @property
    def budgets(self) -> tuple[int, ...]:
        """Every budget that occurs."""
        return tuple(budget for _, budget in self.stages)


@dataclass(frozen=True)
class ExplorationConfig:
    """How many rollouts each prompt gets; see `docs/configuration.md` for every key.

    Raises:
        ConfigError: a value is out of range or of the wrong type.
    """

    allocator: str = "knapsack"
    total_budget: Any = None
    max_expected_tokens: Any = None
    n_low: int = 2
    n_up: int = 128
    value: str | None = None
    solver: str = "auto"
    fallback: bool = True
    fallback_confidence: float = 0.9
    dispatch: str = "random"
    seed: int = 0
    success_threshold: float = 0.0
    rollout_is_cap: float | None = None
    log_histogram_every: int = 10
    dump_rollouts: Any = None
    dump_limit_gb: float = 10.0
    success_rate: SuccessRateConfig = field(default_factory=SuccessRateConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)

    def __post_init__(self) -> None:
        _require("exploration", self, _OPTIONS)
        if self.n_low > self.n_up:
            raise ConfigError(
                f"exploration.n_low={self.n_low} is not accepted: it exceeds exploration.n_up={self.n_up}."
            )
        if self.review.after_steps is not None and not self.n_low < self.review.rollouts <= self.n_up:
            raise ConfigError(
                f"exploration.review.rollouts={self.review.rollouts} is not accepted: expected more than "
                f"exploration.n_low={self.n_low} and at most exploration.n_up={self.n_up}."
            )
        BudgetSchedule.parse(self.total_budget, default=1)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ExplorationConfig:
        """Build the config from the ``exploration`` section as plain Python containers.

        The key ``preset`` names one of `PRESETS`, or is None; it gives the keys that ``values`` does not have.

        Raises:
            ConfigError: naming the key that is unknown or the value that is not accepted.

        >>> ExplorationConfig.from_mapping({"preset": "recommended", "n_up": 64}).success_rate.estimator
        'beta'
        """
        values = dict(values)
        preset = values.pop("preset", DEFAULT_PRESET)
        check_preset(preset)
        values = with_preset(preset, values, "exploration")
        sections = {
            "success_rate": SuccessRateConfig,
            "review": ReviewConfig,
            "dynamic_sampling": DynamicSamplingConfig,
        }
        for name, section_class in sections.items():
            if name in values:
                section = values[name]
                if not isinstance(section, Mapping):
                    raise ConfigError(f"exploration.{name}={section!r} is not accepted: expected a section of keys.")
                values[name] = _section_from_mapping(f"exploration.{name}", section_class, section)
        config: ExplorationConfig = _section_from_mapping("exploration", cls, values)
        return config

    def budget_schedule(self, train_batch_size: int, rollouts_per_prompt: int) -> BudgetSchedule:
        """Return the rollouts per step; without ``total_budget``, what homogeneous allocation would spend."""
        return BudgetSchedule.parse(self.total_budget, default=train_batch_size * rollouts_per_prompt)
