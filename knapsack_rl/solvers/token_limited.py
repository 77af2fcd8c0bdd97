"""Solver for a concave value under two budgets: exactly so many rollouts, and at most so many expected tokens.

A multiplier mu is put on the tokens of a rollout. For a given mu the largest entries of ``gain - mu * tokens`` are
optimal, as in the greedy solver, and the larger mu, the fewer tokens they have. The smallest mu that meets the limit is
found by bisection. Cells (a rollout of a prompt) that are chosen, or left, at both ends of the bracket are settled and
drop out, so that each round costs less than the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.solvers.problem import Problem

__all__ = ["solve_within_tokens"]

_TABLE_ENTRIES = 1 << 18
_SAMPLED_PROMPTS = 2048
_MOST_ROUNDS = 200


@dataclass(frozen=True, eq=False)
class _Cells:
    """C rollouts that may be chosen: whose they are, which of the prompt's, their gain and their tokens."""

    prompts: Array
    levels: Array
    gains: Array
    tokens: Array

    def take(self, chosen: Array) -> _Cells:
        return _Cells(self.prompts[chosen], self.levels[chosen], self.gains[chosen], self.tokens[chosen])


@dataclass(frozen=True, eq=False)
class _Choice:
    """The best cells at a multiplier: what the least of them is worth, and the tokens of all of them."""

    multiplier: float
    threshold: float
    tokens: float


def solve_within_tokens(
    problem: Problem, tokens: Array, amount: int, max_tokens: float, unlimited_tokens: float
) -> Array:
    """(M,) rollouts beyond n_low that maximise a concave value, are ``amount`` in total, and have at most max_tokens.

    The value is that of the best fractional solution up to the exchange of one rollout. Equal prompts with equal tokens
    get equal shares up to one rollout, the larger coming first.

    Args:
        problem: of M groups of one prompt each.
        tokens: (M,) expected tokens of a rollout of each prompt, at least 0.
        amount: rollouts to place.
        max_tokens: most tokens of these rollouts; no less than the cheapest ``amount`` rollouts have.
        unlimited_tokens: what they have without a limit; it tells where in a large problem to look.
    """
    if amount == 0:
        return np.zeros(len(tokens), dtype=np.int64)
    if len(tokens) * problem.levels > _TABLE_ENTRIES and unlimited_tokens > max_tokens:
        found = _search_near_sample(problem, tokens, amount, max_tokens, max_tokens / unlimited_tokens)
        if found is not None:
            search, low, high = found
            return search.exchanged(*_narrowed(search, low, high, max_tokens), max_tokens)
    search = _Search(_all_cells(problem, tokens), amount, len(tokens))
    low = search.at(0.0)
    if low.tokens <= max_tokens:
        return search.allocation(low)
    low, high = _narrowed(search, low, search.first_within(max_tokens, low), max_tokens)
    return search.exchanged(low, high, max_tokens)


def _narrowed(search: _Search, low: _Choice, high: _Choice, max_tokens: float) -> tuple[_Choice, _Choice]:
    """The bracket of the multiplier that just meets the limit, as narrow as numbers are."""
    for round_number in range(_MOST_ROUNDS):
        search.settle(low, high)
        if search.num_open <= 2 or high.multiplier - low.multiplier <= 4e-16 * high.multiplier:
            break
        middle = search.at(_between(low, high, max_tokens, by_halves=round_number % 2 == 1))
        if middle.multiplier in (low.multiplier, high.multiplier):
            break
        if middle.tokens <= max_tokens:
            high = middle
        else:
            low = middle
    return low, high


def _between(low: _Choice, high: _Choice, max_tokens: float, *, by_halves: bool) -> float:
    """A multiplier inside the bracket: where a line through its ends meets the limit, or every other time half way."""
    share = 0.5
    if not by_halves and low.tokens > high.tokens:
        share = float(np.clip((low.tokens - max_tokens) / (low.tokens - high.tokens), 0.05, 0.95))
    return low.multiplier + share * (high.multiplier - low.multiplier)


