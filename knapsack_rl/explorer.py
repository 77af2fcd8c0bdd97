"""The explorer: plans how many rollouts each prompt of a step gets, and learns from what came of them.

A trainer calls ``plan`` before it generates, ``observe`` when rewards and advantages are known, ``metrics`` when it
logs, and keeps ``state_dict`` with its checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knapsack_rl.advantage_estimators import advantage_estimator, value_for_adv_estimator
from knapsack_rl.allocation import Allocation, homogeneous_allocate, knapsack_allocate
from knapsack_rl.allocation_rules import PLACING_RULES
from knapsack_rl.arrays import Array
from knapsack_rl.config import ExplorationConfig
from knapsack_rl.dispatch import packed_order, random_order
from knapsack_rl.estimates import Estimates
from knapsack_rl.gradient_rules import DIFFERS_FROM_GREEDY
from knapsack_rl.metrics.step import compute_exploration_metrics
from knapsack_rl.metrics.tokens import token_metrics, total_token_metrics
from knapsack_rl.observations import as_list
from knapsack_rl.outcomes import Outcomes
from knapsack_rl.review import review_floors, with_floors
from knapsack_rl.task_status import TaskStatus, TaskStatusError
from knapsack_rl.token_limit import TokenLimit, limit_of_step
from knapsack_rl.training_state import TrainingState
from knapsack_rl.values import resolve_value_function

__all__ = ["Explorer", "Plan"]


@dataclass(frozen=True, eq=False)  # equality of arrays is not a truth value
class Plan:
    """How the M prompts of one generated batch are to be explored.

    Attributes:
        prompt_ids: M identities of the prompts.
        epoch, step: when they are sampled.
        success_rates: (M,) float64, the estimates that the plan was made with; NaN = unseen.
        allocation: the budgets and what is known about them.
        predicted_shares: (M,) float64, share of each prompt's rollouts expected to have a gradient; NaN = no forecast.
        order: (N_total,) int64, the prompt of every row, in the order in which rows are dealt to the workers.
        expected_lengths: (M,) float64, response tokens expected of a rollout of each prompt; NaN or None = unknown.
        max_tokens: the limit that the plan keeps within; None without one.
    """

    prompt_ids: tuple[str, ...]
    epoch: int
    step: int
    success_rates: Array
    allocation: Allocation
    predicted_shares: Array
    order: Array
    expected_lengths: Array | None = None
    max_tokens: float | None = None

    @property
    def budgets(self) -> Array:
        """(M,) int64, rollouts of each prompt; they add up to the step's total budget."""
        return self.allocation.budgets

    @property
    def rules(self) -> list[str | None]:
        """M names out of `PLACING_RULES`, what decided on each prompt's rollouts; None where it is not told."""
        if self.allocation.rules is None:
            return [None] * len(self.prompt_ids)
        return [PLACING_RULES[rule] if rule >= 0 else None for rule in self.allocation.rules]


