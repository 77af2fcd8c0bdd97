"""By which rules the rollouts of a step are placed: minimum, unseen, knapsack, fallback, remainder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.estimates import Estimates, PromptClasses
from knapsack_rl.solvers.dynamic import solve_dp
from knapsack_rl.solvers.even_shares import even_split, raise_lowest
from knapsack_rl.solvers.greedy import solve_greedy
from knapsack_rl.solvers.problem import Problem, first_convex_point, group_equal
from knapsack_rl.solvers.token_limited import solve_within_tokens
from knapsack_rl.theory import rollouts_for_confidence
from knapsack_rl.value_function import ValueFunction

__all__ = ["PLACING_RULES", "AllocationRules", "placed_by_rule", "rule_index"]

PLACING_RULES = ("homogeneous", "unseen", "minimum", "knapsack", "fallback", "review", "remainder")
"""What decides on the rollouts of a prompt; see `Allocation`."""


@dataclass(frozen=True, eq=False)
class AllocationRules:
    """By which rules the rollouts of a step are placed."""

    estimates: Estimates
    classes: PromptClasses
    function: ValueFunction
    parameters: tuple[Array, ...]
    total_budget: int
    n_low: int
    n_up: int
    solver: str
    unseen_share: int

    @classmethod
    def of(
        cls,
        estimates: Estimates,
        function: ValueFunction,
        total_budget: int,
        n_low: int,
        n_up: int,
        solver: str,
        unseen_share: int | None = None,
    ) -> AllocationRules:
        """The rules for a step; arguments as `knapsack_allocate`."""
        classes = PromptClasses.of(estimates)
        parameters = tuple(parameter[classes.is_mixed] for parameter in estimates.parameters(function))
        share = total_budget // len(estimates)
        if unseen_share is not None and classes.is_unseen.any():
            num_unseen = int(classes.is_unseen.sum())
            share = min(unseen_share, (total_budget - (len(estimates) - num_unseen) * n_low) // num_unseen)
        return cls(estimates, classes, function, parameters, total_budget, n_low, n_up, solver, share)

    def place(self, for_unsolved: int, solve: Callable[[int], Array] | None = None) -> Array:
        """(M,) budgets with so many rollouts for the fallback; `solve` is the knapsack's optimum unless it is given."""
        classes, levels = self.classes, self.n_up - self.n_low
        budgets = self._minimum()
        left = self.total_budget - int(budgets.sum())
        for_knapsack = min(left - for_unsolved, int(classes.is_mixed.sum()) * levels)
        budgets[classes.is_mixed] += self._solve(for_knapsack) if solve is None else solve(for_knapsack)
        if classes.is_unsolved.any():
            budgets[classes.is_unsolved] += even_split(for_unsolved, int(classes.is_unsolved.sum()))
        remainder = self.total_budget - int(budgets.sum())
        _place_remainder(budgets, remainder, self.n_up, (classes.is_unsolved, classes.is_unseen, classes.is_solved))
        return budgets

    def _minimum(self) -> Array:
        budgets = np.full(len(self.estimates), self.n_low, dtype=np.int64)
        budgets[self.classes.is_unseen] = self.unseen_share
        return budgets

    def _solve(self, amount: int) -> Array:
        return _solve(self.function, self.parameters, amount, self.n_low, self.n_up, self.solver)

    def solve_within(self, lengths: Array, amount: int, max_tokens: float, unlimited_tokens: float) -> Array:
        """(K,) rollouts beyond n_low with at most so many tokens, for prompts of these expected lengths."""
        prompts = np.ones(len(lengths), dtype=np.int64)
        problem = Problem(self.function, self.parameters, prompts, self.n_low, self.n_up)
        convex_point = None if self.function.is_known_concave else first_convex_point(problem)
        if convex_point is not None:
            raise _convex(problem, convex_point, "a token limit", "set max_expected_tokens to null or change the value")
        return solve_within_tokens(problem, lengths, amount, max_tokens, unlimited_tokens)

    def fallback_rollouts(self, confidence: float) -> int:
        """Rollouts that the fallback gives to unsolved prompts, in total (paper, section 4.2)."""
        left = self.total_budget - int(self._minimum().sum())
        return _fallback_amount(self.estimates, self.classes, left, self.n_low, self.n_up, confidence)

    def rules(self, budgets: Array, fallback_rollouts: int) -> Array:
        """(M,) int64 indices into `PLACING_RULES`: what decided on each of the budgets that `place` made."""
        classes = self.classes
        unsolved = rule_index("fallback" if fallback_rollouts > 0 else "remainder")
        return np.select(
            [
                classes.is_unseen & (budgets <= self.unseen_share),
                ~classes.is_unseen & (budgets <= self.n_low),
                classes.is_mixed,
                classes.is_unsolved,
            ],
            [rule_index("unseen"), rule_index("minimum"), rule_index("knapsack"), unsolved],
            default=rule_index("remainder"),
        )

    def placed(self, budgets: Array, fallback_rollouts: int) -> Mapping[str, int]:
        """How many rollouts of budgets that `place` made each rule placed; see `Allocation`."""
        classes, share = self.classes, self.unseen_share
        num_unseen = int(classes.is_unseen.sum())
        beyond = budgets - self.n_low
        return placed_by_rule(
            self.total_budget,
            minimum=(len(budgets) - num_unseen) * self.n_low,
            unseen=min(num_unseen * share, int(budgets[classes.is_unseen].sum())),
            knapsack=int(beyond[classes.is_mixed].sum()),
            fallback=min(fallback_rollouts, int(beyond[classes.is_unsolved].sum())),
        )


