"""Rollout allocation: how many rollouts each prompt of a training step gets under a fixed total budget.

The problem (paper, equation 5): maximise ``sum_i Value(N_i, p_i)`` subject to ``sum_i N_i = N_total`` and
``N_low <= N_i <= N_up``, where ``p_i`` is the success rate of prompt i and ``Value`` is the probability that N_i
rollouts give a non-zero gradient times the information that such a gradient carries. Arrays in, arrays out; NumPy and
`scipy.special`, plus numba when the dynamic programme runs, so that any trainer can use this file.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import xlog1py, xlogy

__all__ = [
    "SOLVERS",
    "VALUE_BY_ADV_ESTIMATOR",
    "Allocation",
    "ValueFunction",
    "expected_effective_ratio",
    "expected_prob_nonzero_gradient",
    "expected_rollouts_until_nonzero_gradient",
    "expected_value",
    "grpo_value",
    "homogeneous_allocate",
    "info_gain",
    "knapsack_allocate",
    "prob_nonzero_gradient",
    "reinforce_value",
    "remax_value",
    "resolve_value_function",
    "rollouts_for_confidence",
    "value_for_adv_estimator",
]

SOLVERS = ("auto", "greedy", "dp")

# Tables of gains up to this many entries are held in memory (2 MB); beyond, gains are streamed level by level.
_TABLE_ENTRIES = 1 << 18
# Sorting a small table beats partitioning one in which every group is repeated as often as it occurs.
_PARTITION_ENTRIES = 1 << 17
_SAMPLED_GROUPS = 1024
_CANDIDATE_ENTRIES = 1 << 20
# Beyond this the dynamic programme would exhaust the memory of a trainer's node, and take hours.
_DYNAMIC_PROGRAMME_BYTES = 4 << 30
# Rounding in a user's value function may bend a concave table by this much, relative to the values.
_CONCAVITY_TOLERANCE = 1e-12


# --- Theory: probabilities and values ---------------------------------------------------------------------------------


def prob_nonzero_gradient(n: Any, p: Any) -> np.ndarray:
    """Probability that a group of n rollouts holds both a success and a failure: ``1 - p^n - (1-p)^n``.

    Paper, section 3.2. Evaluated without cancellation, also for p close to 0 or 1.

    Args:
        n: number of rollouts, integers >= 1, any shape that broadcasts with `p`.
        p: success rates in [0, 1].

    >>> prob_nonzero_gradient([1, 2, 8], 0.5).tolist()
    [0.0, 0.5, 0.9921875]
    """
    n, p = np.asarray(n), np.asarray(p, dtype=np.float64)
    # p + (1-p) = 1 turns the formula into p (1 - p^(n-1)) + (1-p) (1 - (1-p)^(n-1)): two terms that are never negative.
    return 0.0 - p * np.expm1(xlogy(n - 1, p)) - (1.0 - p) * np.expm1(xlog1py(n - 1, -p))


def info_gain(p: Any) -> np.ndarray:
    """First-order increase of the success rate through one policy-gradient update: ``p (1-p)^2``.

    Paper, proposition 1. Largest at p = 1/3.

    >>> float(info_gain(0.5))
    0.125
    """
    p = np.asarray(p, dtype=np.float64)
    return p * (1.0 - p) ** 2


def grpo_value(n: Any, p: Any) -> np.ndarray:
    """Value of n rollouts for GRPO and RLOO (paper, section 4.1): `prob_nonzero_gradient` times `info_gain`."""
    return prob_nonzero_gradient(n, p) * info_gain(p)


def reinforce_value(n: Any, p: Any) -> np.ndarray:
    """Value of n rollouts for REINFORCE (paper, appendix B): ``(1 - (1-p)^n) p (1-p)^2``."""
    return -np.expm1(xlog1py(n, -np.asarray(p, dtype=np.float64))) * info_gain(p)


def remax_value(n: Any, p: Any, a: Any) -> np.ndarray:
    """Value of n rollouts for ReMax (paper, appendix B): ``(1 - a^n) p (1-p)^2``.

    Args:
        n: number of rollouts, integers >= 1.
        p: success rates in [0, 1].
        a: probability that a rollout earns what the greedy response earned, in [0, 1].
    """
    return -np.expm1(xlogy(n, np.asarray(a, dtype=np.float64))) * info_gain(p)


def expected_value(n: Any, alpha: Any, beta: Any) -> np.ndarray:
    """Expectation of `grpo_value` when p is uncertain with a Beta(alpha, beta) belief.

    A prompt seen 0 times of 8 or 8 times of 8 keeps a positive value, so it needs no rule of its own.

    The closed form is ``[B(alpha+1, beta+2) - B(alpha+n+1, beta+2) - B(alpha+1, beta+n+2)] / B(alpha, beta)`` with the
    Beta function B. It is summed up from its increments, each a product of ratios near 1, which is exact to rounding
    however large the counts are; the difference of logarithms of Beta functions is not.

    Args:
        n: number of rollouts, integers >= 1, any shape that broadcasts with `alpha` and `beta`.
        alpha: pseudo-count of successes, greater than 0.
        beta: pseudo-count of failures, greater than 0.

    >>> round(float(expected_value(2, 1.0, 1.0)), 6)  # the integral of 2 p (1-p) * p (1-p)^2 over [0, 1] is 1/30
    0.033333
    """
    return _sum_of_expected_gains(n, alpha, beta, successes=1, failures=2)


def expected_prob_nonzero_gradient(n: Any, alpha: Any, beta: Any) -> np.ndarray:
    """Expectation of `prob_nonzero_gradient` when p has a Beta(alpha, beta) belief. Arguments: see `expected_value`.

    >>> round(float(expected_prob_nonzero_gradient(2, 1.0, 1.0)), 6)
    0.333333
    """
    return _sum_of_expected_gains(n, alpha, beta, successes=0, failures=0)


def rollouts_for_confidence(p: Any, confidence: float = 0.9) -> np.ndarray:
    """Rollouts that suffice for a non-zero gradient with probability `confidence` (Theorem 1, first part).

    ``ln(1 - confidence) / ln(max(p, 1-p))``, not rounded; infinite for p = 0 and p = 1.

    >>> rollouts_for_confidence([0.01, 0.9]).round(2).tolist()
    [229.11, 21.85]
    """
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return np.log1p(-confidence) / np.log1p(-np.minimum(p, 1.0 - p))


def expected_rollouts_until_nonzero_gradient(p: Any) -> np.ndarray:
    """Mean number of rollouts until both a success and a failure have been seen: ``1/p + 1/(1-p) - 1``.

    Theorem 1, second part; infinite for p = 0 and p = 1.

    >>> float(expected_rollouts_until_nonzero_gradient(0.5))
    3.0
    """
    p = np.asarray(p, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        return 1.0 / p + 1.0 / (1.0 - p) - 1.0


def _rising_ratio(upper: np.ndarray, lower: np.ndarray, steps: Any) -> np.ndarray:
    """Product of ``(upper + j) / (lower + j)`` over j < steps, broadcasting."""
    upper, lower, steps = np.broadcast_arrays(upper, lower, steps)
    product = np.ones(steps.shape)
    for j in range(int(steps.max(initial=0))):
        np.multiply(product, (upper + j) / (lower + j), out=product, where=j < steps)
    return product


def _beta_moment(alpha: np.ndarray, beta: np.ndarray, successes: Any, failures: Any) -> np.ndarray:
    """E[p^successes (1-p)^failures] for p ~ Beta(alpha, beta)."""
    total = alpha + beta
    return _rising_ratio(alpha, total, successes) * _rising_ratio(beta, total + successes, failures)


def _sum_of_expected_gains(n: Any, alpha: Any, beta: Any, successes: int, failures: int) -> np.ndarray:
    """E[(1 - p^n - (1-p)^n) p^successes (1-p)^failures], summed over what each rollout after the first adds."""
    n, alpha, beta = np.broadcast_arrays(n, np.asarray(alpha, np.float64), np.asarray(beta, np.float64))
    shape, by_rollouts = n.shape, np.argsort(-n, axis=None, kind="stable")
    n, alpha, beta = (array.ravel()[by_rollouts] for array in (n, alpha, beta))
    more_successes = _beta_moment(alpha, beta, 1 + successes, 1 + failures)
    more_failures = more_successes.copy()
    drawn = alpha + beta + successes + failures
    sums = np.zeros(n.size)
    for k in range(1, int(n.max(initial=1))):
        # Entries are sorted by n, so those that still have rollouts to come are at the front.
        size = int(np.searchsorted(-n, -k))
        sums[:size] += more_successes[:size] + more_failures[:size]
        more_successes[:size] *= (alpha[:size] + successes + k) / (drawn[:size] + k + 1)
        more_failures[:size] *= (beta[:size] + failures + k) / (drawn[:size] + k + 1)
    total = np.empty(n.size)
    total[by_rollouts] = sums
    return total.reshape(shape)


# --- Value functions as the solvers see them --------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueFunction:
    """A value function together with what the allocator needs to know of it.

    The gain of a rollout, ``value(n+1) - value(n)``, is a sum of terms that shrink by a ratio from one rollout to the
    next. Giving terms and ratios instead of differences keeps gains exact where values differ by less than a rounding
    error, and makes the value provably concave: every ratio is at most 1.

    Attributes:
        name: how configuration names it.
        parameters: what it depends on besides n, in this order: ``success_rates`` or ``success_rates,
            greedy_match_rates`` or ``alpha, beta``.
        value: ``value(n, *parameters)``, broadcasting.
        effective_share: ``effective_share(n, *parameters)``: expected share of n rollouts with a non-zero gradient.
        minimum_rollouts: smallest N_low for which the value is meant.
        gain_terms: ``gain_terms(n, *parameters)``: tuple of arrays whose sum is the gain of rollout n+1; None for a
            user's function, whose gains are differences of values.
        gain_ratios: ``gain_ratios(n, *parameters)``: by what each term is multiplied from n to n+1.
    """

    name: str
    parameters: tuple[str, ...]
    value: Callable[..., np.ndarray]
    effective_share: Callable[..., np.ndarray]
    minimum_rollouts: int = 1
    gain_terms: Callable[..., tuple[np.ndarray, ...]] | None = None
    gain_ratios: Callable[..., tuple[np.ndarray, ...]] | None = None

    def __call__(self, n: Any, *parameters: Any) -> np.ndarray:
        """The value of n rollouts."""
        return self.value(n, *parameters)

    @property
    def is_known_concave(self) -> bool:
        """Whether concavity in n is proven by the form of the gains, so that no table need be looked at."""
        return self.gain_terms is not None


def _grpo_gain_terms(n, p):
    return p ** (n + 1) * (1.0 - p) ** 3, p**2 * (1.0 - p) ** (n + 2)


def _expected_gain_terms(n, alpha, beta):
    return _beta_moment(alpha, beta, n + 1, 3), _beta_moment(alpha, beta, 2, n + 2)


def _expected_gain_ratios(n, alpha, beta):
    return (alpha + n + 1) / (alpha + beta + n + 4), (beta + n + 2) / (alpha + beta + n + 4)


def _grpo_like(name: str) -> ValueFunction:
    return ValueFunction(
        name=name,
        parameters=("success_rates",),
        value=grpo_value,
        effective_share=prob_nonzero_gradient,
        minimum_rollouts=2,
        gain_terms=_grpo_gain_terms,
        gain_ratios=lambda n, p: (p, 1.0 - p),
    )


_VALUE_FUNCTIONS: Mapping[str, ValueFunction] = MappingProxyType(
    {
        "grpo": _grpo_like("grpo"),
        "rloo": _grpo_like("rloo"),
        "reinforce": ValueFunction(
            name="reinforce",
            parameters=("success_rates",),
            value=reinforce_value,
            effective_share=lambda n, p: p,
            gain_terms=lambda n, p: (p**2 * (1.0 - p) ** (n + 2),),
            gain_ratios=lambda n, p: (1.0 - p,),
        ),
        "remax": ValueFunction(
            name="remax",
            parameters=("success_rates", "greedy_match_rates"),
            value=remax_value,
            effective_share=lambda n, p, a: 1.0 - a,
            gain_terms=lambda n, p, a: (a**n * (1.0 - a) * info_gain(p),),
            gain_ratios=lambda n, p, a: (a,),
        ),
        "expected": ValueFunction(
            name="expected",
            parameters=("alpha", "beta"),
            value=expected_value,
            effective_share=expected_prob_nonzero_gradient,
            minimum_rollouts=2,
            gain_terms=_expected_gain_terms,
            gain_ratios=_expected_gain_ratios,
        ),
    }
)

VALUE_BY_ADV_ESTIMATOR: Mapping[str, str] = MappingProxyType(
    {
        "grpo": "grpo",
        "rloo": "rloo",
        # Both subtract a baseline that equals the reward when all rewards of a group are the same.
        "opo": "grpo",
        "gpg": "grpo",
        # The group mean, then whitening over the batch, which only shifts and scales what is left.
        "reinforce_plus_plus_baseline": "grpo",
        "reinforce_plus_plus": "reinforce",
        "remax": "remax",
    }
)
"""The value function that each of verl's advantage estimators implies.

