"""Rollout allocation: how many rollouts each prompt of a training step gets under a fixed total budget.

The problem (paper, equation 5): maximise ``sum_i Value(N_i, p_i)`` subject to ``sum_i N_i = N_total`` and
``N_low <= N_i <= N_up``, where ``p_i`` is the success rate of prompt i and ``Value`` is the probability that N_i
rollouts give a non-zero gradient times the information that such a gradient carries.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from knapsack_rl.allocation_rules import AllocationRules, placed_by_rule, rule_index
from knapsack_rl.arrays import Array
from knapsack_rl.estimates import Estimates, PromptClasses
from knapsack_rl.solvers.even_shares import even_split
from knapsack_rl.token_limit import TokenLimit, within
from knapsack_rl.value_function import ValueFunction
from knapsack_rl.values import resolve_value_function

__all__ = [
    "SOLVERS",
    "Allocation",
    "effective_ratio",
    "expected_effective_ratio",
    "homogeneous_allocate",
    "knapsack_allocate",
]

SOLVERS = ("auto", "greedy", "dp")


@dataclass(frozen=True, eq=False)  # equality of arrays is not a truth value
class Allocation:
    """How many rollouts each prompt gets, and what that is expected to bring.

    Attributes:
        budgets: (M,) int64, rollouts per prompt; adds up to the total budget.
        total_value: sum of Value(N_i, p_i) over the prompts the knapsack decides on (0 < p < 1, or all that have a
            belief); all other values are zero or unknown.
        expected_effective_ratio: expected effective-gradient ratio (paper, equation 4): share of rollouts with a
            non-zero gradient, taking the estimates at face value. Unseen prompts are left out; NaN if nothing is known.
        placed: rollouts by the rule that placed them; adds up to the total budget. ``minimum``: N_low of every prompt
            that is not unseen; ``unseen``: the homogeneous share of unseen prompts; ``knapsack``: the optimum;
            ``fallback``: prompts that never succeeded; ``review``: what floors by age add to N_low; ``remainder``: what
            none of these could take.
        rules: (M,) int64 indices into `PLACING_RULES`, the rule that decided on each prompt's rollouts: the one that
            placed those beyond N_low, or ``minimum`` if there are none. -1, or None for all, where it is not told.
    """

    budgets: Array
    total_value: float
    expected_effective_ratio: float
    placed: Mapping[str, int]
    rules: Array | None = None


def homogeneous_allocate(
    num_prompts: int,
    total_budget: int,
    *,
    success_rates: Any = None,
    value: str | Callable[..., Any] = "grpo",
    greedy_match_rates: Any = None,
    beliefs: tuple[Any, Any] | None = None,
) -> Allocation:
    """Give every prompt the same number of rollouts (paper, algorithm 1); a remainder goes to the first prompts.

    Args:
        num_prompts: M.
        total_budget: N_total, at least M.
        success_rates, value, greedy_match_rates, beliefs: as for `knapsack_allocate`; only for what the allocation
            says about itself. Without them, value and ratio are NaN.

    Raises:
        ValueError: fewer rollouts than prompts, or invalid estimates.

    >>> homogeneous_allocate(3, 8).budgets.tolist()
    [3, 3, 2]
    """
    num_prompts = _as_integer(num_prompts, "num_prompts")
    total_budget = _as_integer(total_budget, "total_budget")
    if num_prompts < 1:
        raise ValueError(f"num_prompts must be at least 1, got {num_prompts}")
    if total_budget < num_prompts:
        raise ValueError(
            f"total_budget={total_budget} is less than one rollout for each of the {num_prompts} prompts; raise it"
        )
    budgets = even_split(total_budget, num_prompts)
    placed = placed_by_rule(total_budget, minimum=total_budget // num_prompts * num_prompts)
    rules = np.full(num_prompts, rule_index("homogeneous"))
    if success_rates is None and beliefs is None:
        return Allocation(budgets, np.nan, np.nan, placed, rules)
    function = resolve_value_function(value)
    estimates = Estimates.check(function, success_rates, greedy_match_rates, beliefs)
    if len(estimates) != num_prompts:
        raise ValueError(f"estimates for {len(estimates)} prompts were given, expected num_prompts={num_prompts}")
    return _describe(budgets, placed, rules, function, estimates)


def effective_ratio(budgets: Array, shares: Array) -> float:
    """Effective-gradient ratio of budgets whose prompts have a gradient in given shares of their rollouts.

    Args:
        budgets: (M,) rollouts per prompt.
        shares: (M,) float in [0, 1]; prompts with NaN (unknown) are left out.

    Returns:
        The ratio in [0, 1]; NaN if nothing is known.

    >>> effective_ratio(np.array([2, 6, 8]), np.array([1.0, 0.0, np.nan]))
    0.25
    """
    is_known = ~np.isnan(shares)
    if not is_known.any():
        return float("nan")
    return float(budgets[is_known] @ shares[is_known] / budgets[is_known].sum())


def expected_effective_ratio(
    budgets: Any,
    *,
    success_rates: Any = None,
    value: str | Callable[..., Any] = "grpo",
    greedy_match_rates: Any = None,
    beliefs: tuple[Any, Any] | None = None,
) -> float:
    """Expected effective-gradient ratio (paper, equation 4) of any budgets: share of rollouts with a non-zero gradient.

    Args:
        budgets: (M,) rollouts per prompt.
        success_rates, value, greedy_match_rates, beliefs: as for `knapsack_allocate`. With ``value="expected"`` the
            uncertainty of the beliefs is averaged over; else the estimates are taken at face value, and unseen prompts
            are left out.

    Returns:
        The ratio in [0, 1]; NaN if nothing is known.

    Raises:
        ValueError: invalid estimates, or not one budget for each.

    >>> expected_effective_ratio([2, 6], success_rates=[0.5, 1.0])
    0.125
    """
    function = resolve_value_function(value)
    estimates = Estimates.check(function, success_rates, greedy_match_rates, beliefs)
    budgets = np.asarray(budgets)
    if budgets.shape != (len(estimates),):
        raise ValueError(f"budgets has shape {budgets.shape}, expected one for each of {len(estimates)} estimates")
    return effective_ratio(budgets, estimates.effective_shares(budgets, function.gradient_rule))


def knapsack_allocate(
    success_rates: Any,
    total_budget: int,
    n_low: int = 2,
    n_up: int = 128,
    *,
    value: str | Callable[..., Any] = "grpo",
    fallback: bool = True,
    fallback_confidence: float = 0.9,
    solver: str = "auto",
    greedy_match_rates: Any = None,
    beliefs: tuple[Any, Any] | None = None,
    token_limit: TokenLimit | None = None,
    unseen_share: int | None = None,
) -> Allocation:
    """Distribute `total_budget` rollouts over M prompts so that the total value is largest (paper, equation 5).

    Every prompt gets between `n_low` and `n_up` rollouts, and the sum is exactly `total_budget`. Within that:

    * unseen prompts (NaN) get the homogeneous share ``floor(total_budget / M)``;
    * prompts that always succeeded (p = 1) get `n_low`;
    * prompts with 0 < p < 1 get the optimum of the knapsack;
    * prompts that never succeeded (p = 0) get `n_low` and, with `fallback`, an even share of what is left once all
      prompts with 0 < p < 1 together have what Theorem 1 asks for: ``floor(min(cost, n_up - n_low))`` each beyond
      `n_low`, with the cost of `rollouts_for_confidence`;
    * what these rules leave (everybody they favour is at `n_up`) goes to p = 0, then unseen, then p = 1, evenly.

    The result does not depend on chance; prompts with equal estimates differ by at most one rollout if the value is
    concave, the larger budget coming first.

    Args:
        success_rates: (M,) float in [0, 1]; NaN where a prompt is unseen. May be None for ``value="expected"``.
        total_budget: N_total, rollouts to place; between M n_low and M n_up.
        n_low: least rollouts per prompt; at least 2 where the gradient compares the rollouts of a group.
        n_up: most rollouts per prompt.
        value: see `resolve_value_function`. With ``"expected"`` every prompt takes part in the knapsack with its
            belief, and the rules for unseen, p = 0 and p = 1 do not apply.
        fallback: whether to spend what is left on p = 0 (paper, section 4.2).
        fallback_confidence: probability of a non-zero gradient up to which 0 < p < 1 goes before p = 0; in (0, 1).
        solver: ``"greedy"`` (exact for values that are concave in n, any M, memory O(M)), ``"dp"`` (exact for any
            value; O(M total_budget n_up) time) or ``"auto"`` (greedy where the value is concave, else dp).
        greedy_match_rates: (M,) float in [0, 1], needed for ``value="remax"``: probability that a rollout earns what
            the greedy response earned; NaN (unknown) makes a prompt with 0 < p < 1 count as unseen.
        beliefs: ``(alpha, beta)``, (M,) float each and greater than 0, needed by values of beliefs.
        token_limit: most expected tokens of all rollouts; see `token_limit.within` for what gives way. The value must
            be concave; it is the largest within the limit up to the exchange of one rollout.
        unseen_share: rollouts of each unseen prompt, between `n_low` and `n_up`, or as many as the others' `n_low`
            leaves; None = the homogeneous share. For a part of a batch, whose own share would be another.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: the budget cannot be placed within the bounds or the token limit, an argument is out of range or
            missing, a user's value function fails or gives NaN, or ``solver="greedy"`` or a token limit was asked for
            with a value that is not concave.

    References:
        Knapsack RL, sections 4.1, 4.2 and table 3. B. Fox, Discrete optimization via marginal analysis, Management
        Science 13 (1966), for the greedy solver.

    >>> solved, unsolved = [1.0] * 6, 0.0
    >>> knapsack_allocate([unsolved, 0.9, *solved], total_budget=64).budgets.tolist()  # table 3
    [29, 23, 2, 2, 2, 2, 2, 2]
    >>> knapsack_allocate([unsolved, 0.9, *solved], total_budget=64, fallback=False).budgets.tolist()
    [2, 50, 2, 2, 2, 2, 2, 2]
    """
    function = resolve_value_function(value)
    estimates = Estimates.check(function, success_rates, greedy_match_rates, beliefs)
    total_budget, n_low, n_up = _check_bounds(len(estimates), total_budget, n_low, n_up, function)
    if not 0.0 < fallback_confidence < 1.0:
        raise ValueError(f"fallback_confidence must lie strictly between 0 and 1, got {fallback_confidence}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")

    if unseen_share is not None and not n_low <= (unseen_share := _as_integer(unseen_share, "unseen_share")) <= n_up:
        raise ValueError(f"unseen_share must lie between n_low={n_low} and n_up={n_up}, got {unseen_share}")

    rules = AllocationRules.of(estimates, function, total_budget, n_low, n_up, solver, unseen_share)
    fallback_rollouts = rules.fallback_rollouts(fallback_confidence) if fallback else 0
    if token_limit is None:
        budgets = rules.place(fallback_rollouts)
    else:
        if len(token_limit.lengths) != len(estimates):
            raise ValueError(
                f"the token limit has {len(token_limit.lengths)} lengths; expected one for each of {len(estimates)} "
                "prompts"
            )
        token_limit.check(total_budget, n_low, n_up)
        is_decided = rules.classes.is_mixed
        solve = partial(rules.solve_within, token_limit.lengths[is_decided])
        budgets = within(token_limit, rules.place, solve, fallback_rollouts, is_decided, n_low, n_up)
    placed = rules.placed(budgets, fallback_rollouts)
    return _describe(budgets, placed, rules.rules(budgets, fallback_rollouts), function, estimates)


def _as_integer(value: Any, name: str) -> int:
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be an integer, got {value!r}") from error


def _check_bounds(
    num_prompts: int, total_budget: Any, n_low: Any, n_up: Any, function: ValueFunction
) -> tuple[int, int, int]:
    total_budget = _as_integer(total_budget, "total_budget")
    n_low, n_up = _as_integer(n_low, "n_low"), _as_integer(n_up, "n_up")
    if n_low < 1:
        raise ValueError(f"n_low must be at least 1, got {n_low}: every prompt of a batch needs a rollout")
    if n_low < function.minimum_rollouts:
        raise ValueError(
            f"n_low={n_low} is too small for value={function.name!r}, expected at least "
            f"{function.minimum_rollouts}: the advantage compares the rollouts of a group, and a group of one has "
            "nothing to compare with"
        )
    if n_low > n_up:
        raise ValueError(f"n_low={n_low} exceeds n_up={n_up}; expected n_low <= n_up")
    if not num_prompts * n_low <= total_budget <= num_prompts * n_up:
        raise ValueError(
            f"total_budget={total_budget} cannot be placed on {num_prompts} prompts with n_low={n_low} and "
            f"n_up={n_up}; expected between {num_prompts * n_low} and {num_prompts * n_up}. Change the budget "
            "or the bounds"
        )
    return total_budget, n_low, n_up


def _describe(
    budgets: Array, placed: Mapping[str, int], rules: Array, function: ValueFunction, estimates: Estimates
) -> Allocation:
    is_mixed = PromptClasses.of(estimates).is_mixed
    parameters = tuple(parameter[is_mixed] for parameter in estimates.parameters(function))
    return Allocation(
        budgets=budgets,
        total_value=float(function.values_at(budgets[is_mixed], parameters).sum()),
        expected_effective_ratio=effective_ratio(budgets, estimates.effective_shares(budgets, function.gradient_rule)),
        placed=placed,
        rules=rules,
    )