class _Search:
    """Cells of which some are settled.

    Args:
        cells: all that may be chosen.
        amount: how many are to be chosen.
        num_prompts: M.
        settled: (M,) cells of each prompt that are chosen already, besides ``cells``; and their tokens.
    """

    def __init__(
        self,
        cells: _Cells,
        amount: int,
        num_prompts: int,
        *,
        settled: tuple[Array, float] | None = None,
    ) -> None:
        self._open = cells
        self._num_prompts = num_prompts
        self._settled, self._settled_tokens = settled or (np.zeros(num_prompts, dtype=np.int64), 0.0)
        self._amount = amount - int(self._settled.sum())

    @property
    def num_open(self) -> int:
        """How many cells are not settled."""
        return len(self._open.gains)

    def at(self, multiplier: float) -> _Choice:
        """The best cells at a multiplier; of equal ones, those with fewest tokens."""
        if self._amount == 0 or self.num_open == 0:
            return _Choice(multiplier, np.nan, self._settled_tokens)
        worth = self._open.gains - multiplier * self._open.tokens
        threshold = np.partition(worth, len(worth) - self._amount)[len(worth) - self._amount]
        is_above = worth > threshold
        tokens = self._open.tokens[is_above].sum()
        of_equal = np.sort(self._open.tokens[worth == threshold])
        tokens += of_equal[: self._amount - int(np.count_nonzero(is_above))].sum()
        return _Choice(multiplier, float(threshold), self._settled_tokens + float(tokens))

    def first_within(self, max_tokens: float, low: _Choice) -> _Choice:
        """A choice within the limit, at a multiplier that grows until there is one."""
        smallest = max(float(np.max(self._open.gains)) * 1e-9, float(np.finfo(float).tiny))
        scale = max(abs(low.threshold), smallest)
        multiplier = scale / float(self._open.tokens.mean())
        choice = self.at(multiplier)
        while choice.tokens > max_tokens and multiplier < 1e250:
            multiplier *= 3.0
            choice = self.at(multiplier)
        return choice

    def settle(self, low: _Choice, high: _Choice) -> None:
        """Take out the cells that every multiplier between the two chooses, or leaves."""
        if self.num_open == 0 or np.isnan(low.threshold):
            return
        is_chosen = self._open.gains - high.multiplier * self._open.tokens > low.threshold
        is_left = self._open.gains - low.multiplier * self._open.tokens < high.threshold
        is_open = ~(is_chosen | is_left)
        if np.count_nonzero(is_open) > 0.8 * self.num_open > 1000:
            return  # copying the cells would take longer than keeping them
        chosen = self._open.prompts[is_chosen]
        self._settled += np.bincount(chosen, minlength=self._num_prompts)
        self._settled_tokens += float(self._open.tokens[is_chosen].sum())
        self._amount -= len(chosen)
        self._open = self._open.take(is_open)

    def allocation(self, choice: _Choice) -> Array:
        """(M,) rollouts of a choice."""
        return self._settled + self._chosen(choice)

    def _chosen(self, choice: _Choice) -> Array:
        if self._amount == 0:
            return np.zeros(self._num_prompts, dtype=np.int64)
        cells = self._open
        worth = cells.gains - choice.multiplier * cells.tokens
        threshold = np.partition(worth, len(worth) - self._amount)[len(worth) - self._amount]
        is_above = worth > threshold
        equal = np.flatnonzero(worth == threshold)
        order = np.lexsort((cells.prompts[equal], cells.levels[equal], cells.tokens[equal]))
        taken = equal[order[: self._amount - int(np.count_nonzero(is_above))]]
        return np.bincount(np.concatenate([cells.prompts[is_above], cells.prompts[taken]]), minlength=self._num_prompts)

    def exchanged(self, low: _Choice, high: _Choice, max_tokens: float) -> Array:
        """The choice within the limit, with as many of its exchanges against the other undone as the limit allows.

        At the multiplier where they meet, both are optimal, and so is every choice between them.
        """
        beyond, within = self._chosen(low), self._chosen(high)
        of_prompt = np.zeros(self._num_prompts)
        of_prompt[self._open.prompts] = self._open.tokens
        change = within - beyond
        lost = np.repeat(np.arange(self._num_prompts), np.maximum(-change, 0))
        won = np.repeat(np.arange(self._num_prompts), np.maximum(change, 0))
        lost = lost[np.argsort(-of_prompt[lost], kind="stable")]
        won = won[np.argsort(of_prompt[won], kind="stable")]
        room = max_tokens - self._settled_tokens - float(within @ of_prompt)
        for back, away in zip(lost, won, strict=True):
            cost = of_prompt[back] - of_prompt[away]
            if cost <= room:
                room -= cost
                within[back] += 1
                within[away] -= 1
        return self._settled + within