``gae`` has none because its critic gives every rollout a gradient, and ``grpo_passk`` because its gradient is non-zero
only when exactly one rollout of a group succeeds.
"""


def value_for_adv_estimator(adv_estimator: str) -> str:
    """Name of the value function that an advantage estimator of verl implies (paper, appendix B).

    Raises:
        ValueError: the estimator has no value function; the message lists those that have one.

    >>> value_for_adv_estimator("gpg")
    'grpo'
    """
    name = str(getattr(adv_estimator, "value", adv_estimator))
    if name not in VALUE_BY_ADV_ESTIMATOR:
        raise ValueError(
            f"advantage estimator {name!r} has no value function; those that have one: "
            f"{', '.join(VALUE_BY_ADV_ESTIMATOR)}. Choose one of them, or set exploration.value to one of "
            f"{', '.join(_VALUE_FUNCTIONS)} or to 'package.module:function'"
        )
    return VALUE_BY_ADV_ESTIMATOR[name]


def resolve_value_function(value: str | Callable[..., Any]) -> ValueFunction:
    """The value function behind a configuration entry.

    Args:
        value: ``grpo``, ``rloo``, ``reinforce``, ``remax``, ``expected``, ``package.module:function``, or a callable
            ``f(n, p)``. A user's function is called with n as an int and p as a (K,) float array of success rates
            strictly between 0 and 1, and returns (K,) finite numbers. A function of scalars can be wrapped in
            `numpy.vectorize`.

    Raises:
        ValueError: unknown name, or a function that cannot be imported or called.

    >>> float(resolve_value_function("grpo")(2, 0.5))
    0.0625
    """
    if isinstance(value, ValueFunction):
        return value
    if callable(value):
        return _user_value_function(value, getattr(value, "__qualname__", repr(value)))
    if isinstance(value, str) and value in _VALUE_FUNCTIONS:
        return _VALUE_FUNCTIONS[value]
    if isinstance(value, str) and ":" in value:
        return _user_value_function(_import_function(value), value)
    raise ValueError(
        f"unknown value function {value!r}; expected one of {', '.join(_VALUE_FUNCTIONS)}, "
        "'package.module:function', or a callable f(n, p)"
    )


def _import_function(path: str) -> Callable[..., Any]:
    module_name, _, function_name = path.partition(":")
    try:
        function = operator.attrgetter(function_name)(importlib.import_module(module_name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"value function {path!r} cannot be imported: {error}; expected 'package.module:function', with the "
            "package on the Python path"
        ) from error
    if not callable(function):
        raise ValueError(f"value function {path!r} is a {type(function).__name__}, expected a callable f(n, p)")
    return function


def _user_value_function(function: Callable[..., Any], name: str) -> ValueFunction:
    def checked_value(n: int, p: np.ndarray) -> np.ndarray:
        try:
            values = np.asarray(function(n, p), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"value function {name} failed for n={n} and an array of {p.size} success rates: {error}; it is called "
                "with an int and an array. Wrap a function of scalars in numpy.vectorize"
            ) from error
        if values.shape != p.shape:
            raise ValueError(
                f"value function {name} returned shape {values.shape} for {p.shape} success rates; expected one value "
                "for each. Wrap a function of scalars in numpy.vectorize"
            )
        is_finite = np.isfinite(values)
        if not is_finite.all():
            first = int(np.argmin(is_finite))
            raise ValueError(
                f"value function {name} gave {values[first]} for p={float(p[first])!r}, N={n}; expected a number"
            )
        return values

    return ValueFunction(
        name=name, parameters=("success_rates",), value=checked_value, effective_share=prob_nonzero_gradient
    )


# --- Gains: what one more rollout adds to each group of equal prompts -------------------------------------------------


class _AnalyticGains:
    """Gains of a built-in value function, from one rollout count to the next."""

    def __init__(self, function: ValueFunction, parameters: tuple[np.ndarray, ...], n_low: int) -> None:
        self._function = function
        self._parameters = parameters
        self._n = n_low
        self._terms = function.gain_terms(n_low, *parameters)

    def current(self) -> np.ndarray:
        """Gain of the next rollout, one per group."""
        return sum(self._terms)

    def advance(self) -> None:
        ratios = self._function.gain_ratios(self._n, *self._parameters)
        self._terms = tuple(term * ratio for term, ratio in zip(self._terms, ratios, strict=True))
        self._n += 1

    def keep(self, is_kept: np.ndarray) -> None:
        """Forget the other groups."""
        self._parameters = tuple(parameter[is_kept] for parameter in self._parameters)
        self._terms = tuple(term[is_kept] for term in self._terms)


class _DifferencedGains:
    """Gains of a concave user function: differences of its values, with rounding noise ironed out."""

    def __init__(self, function: ValueFunction, parameters: tuple[np.ndarray, ...], n_low: int) -> None:
        self._function = function
        self._parameters = parameters
        self._n = n_low
        self._values = function.value(n_low, *parameters)
        self._gains = np.full(len(self._values), np.inf)
        self._difference()

    def _difference(self) -> None:
        values = self._function.value(self._n + 1, *self._parameters)
        self._gains = np.minimum(self._gains, values - self._values)
        self._values = values

    def current(self) -> np.ndarray:
        """Gain of the next rollout, one per group."""
        return self._gains

    def advance(self) -> None:
        self._n += 1
        self._difference()

    def keep(self, is_kept: np.ndarray) -> None:
        """Forget the other groups."""
        self._parameters = tuple(parameter[is_kept] for parameter in self._parameters)
        self._values, self._gains = self._values[is_kept], self._gains[is_kept]


@dataclass(frozen=True)
class _Problem:
    """Distribute rollouts beyond `n_low` over groups of prompts with equal parameters."""

    function: ValueFunction
    parameters: tuple[np.ndarray, ...]  # (G,) each
    prompts: np.ndarray  # (G,) int64: how many prompts each group has
    n_low: int
    n_up: int

    @property
    def levels(self) -> int:
        return self.n_up - self.n_low

    def gains(self) -> _AnalyticGains | _DifferencedGains:
        """Stream of gains that never increase, starting with rollout n_low + 1."""
        stream = _AnalyticGains if self.function.is_known_concave else _DifferencedGains
        return stream(self.function, self.parameters, self.n_low)

    def gain_table(self) -> np.ndarray:
        """(G, n_up - n_low) gains of rollouts n_low + 1 to n_up, never increasing along a row."""
        if not self.function.is_known_concave:
            gains = self.gains()
            rows = [gains.current()]
            for _ in range(1, self.levels):
                gains.advance()
                rows.append(gains.current())
            return np.stack(rows, axis=1)
        columns = tuple(parameter[:, None] for parameter in self.parameters)
        first_terms = self.function.gain_terms(self.n_low, *columns)
        ratios = self.function.gain_ratios(np.arange(self.n_low, self.n_up - 1), *columns)
        table = np.zeros((len(self.prompts), self.levels))
        for first_term, ratio in zip(first_terms, ratios, strict=True):
            term = np.empty_like(table)
            term[:, :1] = first_term
            term[:, 1:] = ratio
            table += np.multiply.accumulate(term, axis=1, out=term)
        return table

    def value_table(self) -> np.ndarray:
        """(G, n_up - n_low + 1) values of n_low to n_up rollouts."""
        rollouts = range(self.n_low, self.n_up + 1)
        return np.stack([np.asarray(self.function.value(n, *self.parameters)) for n in rollouts], axis=1)

    def subset(self, chosen: slice) -> _Problem:
        parameters = tuple(parameter[chosen] for parameter in self.parameters)
        return _Problem(self.function, parameters, self.prompts[chosen], self.n_low, self.n_up)


def _group_equal(parameters: tuple[np.ndarray, ...]) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
    """Groups of equal prompts: their parameters, the group of every prompt, and the number of prompts per group."""
    order = np.lexsort(parameters[::-1])
    ordered = tuple(parameter[order] for parameter in parameters)
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.any([parameter[1:] != parameter[:-1] for parameter in ordered], axis=0)
    group_of = np.empty(len(order), dtype=np.int64)
    group_of[order] = np.cumsum(is_first) - 1
    starts = np.flatnonzero(is_first)
    prompts = np.diff(starts, append=len(order))
    return tuple(parameter[is_first] for parameter in ordered), group_of, prompts


def _first_convex_point(problem: _Problem) -> tuple[int, int] | None:
    """The first (group, N) at which the gain of rollout N+1 exceeds that of rollout N, or None if concave."""
    values = [problem.function.value(n, *problem.parameters) for n in range(problem.n_low, problem.n_low + 2)]
    for n in range(problem.n_low + 1, problem.n_up):
        values.append(problem.function.value(n + 1, *problem.parameters))
        before, here, after = values
        tolerance = _CONCAVITY_TOLERANCE * (np.abs(before) + 2.0 * np.abs(here) + np.abs(after))
        is_convex = (after - here) - (here - before) > tolerance
        if is_convex.any():
            return int(np.argmax(is_convex)), n
        del values[0]
    return None


# --- Greedy solver: the largest marginal gains ------------------------------------------------------------------------


def _solve_greedy(problem: _Problem, group_of: np.ndarray, amount: int) -> np.ndarray:
    """(M,) rollouts beyond n_low that maximise a concave value.

    For concave values the `amount` largest entries of the table of gains are optimal (Fox 1966). All entries above
    the amount-th largest are taken; entries equal to it go to the prompts with fewest rollouts, then in prompt order.
    """
    if amount == 0:
        return np.zeros(len(group_of), dtype=np.int64)
    if len(problem.prompts) * problem.levels <= _TABLE_ENTRIES:
        above, reached = _count_in_table(problem, amount)
    else:
        above, reached = _count_in_stream(problem, amount)
    extra = above[group_of]
    return _raise_lowest(extra, reached[group_of], amount - int(extra.sum()))


def _count_in_table(problem: _Problem, amount: int) -> tuple[np.ndarray, np.ndarray]:
    """(G,) numbers of gains above, and of gains not below, the amount-th largest gain."""
    table = problem.gain_table()
    if int(problem.prompts.sum()) * problem.levels <= _PARTITION_ENTRIES:
        gains = (table if np.all(problem.prompts == 1) else np.repeat(table, problem.prompts, axis=0)).ravel()
        threshold = np.partition(gains, gains.size - amount)[gains.size - amount]
    else:
        threshold = _weighted_largest(table.ravel(), np.repeat(problem.prompts, problem.levels), amount)
    return np.count_nonzero(table > threshold, axis=1), np.count_nonzero(table >= threshold, axis=1)


def _weighted_largest(gains: np.ndarray, weights: np.ndarray, rank: float) -> float:
    """The gain at which the summed weights, from the largest gain down, reach `rank`."""
    order = np.argsort(-gains, kind="stable")
    position = int(np.searchsorted(np.cumsum(weights[order]), rank))
    return float(gains[order[min(position, len(order) - 1)]])


def _count_in_stream(problem: _Problem, amount: int) -> tuple[np.ndarray, np.ndarray]:
    """As `_count_in_table`, with memory proportional to the number of groups.

    A stratified sample of the groups gives an interval that holds the threshold and few other gains; the gains in it
    are collected in one pass and the threshold is selected among them.
    """
    lower, upper, above_lower, above_upper = _bracket_from_sample(problem, amount)
    while int((above_lower - above_upper).sum()) > _CANDIDATE_ENTRIES and np.nextafter(lower, np.inf) < upper:
        middle = _float_between(lower, upper)
        above_middle = _count_above(problem, middle)
        if int(above_middle @ problem.prompts) >= amount:
            lower, above_lower = middle, above_middle
        else:
            upper, above_upper = middle, above_middle
    if np.nextafter(lower, np.inf) >= upper:
        return above_upper, above_lower
    groups, gains = _collect_between(problem, lower, upper)
    rank = amount - int(above_upper @ problem.prompts)
    threshold = _weighted_largest(gains, problem.prompts[groups], rank)
    num_groups = len(problem.prompts)
    above = above_upper + np.bincount(groups[gains > threshold], minlength=num_groups)
    return above, above + np.bincount(groups[gains == threshold], minlength=num_groups)


def _bracket_from_sample(problem: _Problem, amount: int) -> tuple[float, float, np.ndarray, np.ndarray]:
    """An interval (lower, upper] holding the amount-th largest gain, and the (G,) numbers of gains above its ends."""
    sample = problem.subset(slice(None, None, -(-len(problem.prompts) // _SAMPLED_GROUPS)))
    table = sample.gain_table().ravel()
    weights = np.repeat(sample.prompts, sample.levels)
    rank = amount / (int(problem.prompts.sum()) * problem.levels) * int(weights.sum())
    margin = 0.02
    while True:
        is_within = rank * (1.0 + margin) < weights.sum()
        lower = (
            np.nextafter(_weighted_largest(table, weights, rank * (1.0 + margin)), -np.inf) if is_within else -np.inf
        )
        upper = _weighted_largest(table, weights, rank * (1.0 - margin)) if margin < 1.0 else np.inf
        above_lower, above_upper = _count_above(problem, lower), _count_above(problem, upper)
        if int(above_upper @ problem.prompts) < amount <= int(above_lower @ problem.prompts):
            return float(lower), float(upper), above_lower, above_upper
        margin *= 4.0


def _count_above(problem: _Problem, threshold: float) -> np.ndarray:
    """(G,) number of gains above `threshold`."""
    counts = np.zeros(len(problem.prompts), dtype=np.int64)
    for active, is_above, _ in _levels_above(problem, threshold):
        counts[active] += is_above
    return counts


def _collect_between(problem: _Problem, lower: float, upper: float) -> tuple[np.ndarray, np.ndarray]:
    """Groups and gains of all gains in (lower, upper]."""
    groups, collected = [], []
    for active, is_above, gains in _levels_above(problem, lower):
        is_inside = is_above & (gains <= upper)
        groups.append(active[is_inside])
        collected.append(gains[is_inside])
    return np.concatenate(groups), np.concatenate(collected)


def _levels_above(problem: _Problem, threshold: float):
    """Yield (groups, is_above, gains) level by level; groups whose gains have fallen to `threshold` drop out."""
    gains = problem.gains()
    active = np.arange(len(problem.prompts))
    for level in range(problem.levels):
        current = gains.current()
        is_above = current > threshold
        num_above = int(np.count_nonzero(is_above))
        yield active, is_above, current
        if num_above == 0:
            return
        if num_above < 0.9 * len(active):
            active = active[is_above]
            gains.keep(is_above)
        if level + 1 < problem.levels:
            gains.advance()


def _float_between(lower: float, upper: float) -> float:
    """The float halfway between two others in the order of all floats, so that bisection ends after 64 steps."""
    bits = np.array([lower, upper], dtype=np.float64).view(np.int64)
    ranks = [int(b) if b >= 0 else -(int(b) & 0x7FFFFFFFFFFFFFFF) for b in bits]
    middle = (ranks[0] + ranks[1]) // 2
    magnitude = np.array([abs(middle)], dtype=np.int64).view(np.float64)[0]
    return float(magnitude if middle >= 0 else -magnitude)


def _raise_lowest(levels: np.ndarray, caps: np.ndarray, amount: int) -> np.ndarray:
    """Add `amount` in total to integer `levels`, always to the lowest that is below its cap; ties in order.

    >>> _raise_lowest(np.array([0, 0, 5]), np.array([9, 9, 9]), 7).tolist()
    [4, 3, 5]
    """
    if amount == 0:
        return levels
    low, high = int(levels.min()), int(caps.max())
    while low < high:  # the highest water level that needs at most `amount`
        middle = (low + high + 1) // 2
        if int((np.clip(middle, levels, caps) - levels).sum()) <= amount:
            low = middle
        else:
            high = middle - 1
    raised = np.clip(low, levels, caps)
    left = amount - int((raised - levels).sum())
    can_rise = np.flatnonzero((raised <= low) & (raised < caps))
    raised[can_rise[:left]] += 1
    return raised


# --- Exact solver for any table of values -----------------------------------------------------------------------------


def _solve_dp(problem: _Problem, group_of: np.ndarray, amount: int) -> np.ndarray:
    """(M,) rollouts beyond n_low that maximise any value, by a dynamic programme over prompts and rollouts.

    Multiple-choice knapsack: every prompt chooses one column of its row of values. Takes O(M amount (n_up - n_low))
    time and O(M amount) bytes.

    Raises:
        ValueError: the instance is too large.
    """
    table = problem.value_table()
    by_group = np.argsort(group_of, kind="stable")
    choices = np.uint8 if problem.levels <= 255 else np.int32
    num_bytes = len(group_of) * (amount + 1) * np.dtype(choices).itemsize
    if num_bytes > _DYNAMIC_PROGRAMME_BYTES:
        raise ValueError(
            f"the dynamic programme for {len(group_of)} prompts and {amount} rollouts needs {num_bytes / 2**30:.1f} "
            f"GiB, more than {_DYNAMIC_PROGRAMME_BYTES / 2**30:.0f} GiB; use a value that is concave in N, for which "
            "solver='greedy' takes any size, or allocate smaller batches"
        )
    extra = np.empty(len(group_of), dtype=np.int64)
    extra[by_group] = _dynamic_programme()(table, group_of[by_group], amount, choices(0))
    return _even_out(table, group_of, extra)


@cache
def _dynamic_programme() -> Callable[..., np.ndarray]:
    """The compiled dynamic programme. numba is imported when first needed: concave values never need it."""
    from numba import njit

    @njit
    def solve(table, group_of, amount, zero):
        num_prompts, num_choices = len(group_of), table.shape[1]
        best = np.full(amount + 1, -np.inf)
        best[0] = 0.0
        updated = np.empty_like(best)
        chosen = np.full((num_prompts, amount + 1), zero)
        for i in range(num_prompts):
            values = table[group_of[i]]
            most = min(amount, (i + 1) * (num_choices - 1))
            # What the remaining prompts cannot take has to be placed by then.
            least = max(0, amount - (num_prompts - 1 - i) * (num_choices - 1))
            updated[:] = -np.inf
            for placed in range(least, most + 1):
                for k in range(min(placed, num_choices - 1) + 1):
                    value = best[placed - k] + values[k]
                    if value > updated[placed]:
                        updated[placed] = value
                        chosen[i, placed] = k
            best, updated = updated, best
        extra = np.empty(num_prompts, dtype=np.int64)
        left = amount
        for i in range(num_prompts - 1, -1, -1):
            extra[i] = chosen[i, left]
            left -= extra[i]
        return extra

    return solve


def _even_out(table: np.ndarray, group_of: np.ndarray, extra: np.ndarray) -> np.ndarray:
    """Share rollouts evenly among equal prompts where that costs no value; else the larger share comes first."""
    result = extra.copy()
    for group in np.flatnonzero(np.bincount(group_of) > 1):
        members = np.flatnonzero(group_of == group)
        shares = np.sort(extra[members])[::-1]
        even = _even_split(int(shares.sum()), len(members))
        value, even_value = table[group][shares].sum(), table[group][even].sum()
        tolerance = _CONCAVITY_TOLERANCE * np.abs(table[group]).max() * len(members)
        result[members] = even if even_value >= value - tolerance else shares
    return result


def _even_split(total: int, parts: int) -> np.ndarray:
    """(parts,) integers that add up to `total` and differ by at most one, the larger first."""
    return total // parts + (np.arange(parts) < total % parts)


# --- Allocation -------------------------------------------------------------------------------------------------------


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
            ``fallback``: prompts that never succeeded; ``remainder``: what none of these could take.
        shadow_price: what the total value would gain by one more rollout for the prompt that profits most from it; 0
            where no prompt of the knapsack can take one.
    """

    budgets: np.ndarray
    total_value: float
    expected_effective_ratio: float
    placed: Mapping[str, int]
    shadow_price: float


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
            says about itself. Without them, value, ratio and shadow price are NaN.

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
    budgets = _even_split(total_budget, num_prompts)
    placed = _placed(minimum=total_budget // num_prompts * num_prompts, remainder=total_budget % num_prompts)
    if success_rates is None and beliefs is None:
        return Allocation(budgets, np.nan, np.nan, placed, np.nan)
    estimates = _Estimates.check(resolve_value_function(value), success_rates, greedy_match_rates, beliefs)
    if len(estimates) != num_prompts:
        raise ValueError(f"estimates for {len(estimates)} prompts were given, expected num_prompts={num_prompts}")
    return _describe(budgets, placed, estimates, n_up=total_budget)


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
    estimates = _Estimates.check(resolve_value_function(value), success_rates, greedy_match_rates, beliefs)
    budgets = np.asarray(budgets)
    if budgets.shape != (len(estimates),):
        raise ValueError(f"budgets has shape {budgets.shape}, expected one for each of {len(estimates)} estimates")
    return _effective_ratio(budgets, estimates)


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
        beliefs: ``(alpha, beta)``, (M,) float each and greater than 0, needed for ``value="expected"`` only.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: the budget cannot be placed within the bounds, an argument is out of range or missing, a user's
            value function fails or gives NaN, or ``solver="greedy"`` was asked for a value that is not concave.

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
    estimates = _Estimates.check(function, success_rates, greedy_match_rates, beliefs)
    total_budget, n_low, n_up = _check_bounds(len(estimates), total_budget, n_low, n_up, function)
    if not 0.0 < fallback_confidence < 1.0:
        raise ValueError(f"fallback_confidence must lie strictly between 0 and 1, got {fallback_confidence}")
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}")

    budgets = np.full(len(estimates), n_low, dtype=np.int64)
    budgets[estimates.is_unseen] = total_budget // len(estimates)
    left = total_budget - int(budgets.sum())
    for_unsolved = _fallback_amount(estimates, left, n_low, n_up, fallback_confidence) if fallback else 0
    for_knapsack = min(left - for_unsolved, int(estimates.is_mixed.sum()) * (n_up - n_low))

    budgets[estimates.is_mixed] += _solve(function, estimates.mixed_parameters, for_knapsack, n_low, n_up, solver)
    budgets[estimates.is_unsolved] += _even_split_or_empty(for_unsolved, int(estimates.is_unsolved.sum()))
    remainder = total_budget - int(budgets.sum())
    _place_remainder(budgets, remainder, n_up, (estimates.is_unsolved, estimates.is_unseen, estimates.is_solved))

    num_unseen = int(estimates.is_unseen.sum())
    placed = _placed(
        minimum=(len(estimates) - num_unseen) * n_low,
        unseen=num_unseen * (total_budget // len(estimates)),
        knapsack=for_knapsack,
        fallback=for_unsolved,
        remainder=remainder,
    )
    return _describe(budgets, placed, estimates, n_up)


@dataclass(frozen=True)
class _Estimates:
    """What is known of M prompts, by the rule that applies to them; the four masks partition the prompts."""

    function: ValueFunction
    parameters: tuple[np.ndarray, ...]
    is_unseen: np.ndarray
    is_unsolved: np.ndarray
    is_mixed: np.ndarray
    is_solved: np.ndarray

    @classmethod
    def check(cls, function: ValueFunction, success_rates: Any, greedy_match_rates: Any, beliefs: Any) -> _Estimates:
        if function.parameters == ("alpha", "beta"):
            parameters = _check_beliefs(beliefs, function.name)
            everyone = np.ones(len(parameters[0]), dtype=bool)
            return cls(function, parameters, ~everyone, ~everyone, everyone, ~everyone)
        rates = _as_rates(success_rates, "success_rates")
        parameters = (rates,)
        is_unseen = np.isnan(rates)
        if "greedy_match_rates" in function.parameters:
            if greedy_match_rates is None:
                raise ValueError(f"value={function.name!r} needs greedy_match_rates, one per prompt; got None")
            matches = _as_rates(greedy_match_rates, "greedy_match_rates")
            if matches.shape != rates.shape:
                raise ValueError(
                    f"greedy_match_rates has shape {matches.shape}, expected {rates.shape} as success_rates"
                )
            parameters = (rates, matches)
            is_unseen |= (rates > 0.0) & (rates < 1.0) & np.isnan(matches)
        return cls(
            function, parameters, is_unseen, rates == 0.0, (rates > 0.0) & (rates < 1.0) & ~is_unseen, rates == 1.0
        )

    def __len__(self) -> int:
        return len(self.is_mixed)

    @property
    def mixed_parameters(self) -> tuple[np.ndarray, ...]:
        return tuple(parameter[self.is_mixed] for parameter in self.parameters)


def _as_rates(values: Any, name: str) -> np.ndarray:
    rates = _as_vector(values, name)
    is_valid = np.isnan(rates) | ((rates >= 0.0) & (rates <= 1.0))
    if not is_valid.all():
        first = int(np.argmin(is_valid))
        raise ValueError(f"{name} must lie in [0, 1], or be NaN where unknown; prompt {first} has {rates[first]}")
    return rates


def _as_vector(values: Any, name: str) -> np.ndarray:
    if values is None:
        raise ValueError(f"{name} is needed, one number per prompt; got None")
    try:
        vector = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, one per prompt: {error}") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(
            f"{name} must be a vector with one number per prompt and at least one prompt; got shape {vector.shape}"
        )
    return vector


