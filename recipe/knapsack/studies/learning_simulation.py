"""What an exploration rule does to learning, with independent prompts instead of a language model.

Every rule trains the same population on the same batches. The project's own explorer sees sampled rollouts only; the
clairvoyant allocator knows every true success rate and maximises the paper's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, Plan, homogeneous_allocate, knapsack_allocate
from knapsack_rl.advantage_estimators import has_mixed_rewards
from recipe.knapsack.studies.learning_prompts import LearningPrompts, Regime, pull_of_groups

__all__ = [
    "CLAIRVOYANT",
    "GRPO",
    "PAPER",
    "RULES",
    "Course",
    "Rule",
    "Scale",
    "compare_rules",
    "spent_to_reach",
    "train",
]

ADV_CLIP = 5.0
_TOKENS_OF_A_SOLVED_PROMPT = 256


@dataclass(frozen=True)
class Rule:
    """What is compared.

    Attributes:
        name: as shown.
        exploration: the keys below ``exploration`` that differ from their defaults.
        prompt_weight: ``algorithm.prompt_weight``.
        is_clairvoyant: whether it sees the true success rates instead of rollouts.
    """

    name: str
    exploration: Mapping[str, Any] = field(default_factory=dict)
    prompt_weight: str = "rows"
    is_clairvoyant: bool = False


GRPO = Rule("GRPO", {"allocator": "homogeneous"})
CLAIRVOYANT = Rule("clairvoyant", is_clairvoyant=True)
PAPER = Rule("paper (previous_epoch)")
RULES = (
    GRPO,
    PAPER,
    Rule("previous_epoch, sqrt weights", prompt_weight="sqrt"),
    Rule("beta", {"success_rate": {"estimator": "beta"}}),
    Rule("beta, sqrt weights", {"success_rate": {"estimator": "beta"}}, "sqrt"),
    Rule(
        "beta that forgets nothing, hard_leaning",
        {"value": "hard_leaning", "success_rate": {"estimator": "beta", "discount": 1.0, "prior_strength": 3.0}},
    ),
    CLAIRVOYANT,
)
"""What is compared where the user names no rule of his own."""


@dataclass(frozen=True)
class Scale:
    """How large a simulation is.

    Attributes:
        num_prompts: P, of which each epoch visits every one once, but for an incomplete last batch.
        batch_size: M, prompts per step.
        rollouts_per_prompt: N, on average.
        num_steps: T.
        hard_length: how many times as long as those of a solved prompt the responses of a prompt are that is never
            solved; between them the length is linear in the success rate.

    Raises:
        ValueError: a size is not possible.
    """

    num_prompts: int = 17_917
    batch_size: int = 256
    rollouts_per_prompt: int = 8
    num_steps: int = 1_000
    hard_length: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_prompts:
            raise ValueError(f"batch_size={self.batch_size} is not possible with num_prompts={self.num_prompts}")
        if self.rollouts_per_prompt < 2:
            raise ValueError(f"rollouts_per_prompt must be at least 2, got {self.rollouts_per_prompt}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not self.hard_length > 0:
            raise ValueError(f"hard_length must be above 0, got {self.hard_length}")


@dataclass(frozen=True)
class Course:
    """What came of training by a rule.

    Attributes:
        success_rates: (T + 1,) mean true success rate of all prompts, before the first step and after each.
        rollouts, tokens: (T + 1,) generated until then.
        effective_ratio: share of all rollouts that had a gradient.
    """

    success_rates: np.ndarray
    rollouts: np.ndarray
    tokens: np.ndarray
    effective_ratio: float


class _Allocator:
    """The budgets of a rule for the prompts of a step, and what it learns from their rollouts."""

    def __init__(self, rule: Rule, scale: Scale) -> None:
        self._rule, self._scale = rule, scale
        self._config = ExplorationConfig.from_mapping(rule.exploration)
        self._explorer = Explorer(self._config, rollouts_per_prompt=scale.rollouts_per_prompt)
        self._names = np.array([f"prompt {i}" for i in range(scale.num_prompts)], dtype=object)
        self._learns = not rule.is_clairvoyant and self._config.allocator == "knapsack"
        self._plan: Plan | None = None

    def budgets(self, prompts: np.ndarray, rates: np.ndarray, epoch: int, step: int) -> np.ndarray:
        total = self._explorer.total_budget(len(prompts), step)
        if self._rule.is_clairvoyant:
            known = np.clip(rates, 1e-9, 1.0 - 1e-9)
            return knapsack_allocate(known, total, self._config.n_low, self._config.n_up).budgets
        if not self._learns:
            return homogeneous_allocate(len(prompts), total).budgets
        self._plan = self._explorer.plan(self._names[prompts].tolist(), epoch=epoch, step=step)
        return self._plan.budgets

    def observe(self, prompt_index: np.ndarray, successes: np.ndarray, tokens: np.ndarray) -> None:
        if self._plan is not None:
            rewards = successes.astype(np.float64)
            effective = has_mixed_rewards(rewards, prompt_index)
            self._explorer.observe(self._plan, Outcomes(prompt_index, rewards, successes, effective, tokens))


def train(rule: Rule, regime: Regime, scale: Scale, seed: int, on_step: Callable[[], None] = lambda: None) -> Course:
    """Train a population by a rule.

    Args:
        rule: how rollouts are allocated and prompts weighted.
        regime: how gradients become updates.
        scale: how large it is.
        seed: of population, batches and rollouts; the same for rules that are compared.
        on_step: called after each step.

    Raises:
        ValueError: the rule's configuration cannot run.
    """
    prompts = LearningPrompts(scale.num_prompts, regime, seed)
    allocator = _Allocator(rule, scale)
    shuffle, sampling = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    rates, (rollouts, tokens) = np.empty(scale.num_steps + 1), np.zeros((2, scale.num_steps + 1))
    rates[0], num_effective = prompts.rates.mean(), 0
    steps_per_epoch = scale.num_prompts // scale.batch_size
    for step in range(scale.num_steps):
        epoch, place = divmod(step, steps_per_epoch)
        if place == 0:
            order = shuffle.permutation(scale.num_prompts)
        chosen = order[place * scale.batch_size : (place + 1) * scale.batch_size]
        p = prompts.rates[chosen]
        budgets = allocator.budgets(chosen, p, epoch, step + 1)
        prompt_index = np.repeat(np.arange(len(chosen)), budgets)
        is_success = sampling.random(len(prompt_index)) < p[prompt_index]
        lengths = np.rint(_TOKENS_OF_A_SOLVED_PROMPT * (scale.hard_length - (scale.hard_length - 1.0) * p))
        allocator.observe(prompt_index, is_success, lengths[prompt_index])
        successes = np.bincount(prompt_index, weights=is_success, minlength=len(chosen))
        prompts.update(chosen, pull_of_groups(successes, budgets, p, ADV_CLIP, rule.prompt_weight))
        num_effective += budgets[(successes > 0) & (successes < budgets)].sum()
        rates[step + 1] = prompts.rates.mean()
        rollouts[step + 1] = rollouts[step] + budgets.sum()
        tokens[step + 1] = tokens[step] + lengths @ budgets
        on_step()
    return Course(rates, rollouts, tokens, float(num_effective / rollouts[-1]))


def spent_to_reach(level: float, rates: np.ndarray, spent: np.ndarray) -> float | None:
    """What was spent when a mean success rate was first reached, linear between steps; None if it never was.

    >>> spent_to_reach(0.25, np.array([0.1, 0.2, 0.3]), np.array([0.0, 10.0, 20.0]))
    15.0
    """
    reached = np.flatnonzero(rates >= level)
    if len(reached) == 0:
        return None
    after = int(reached[0])
    if after == 0:
        return float(spent[0])
    share = (level - rates[after - 1]) / (rates[after] - rates[after - 1])
    return float(spent[after - 1] + share * (spent[after] - spent[after - 1]))


def compare_rules(
    rules: Sequence[Rule],
    regime: Regime,
    scale: Scale,
    seeds: Sequence[int],
    level: float | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Train by each rule on each seed, and compare with GRPO and with the clairvoyant allocator, paired by seed.

    Args:
        rules: of different names; `GRPO` and `CLAIRVOYANT` are among them.
        level: mean success rate up to which rollouts and tokens are counted; None = GRPO's last of the same seed.

    Returns:
        By rule: ``success_rate`` and ``success_rate_sd`` at the end (over seeds; sd None for one seed), ``gain`` over
        GRPO with ``gain_sd`` and ``wins``, ``share_of_clairvoyant`` (of the mean gains; None where the clairvoyant
        gains nothing), ``rollouts_to_level`` and ``tokens_to_level`` as shares of all that GRPO generated (mean over
        the seeds that reach it; None if none does), ``reached`` (number of seeds), ``effective_ratio``.
    """
    courses = {rule.name: [train(rule, regime, scale, seed, on_step) for seed in seeds] for rule in rules}
    last = {name: np.array([course.success_rates[-1] for course in of]) for name, of in courses.items()}
    baseline, best = courses[GRPO.name], float((last[CLAIRVOYANT.name] - last[GRPO.name]).mean())
    summary = {}
    for name, of in courses.items():
        gains = last[name] - last[GRPO.name]
        levels = last[GRPO.name] if level is None else np.full(len(seeds), level)
        entry = {
            "success_rate": float(last[name].mean()),
            "success_rate_sd": _spread(last[name]),
            "gain": float(gains.mean()),
            "gain_sd": _spread(gains),
            "wins": int(np.sum(gains > 0)),
            "share_of_clairvoyant": float(gains.mean() / best) if best > 0 else None,
            "effective_ratio": float(np.mean([course.effective_ratio for course in of])),
        }
        for quantity in ("rollouts", "tokens"):
            shares = [
                spent / getattr(grpo, quantity)[-1]
                for course, grpo, goal in zip(of, baseline, levels, strict=True)
                if (spent := spent_to_reach(goal, course.success_rates, getattr(course, quantity))) is not None
            ]
            entry[f"{quantity}_to_level"] = float(np.mean(shares)) if shares else None
            entry["reached"] = len(shares)
        summary[name] = entry
    return summary


def _spread(values: np.ndarray) -> float | None:
    """Standard deviation over seeds; None for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