def rule_index(rule: str | None) -> int:
    """Place of a rule in `PLACING_RULES`; -1 for None, which is not told."""
    return -1 if rule is None else PLACING_RULES.index(rule)


def placed_by_rule(
    total_budget: int, *, minimum: int = 0, unseen: int = 0, knapsack: int = 0, fallback: int = 0
) -> Mapping[str, int]:
    """Rollouts by the rule that placed them; the remainder is what is left of the total."""
    rules = {"minimum": minimum, "unseen": unseen, "knapsack": knapsack, "fallback": fallback}
    return {**rules, "remainder": total_budget - sum(rules.values())}


def _fallback_amount(
    estimates: Estimates, classes: PromptClasses, left: int, n_low: int, n_up: int, confidence: float
) -> int:
    """Rollouts that the fallback gives to unsolved prompts, in total (paper, section 4.2)."""
    if estimates.success_rates is None:
        return 0
    capacity = int(classes.is_unsolved.sum()) * (n_up - n_low)
    if capacity == 0:
        return 0
    costs = rollouts_for_confidence(estimates.success_rates[classes.is_mixed], confidence)
    needed = int(np.floor(np.minimum(costs, n_up - n_low)).sum())
    return min(max(left - needed, 0), capacity)


def _solve(
    function: ValueFunction, parameters: tuple[Array, ...], amount: int, n_low: int, n_up: int, solver: str
) -> Array:
    """(K,) rollouts beyond n_low for the K prompts that the knapsack decides on."""
    num_prompts = len(parameters[0])
    if num_prompts == 0 or n_low == n_up:
        return np.zeros(num_prompts, dtype=np.int64)
    groups, group_of, prompts = group_equal(parameters)
    problem = Problem(function, groups, prompts, n_low, n_up)
    if solver == "dp":
        return solve_dp(problem, group_of, amount)
    convex_point = None if function.is_known_concave else first_convex_point(problem)
    if convex_point is None:
        return solve_greedy(problem, group_of, amount)
    if solver == "auto":
        return solve_dp(problem, group_of, amount)
    raise _convex(problem, convex_point, "solver='greedy'", "use solver='dp' or solver='auto'")


def _place_remainder(budgets: Array, amount: int, n_up: int, receivers: Sequence[Array]) -> None:
    """Add `amount` to the first receivers up to n_up each, evenly, then to the next."""
    for is_receiver in receivers:
        current = budgets[is_receiver]
        given = min(amount, int((n_up - current).sum()))
        budgets[is_receiver] = raise_lowest(current, np.full_like(current, n_up), given)
        amount -= given


def _convex(problem: Problem, point: tuple[int, int], asker: str, remedy: str) -> ValueError:
    group, n = point
    where = problem.function.described([column[group] for column in problem.parameters])
    return ValueError(
        f"{asker} needs a value that is concave in N, but {problem.function.name} gains more from rollout {n + 1} "
        f"than from rollout {n} at {where}, N={n}; {remedy}"
    )