def _search_near_sample(
    problem: Problem, tokens: Array, amount: int, max_tokens: float, share_of_unlimited: float
) -> tuple[_Search, _Choice, _Choice] | None:
    """A search over the cells that may be chosen or left near a multiplier, with a bracket; None if it is elsewhere.

    A sample of the prompts tells where about the multiplier and the threshold lie. One pass over all prompts counts the
    cells that are worth more than that and collects those that may be either. It is then checked that the bracket holds
    the multiplier, and that what was counted or left out is so at both of its ends.
    """
    sample = np.argsort(problem.parameters[0], kind="stable")[:: -(-len(tokens) // _SAMPLED_PROMPTS)]
    sampled = _Search(
        _all_cells(_prompts_of(problem, sample), tokens[sample]),
        max(amount * len(sample) // len(tokens), 1),
        len(sample),
    )
    guess = _guess(sampled, share_of_unlimited)
    for margin in (0.03, 0.12, 0.5):
        ends = guess.multiplier * (1.0 - margin), guess.multiplier * (1.0 + margin)
        highest, lowest = (sampled.at(end).threshold for end in ends)
        room = 0.5 * (highest - lowest) + margin * 0.1 * abs(guess.threshold)
        lowest, highest = lowest - room, highest + room
        cells, settled = _cells_between(problem, tokens, lowest + ends[0] * tokens, highest + ends[1] * tokens)
        if not settled.sum() < amount <= settled.sum() + len(cells.gains):
            continue
        search = _Search(cells, amount, len(tokens), settled=(settled, float(settled @ tokens)))
        low, high = (search.at(end) for end in ends)
        if lowest < high.threshold and low.threshold < highest and high.tokens <= max_tokens < low.tokens:
            return search, low, high
    return None


def _prompts_of(problem: Problem, chosen: Array) -> Problem:
    parameters = tuple(parameter[chosen] for parameter in problem.parameters)
    return Problem(problem.function, parameters, problem.prompts[chosen], problem.n_low, problem.n_up)


def _guess(search: _Search, share_of_unlimited: float) -> _Choice:
    """About where a sample spends the given share of the tokens that it spends without a limit."""
    low = search.at(0.0)
    max_tokens = share_of_unlimited * low.tokens
    if low.tokens <= max_tokens:
        return low
    high = search.first_within(max_tokens, low)
    while high.multiplier - low.multiplier > 3e-3 * high.multiplier:
        middle = search.at(_between(low, high, max_tokens, by_halves=True))
        low, high = (low, middle) if middle.tokens <= max_tokens else (middle, high)
    return high


def _all_cells(problem: Problem, tokens: Array) -> _Cells:
    table = problem.gain_table()
    num_prompts, levels = table.shape
    return _Cells(
        np.repeat(np.arange(num_prompts), levels),
        np.tile(np.arange(levels), num_prompts),
        table.ravel(),
        np.repeat(np.asarray(tokens, dtype=np.float64), levels),
    )


def _cells_between(problem: Problem, tokens: Array, floors: Array, ceilings: Array) -> tuple[_Cells, Array]:
    """The cells whose gain exceeds their prompt's floor but not its ceiling, and (M,) how many exceed the ceiling."""
    gains = problem.gains()
    active, floor, ceiling = np.arange(len(tokens)), floors, ceilings
    beyond = np.zeros(len(tokens), dtype=np.int64)
    prompts, levels, collected = [], [], []
    for level in range(problem.levels):
        current = gains.current()
        is_above = current > floor
        num_above = int(np.count_nonzero(is_above))
        is_beyond = current > ceiling
        beyond[active[is_beyond]] += 1
        is_between = is_above & ~is_beyond
        prompts.append(active[is_between])
        levels.append(np.full(len(prompts[-1]), level))
        collected.append(current[is_between])
        if num_above == 0 or level + 1 == problem.levels:
            break
        if num_above < 0.9 * len(active):
            active, floor, ceiling = active[is_above], floor[is_above], ceiling[is_above]
            gains.keep(is_above)
        gains.advance()
    of_cell = np.concatenate(prompts)
    cells = _Cells(of_cell, np.concatenate(levels), np.concatenate(collected), np.asarray(tokens, np.float64)[of_cell])
    return cells, beyond