class Explorer:
    """Decides at every step how many rollouts each prompt gets.

    Args:
        config: the exploration section of a configuration.
        adv_estimator: verl's name of the advantage estimator; it decides what a budget is worth unless the
            configuration says so, and which rollouts have a gradient.
        rollouts_per_prompt: N, rollouts a prompt gets on average where the configuration sets no total budget.
        allocate: what solves the knapsack; called as `knapsack_allocate` is.
        prior: success rates in [0, 1] that are known before training, by prompt id (`knapsack_rl.prior.read_prior`).

    Raises:
        ValueError: the configuration names an unknown value function, or none and the estimator implies none.

    >>> explorer = Explorer(ExplorationConfig(), rollouts_per_prompt=4)
    >>> first = explorer.plan(["a", "b"], epoch=0, step=1)
    >>> first.budgets.tolist()
    [4, 4]
    >>> is_success = np.array([False] * 4 + [True] * 3 + [False])
    >>> explorer.observe(first, Outcomes(np.repeat([0, 1], 4), is_success * 1.0, is_success, is_success, np.ones(8)))
    >>> explorer.plan(["a", "b"], epoch=1, step=2).budgets.tolist()
    [2, 6]
    """

    def __init__(
        self,
        config: ExplorationConfig,
        *,
        adv_estimator: str = "grpo",
        rollouts_per_prompt: int = 8,
        allocate: Callable[..., Allocation] = knapsack_allocate,
        prior: Mapping[str, float] | None = None,
    ) -> None:
        self.config = config
        self.adv_estimator = advantage_estimator(adv_estimator)
        self.rollouts_per_prompt = rollouts_per_prompt
        self._allocate = allocate
        self._value = None
        if config.allocator == "knapsack":
            self._value = resolve_value_function(config.value or value_for_adv_estimator(adv_estimator))
        self.task_status = TaskStatus(**config.success_rate.status_options)
        if prior:
            self.task_status.add_priors(list(prior), list(prior.values()))

    def total_budget(self, num_prompts: int, step: int) -> int:
        """Rollouts of a step with so many prompts."""
        return self.config.budget_schedule(num_prompts, self.rollouts_per_prompt).at(step)

    def plan(
        self,
        prompt_ids: Sequence[str],
        *,
        epoch: int,
        step: int,
        num_workers: int = 1,
        prior: Array | Sequence[float] | None = None,
        similar: Sequence[str | None] | None = None,
    ) -> Plan:
        """Decide how many rollouts each of M prompts gets, and in which order they go to the workers.

        Args:
            prompt_ids: M ids, as `knapsack_rl.prompt_id` makes them.
            epoch: the current epoch, counted from 0; never decreases.
            step: the training step.
            num_workers: equal parts in which the rows are generated; needed by ``dispatch=packed``.
            prior: (M,) success rates in [0, 1] that were known before training, where they come with the prompts.
            similar: M labels; a prompt that was never seen takes the mean of those seen with the same label, one
                whose label is None is like no other.

        Raises:
            TypeError: a prompt id is not a string.
            ValueError: a prior is no success rate, the total budget cannot be placed within the bounds, or the epoch
                lies before an observed one.
        """
        prompt_ids = tuple(as_list(prompt_ids))
        if prior is not None:
            self.task_status.add_priors(prompt_ids, prior)
        if similar is not None:
            self.task_status.add_similar(prompt_ids, similar)
        success_rates = self.task_status.success_rates(prompt_ids, epoch=epoch, step=step)
        known = Estimates(
            success_rates,
            self.task_status.greedy_match_rates(prompt_ids, epoch=epoch, step=step)
            if self._uses_greedy_matches
            else None,
            self.task_status.beliefs(prompt_ids, epoch=epoch, step=step) if self._uses_beliefs else None,
        )
        needs_state = self._value is not None and self._value.needs_state
        state = self.task_status.training_state(epoch=epoch, step=step) if needs_state else None
        lengths = self.task_status.expected_response_lengths(prompt_ids)
        total_budget = self.total_budget(len(prompt_ids), step)
        limit = self._token_limit(lengths, total_budget)
        allocation = self._reviewed(prompt_ids, step, known, total_budget, state, limit)
        return Plan(
            prompt_ids=prompt_ids,
            epoch=epoch,
            step=step,
            success_rates=success_rates,
            allocation=allocation,
            predicted_shares=known.effective_shares(allocation.budgets, self.adv_estimator.gradient_rule),
            order=self._order(prompt_ids, allocation.budgets, step, num_workers),
            expected_lengths=lengths,
            max_tokens=None if limit is None else limit.max_tokens,
        )

    def _reviewed(
        self,
        prompt_ids: tuple[str, ...],
        step: int,
        known: Estimates,
        total_budget: int,
        state: TrainingState | None,
        limit: TokenLimit | None,
    ) -> Allocation:
        """The allocation of a step, in which prompts whose review is due get their floor."""
        review, n_low, n_up = self.config.review, self.config.n_low, self.config.n_up
        if self._value is None or review.after_steps is None:
            return self.allocation(known, total_budget, state, limit)
        floors = review_floors(
            self.task_status.steps_since_review(prompt_ids, step=step),
            after_steps=review.after_steps,
            rollouts=review.rollouts,
            max_share=review.max_share,
            total_budget=total_budget,
            n_low=n_low,
        )

        def allocate(chosen: Array, budget: int) -> Allocation:
            others = None if limit is None else limit.for_others(chosen, floors, budget, n_low, n_up)
            # A prompt that was never seen is not to gain by the reviews of others.
            share = None if len(chosen) == len(floors) else total_budget // len(floors)
            return self.allocation(known.take(chosen), budget, state, others, share)

        return with_floors(allocate, floors, known, self._value.gradient_rule, total_budget, n_low, n_up)

    def _token_limit(self, lengths: Array, total_budget: int) -> TokenLimit | None:
        if self._value is None:
            return None
        bounds = self.config.n_low, self.config.n_up
        if not len(lengths) * bounds[0] <= total_budget <= len(lengths) * bounds[1]:
            return None  # the allocation refuses such a budget by name
        return limit_of_step(self.config.max_expected_tokens, lengths, total_budget, *bounds)

    def allocation(
        self,
        known: Estimates,
        total_budget: int,
        state: TrainingState | None = None,
        token_limit: TokenLimit | None = None,
        unseen_share: int | None = None,
    ) -> Allocation:
        """Distribute a budget over prompts of which this is known; `plan` does so with what was observed.

        Args:
            known: of the M prompts.
            total_budget: N_total.
            state: of training, for a value that depends on it; None = that of the first step.
            token_limit: most expected tokens of all rollouts; None = no limit.
            unseen_share: rollouts of each unseen prompt; None = the homogeneous share of this budget.

        Raises:
            ValueError: as `knapsack_allocate`.
        """
        if self._value is None:
            return homogeneous_allocate(len(known), total_budget)
        # What solves the knapsack is told only what it needs to know: it may be a user's own.
        special = {"token_limit": token_limit, "unseen_share": unseen_share}
        return self._allocate(
            known.success_rates,
            total_budget,
            self.config.n_low,
            self.config.n_up,
            value=self._value.for_state(state or TrainingState()),
            fallback=self.config.fallback,
            fallback_confidence=self.config.fallback_confidence,
            solver=self.config.solver,
            greedy_match_rates=known.greedy_match_rates,
            beliefs=known.beliefs,
            **{name: given for name, given in special.items() if given is not None},
        )

    def observe(self, plan: Plan, outcomes: Outcomes) -> None:
        """Learn from the outcomes of a plan's rollouts.

        Raises:
            ValueError: a prompt index is not one of the plan's, or the plan lies before what was already observed.
        """
        if np.max(outcomes.prompt_index) >= len(plan.prompt_ids):
            raise ValueError(
                f"outcomes name prompt {np.max(outcomes.prompt_index)}, and the plan has {len(plan.prompt_ids)} prompts"
            )
        self.task_status.observe(
            [plan.prompt_ids[index] for index in outcomes.prompt_index],
            outcomes.successes,
            epoch=plan.epoch,
            step=plan.step,
            response_lengths=outcomes.response_tokens,
            greedy_successes=outcomes.greedy_successes,
            enough_rollouts=self.config.review.rollouts,
        )

    def metrics(self, explored: Sequence[tuple[Plan, Outcomes]]) -> dict[str, float]:
        """The metrics of a step, whose batches were planned and observed one after another.

        Returns:
            What `knapsack_rl.metrics.METRICS` explains, but for ``dispatch/``, which the trainer measures.
        """
        plans = [plan for plan, _ in explored]
        outcomes = [outcome for _, outcome in explored]
        offsets = np.cumsum([0, *(len(plan.prompt_ids) for plan in plans[:-1])])
        shifted = [outcome.prompt_index + offset for outcome, offset in zip(outcomes, offsets)]
        tokens = [
            token_metrics(plan.budgets, plan.expected_lengths, outcome.response_tokens, plan.max_tokens)
            for plan, outcome in explored
        ]
        metrics = compute_exploration_metrics(
            prompt_index=np.concatenate(shifted),
            successes=np.concatenate([outcome.successes for outcome in outcomes]),
            scores=np.concatenate([outcome.scores for outcome in outcomes]),
            effective=np.concatenate([outcome.effective for outcome in outcomes]),
            success_rates=np.concatenate([plan.success_rates for plan in plans]),
            budgets=np.concatenate([plan.budgets for plan in plans]),
            predicted_shares=np.concatenate([plan.predicted_shares for plan in plans]),
            n_low=self.config.n_low,
            n_up=self.config.n_up,
            fallback_rollouts=sum(plan.allocation.placed["fallback"] for plan in plans),
            fallback_confidence=self.config.fallback_confidence,
        )
        return {**metrics, **total_token_metrics(tokens)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the explorer has learned, as NumPy arrays and scalars that own their memory."""
        return {"task_status": self.task_status.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what was learned by ``state``; the configuration of this explorer stays in force.

        Raises:
            TaskStatusError: an entry is missing or inconsistent; this object is unchanged then.
        """
        if "task_status" not in state:
            raise TaskStatusError("the state of an explorer lacks task_status")
        self.task_status.load_state_dict(state["task_status"])

    @property
    def _uses_greedy_matches(self) -> bool:
        is_of_the_value = self._value is not None and "greedy_match_rates" in self._value.parameters
        return is_of_the_value or self.adv_estimator.gradient_rule is DIFFERS_FROM_GREEDY

    @property
    def _uses_beliefs(self) -> bool:
        return self._value is not None and "alpha" in self._value.parameters

    def _order(self, prompt_ids: tuple[str, ...], budgets: Array, step: int, num_workers: int) -> Array:
        if self.config.allocator == "homogeneous":
            return np.repeat(np.arange(len(budgets)), budgets)
        if self.config.dispatch == "random":
            return random_order(budgets, seed=self.config.seed, step=step)
        lengths = self.task_status.mean_response_lengths(prompt_ids)
        return packed_order(budgets, num_workers, expected_tokens=lengths)