def _check_beliefs(beliefs: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if beliefs is None or len(beliefs) != 2:
        raise ValueError(
            f"value={name!r} needs beliefs=(alpha, beta), two arrays with one number per prompt; got {beliefs!r}"
        )
    alpha, beta = _as_vector(beliefs[0], "alpha"), _as_vector(beliefs[1], "beta")
    if alpha.shape != beta.shape:
        raise ValueError(
            f"beliefs must have one alpha and one beta per prompt; got shapes {alpha.shape} and {beta.shape}"
        )
    for label, counts in (("alpha", alpha), ("beta", beta)):
        is_valid = (counts > 0.0) & np.isfinite(counts)
        if not is_valid.all():
            first = int(np.argmin(is_valid))
            raise ValueError(f"{label} of a belief must be a finite number above 0; prompt {first} has {counts[first]}")
    return alpha, beta


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


def _fallback_amount(estimates: _Estimates, left: int, n_low: int, n_up: int, confidence: float) -> int:
    """Rollouts that the fallback gives to unsolved prompts, in total (paper, section 4.2)."""
    capacity = int(estimates.is_unsolved.sum()) * (n_up - n_low)
    if capacity == 0:
        return 0
    costs = rollouts_for_confidence(estimates.parameters[0][estimates.is_mixed], confidence)
    needed = int(np.floor(np.minimum(costs, n_up - n_low)).sum())
    return min(max(left - needed, 0), capacity)


def _solve(
    function: ValueFunction, parameters: tuple[np.ndarray, ...], amount: int, n_low: int, n_up: int, solver: str
) -> np.ndarray:
    """(K,) rollouts beyond n_low for the K prompts that the knapsack decides on."""
    num_prompts = len(parameters[0])
    if num_prompts == 0 or n_low == n_up:
        return np.zeros(num_prompts, dtype=np.int64)
    groups, group_of, prompts = _group_equal(parameters)
    problem = _Problem(function, groups, prompts, n_low, n_up)
    if solver == "dp":
        return _solve_dp(problem, group_of, amount)
    convex_point = None if function.is_known_concave else _first_convex_point(problem)
    if convex_point is None:
        return _solve_greedy(problem, group_of, amount)
    if solver == "auto":
        return _solve_dp(problem, group_of, amount)
    group, n = convex_point
    raise ValueError(
        f"solver='greedy' needs a value that is concave in N, but {function.name} gains more from rollout {n + 1} "
        f"than from rollout {n} at p={float(groups[0][group])!r}, N={n}; use solver='dp' or solver='auto'"
    )


def _even_split_or_empty(total: int, parts: int) -> np.ndarray:
    return _even_split(total, parts) if parts else np.empty(0, dtype=np.int64)


def _place_remainder(budgets: np.ndarray, amount: int, n_up: int, receivers: Sequence[np.ndarray]) -> None:
    """Add `amount` to the first receivers up to n_up each, evenly, then to the next."""
    for is_receiver in receivers:
        current = budgets[is_receiver]
        given = min(amount, int((n_up - current).sum()))
        budgets[is_receiver] = _raise_lowest(current, np.full_like(current, n_up), given)
        amount -= given


def _placed(*, minimum=0, unseen=0, knapsack=0, fallback=0, remainder=0) -> Mapping[str, int]:
    return {
        "minimum": minimum,
        "unseen": unseen,
        "knapsack": knapsack,
        "fallback": fallback,
        "remainder": remainder,
    }


def _values_at(function: ValueFunction, rollouts: np.ndarray, parameters: tuple[np.ndarray, ...]) -> np.ndarray:
    """Value of each prompt at its own number of rollouts."""
    if function.is_known_concave:
        return function.value(rollouts, *parameters)
    values = np.empty(len(rollouts))
    for n in np.unique(rollouts):
        has_n = rollouts == n
        values[has_n] = function.value(int(n), *(parameter[has_n] for parameter in parameters))
    return values


def _describe(budgets: np.ndarray, placed: Mapping[str, int], estimates: _Estimates, n_up: int) -> Allocation:
    function, mixed = estimates.function, estimates.mixed_parameters
    values = _values_at(function, budgets[estimates.is_mixed], mixed)
    can_grow = budgets[estimates.is_mixed] < n_up
    growing = tuple(parameter[can_grow] for parameter in mixed)
    rollouts = budgets[estimates.is_mixed][can_grow]
    if function.is_known_concave:
        gains = sum(function.gain_terms(rollouts, *growing)) if len(rollouts) else np.empty(0)
    else:
        gains = _values_at(function, rollouts + 1, growing) - values[can_grow]
    return Allocation(
        budgets=budgets,
        total_value=float(values.sum()),
        expected_effective_ratio=_effective_ratio(budgets, estimates),
        placed=placed,
        shadow_price=float(gains.max(initial=0.0)) if len(gains) else 0.0,
    )


def _effective_ratio(budgets: np.ndarray, estimates: _Estimates) -> float:
    shares = estimates.function.effective_share(budgets, *estimates.parameters)
    is_known = ~np.isnan(shares)
    if not is_known.any():
        return float("nan")
    return float(budgets[is_known] @ shares[is_known] / budgets[is_known].sum())
