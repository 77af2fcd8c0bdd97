"""In which order the rollouts of a step go to the workers.

verl hands rows out in contiguous equal chunks: of N rows, worker w of W generates rows [w*N/W, (w+1)*N/W). Once
prompts differ in their number of rollouts, the order of the rows decides how even the work is and which worker sees
which prompt (paper, section 4.2, "Rollout Balancing"). Arrays in, arrays out; NumPy only.
"""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["DISPATCHES", "packed_order", "random_order", "worker_of_row", "workers_per_prompt"]

DISPATCHES = ("random", "packed")

# When to divide a prompt before packing: (from which share of a worker on, into pieces of which share). The first that
# leaves at most W - 1 prompts divided is taken; without any division, W - 1 cuts through a sequence are the most.
_DIVISIONS = ((1 / 2, 1 / 4), (1.0, 1 / 4), (np.inf, 1.0))
_MAX_EXCHANGES_PER_WORKER = 8
_NEGLIGIBLE_SHARE = 1e-4  # of the fullest worker's tokens: an exchange that gains less is not worth looking for


def random_order(budgets: Array, *, seed: int, step: int) -> Array:
    """Spread every prompt's rollouts over all workers at random (paper, section 4.2).

    Args:
        budgets: (M,) integers, rollouts per prompt, each at least 0.
        seed: seed of the run, at least 0.
        step: training step, at least 0. Equal (seed, step) give equal orders on every NumPy version and platform.

    Returns:
        (N_total,) int64: the prompt index of every row.

    Raises:
        ValueError: a budget, the seed or the step is negative or not an integer.

    >>> random_order(np.array([3, 1, 2]), seed=0, step=1)
    array([2, 2, 0, 0, 0, 1])
    """
    budgets = _as_budgets(budgets)
    if seed < 0 or step < 0:
        raise ValueError(f"seed and step must be at least 0, got seed={seed}, step={step}")
    rows = np.repeat(np.arange(len(budgets), dtype=np.int64), budgets)
    # Generator.permutation may change between NumPy versions, the raw stream of a bit generator may not (NEP 19).
    keys = np.random.PCG64(np.random.SeedSequence([seed, step])).random_raw(len(rows))
    return rows[np.argsort(keys, kind="stable")]


def packed_order(budgets: Array, num_workers: int, *, expected_tokens: Array | None = None) -> Array:
    """Keep prompts whole, so that a prefix cache serves all rollouts of a prompt, and balance the expected tokens.

    Every worker gets exactly N_total / W rows, at most W - 1 prompts lie on more than one worker, and a prompt's rows
    on a worker are contiguous. Prompts too big for an even share are divided first. Then the longest-processing-time
    rule places the biggest piece first, each on the worker with fewest tokens that has room for it; exchanging pieces
    of equal budget between workers evens out the rest. Deterministic; the order of the prompts matters only among
    prompts that are equal in budget and tokens.

    Args:
        budgets: (M,) integers, rollouts per prompt, each at least 0.
        num_workers: W, at least 1.
        expected_tokens: (M,) expected response tokens of one rollout of each prompt, at least 0; NaN (unknown) counts
            as the mean of the known. None: all rollouts are equally long.

    Returns:
        (N_total,) int64: the prompt index of every row.

    Raises:
        ValueError: the budgets do not add up to a multiple of `num_workers`, or an argument is out of range.

    >>> packed_order(np.array([2, 4, 2]), 2, expected_tokens=np.array([300.0, 200.0, 100.0]))
    array([0, 0, 2, 2, 1, 1, 1, 1])
    """
    budgets = _as_budgets(budgets)
    rows_per_worker = _rows_per_worker(int(budgets.sum()), num_workers)
    tokens_per_row = _as_tokens_per_row(expected_tokens, len(budgets))
    if rows_per_worker == 0:
        return np.empty(0, dtype=np.int64)
    for limit, piece in _DIVISIONS:
        prompts, rows = _divide_big_prompts(budgets, tokens_per_row, num_workers, limit, piece)
        order = _pack(prompts, rows, tokens_per_row[prompts], num_workers, rows_per_worker)
        if np.sum(workers_per_prompt(order, num_workers) > 1) < num_workers:
            break
    return order


def worker_of_row(num_rows: int, num_workers: int) -> Array:
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    return np.arange(num_rows) // -(-num_rows // num_workers)


def workers_per_prompt(order: Array, num_workers: int) -> Array:
    """On how many workers each prompt that has rows lies."""
    placements = np.unique(order * num_workers + worker_of_row(len(order), num_workers))
    num_workers_of_prompt: Array = np.unique(placements // num_workers, return_counts=True)[1]
    return num_workers_of_prompt


def _divide_big_prompts(
    budgets: Array, tokens_per_row: Array, num_workers: int, limit: float, piece: float
) -> tuple[Array, Array]:
    """(prompt, rows) of the pieces to place.

    A prompt whose rows or tokens exceed `limit` times a worker's even share is divided into pieces of about `piece`
    shares; every other prompt is one piece.
    """
    tokens = budgets * tokens_per_row
    shares = num_workers * np.maximum(budgets / budgets.sum(), tokens / max(tokens.sum(), np.finfo(float).tiny))
    num_pieces = np.minimum(budgets, np.where(shares > limit, np.ceil(shares / piece), 1).astype(np.int64))
    prompts = np.repeat(np.arange(len(budgets), dtype=np.int64), num_pieces)
    piece_of_prompt = np.arange(len(prompts)) - (np.cumsum(num_pieces) - num_pieces)[prompts]
    rows = budgets[prompts] // num_pieces[prompts] + (piece_of_prompt < budgets[prompts] % num_pieces[prompts])
    return prompts, rows


def _pack(prompts: Array, rows: Array, tokens_per_row: Array, num_workers: int, rows_per_worker: int) -> Array:
    """(N_total,) prompt of every row, from pieces of `rows` rows with `tokens_per_row` tokens in each row."""
    sequence = _longest_first(rows, tokens_per_row, num_workers, rows_per_worker)
    sequence = _exchange_equal_pieces(sequence, rows, tokens_per_row, num_workers, rows_per_worker)
    by_worker = np.repeat(prompts[sequence], rows[sequence]).reshape(num_workers, rows_per_worker)
    return np.concatenate([_gather_equal(chunk) for chunk in by_worker])


def _gather_equal(prompts: Array) -> Array:
    """Put equal entries side by side, in the order in which they first appear."""
    _, first, inverse = np.unique(prompts, return_index=True, return_inverse=True)
    return prompts[np.argsort(first[inverse], kind="stable")]


def _longest_first(rows: Array, tokens_per_row: Array, num_workers: int, rows_per_worker: int) -> Array:
    """Sequence of pieces whose cuts at multiples of `rows_per_worker` have about equal tokens."""
    load = np.zeros(num_workers)
    free_rows = np.full(num_workers, rows_per_worker)
    groups: list[list[int]] = [[] for _ in range(num_workers)]
    tokens = rows * tokens_per_row
    for piece in np.lexsort((-rows, -tokens)).tolist():
        has_room = free_rows >= rows[piece]
        if has_room.any():
            worker = int(np.argmin(np.where(has_room, load, np.inf)))
        else:
            worker = int(np.argmax(free_rows))
        groups[worker].append(piece)
        load[worker] += tokens[piece]
        free_rows[worker] -= rows[piece]
    return np.array([piece for worker in _chain(free_rows) for piece in groups[worker]], dtype=np.int64)


def _chain(free_rows: Array) -> list[int]:
    """Order the workers so that an overfull one is followed by one with room: the cuts then move few rows."""
    remaining = sorted(range(len(free_rows)), key=lambda worker: -free_rows[worker])
    chain, surplus = [], 0
    while remaining:
        best = min(remaining, key=lambda worker: abs(surplus - free_rows[worker]))
        remaining.remove(best)
        chain.append(best)
        surplus -= free_rows[best]
    return chain


def _exchange_equal_pieces(
    sequence: Array, rows: Array, tokens_per_row: Array, num_workers: int, rows_per_worker: int
) -> Array:
    """Exchange pieces of equal rows, which moves no cut, while that relieves the fullest worker."""
    sequence, rows, tokens_per_row = sequence.copy(), rows[sequence], tokens_per_row[sequence]
    load = np.repeat(tokens_per_row, rows).reshape(num_workers, rows_per_worker).sum(axis=1)
    tokens = rows * tokens_per_row
    last_row = np.cumsum(rows) - 1
    worker = last_row // rows_per_worker
    is_whole = (last_row - rows + 1) // rows_per_worker == worker
    for _ in range(_MAX_EXCHANGES_PER_WORKER * num_workers):
        fullest = int(np.argmax(load))
        givers = np.flatnonzero(is_whole & (worker == fullest))
        takers = np.flatnonzero(is_whole & (worker != fullest))
        moved = tokens[givers][:, None] - tokens[takers]
        gap = load[fullest] - load[worker[takers]]
        gain = np.where(rows[givers][:, None] == rows[takers], np.minimum(moved, gap - moved), 0.0)
        if gain.size == 0 or gain.max() <= _NEGLIGIBLE_SHARE * load[fullest]:
            break
        best = np.unravel_index(np.argmax(gain), gain.shape)
        giver, taker = givers[best[0]], takers[best[1]]
        load[fullest] -= moved[best]
        load[worker[taker]] += moved[best]
        for column in (sequence, tokens):
            column[[giver, taker]] = column[[taker, giver]]
    return sequence


def _as_budgets(budgets: Array) -> Array:
    array = np.asarray(budgets)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"budgets must be a one-dimensional array of integers, got {array.dtype} of {array.shape}")
    if np.any(array < 0):
        prompt = int(np.argmin(array))
        raise ValueError(f"budgets must not be negative, got {array[prompt]} for prompt {prompt}")
    return array.astype(np.int64)


def _rows_per_worker(num_rows: int, num_workers: int) -> int:
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    if num_rows % num_workers:
        below = num_rows - num_rows % num_workers
        raise ValueError(
            f"{num_rows} rollouts cannot be shared evenly by {num_workers} workers; "
            f"the nearest total budgets are {below} and {below + num_workers}"
        )
    return num_rows // num_workers


def _as_tokens_per_row(expected_tokens: Array | None, num_prompts: int) -> Array:
    if expected_tokens is None:
        return np.ones(num_prompts)
    tokens = np.array(expected_tokens, dtype=np.float64)
    if tokens.shape != (num_prompts,):
        raise ValueError(
            f"expected_tokens must hold one value per prompt, got {tokens.shape} for {num_prompts} prompts"
        )
    is_known = ~np.isnan(tokens)
    is_wrong = is_known & ~((tokens >= 0) & np.isfinite(tokens))
    if is_wrong.any():
        prompt = int(np.argmax(is_wrong))
        raise ValueError(f"expected_tokens must be finite and not negative, got {tokens[prompt]} for prompt {prompt}")
    tokens[~is_known] = tokens[is_known].mean() if is_known.any() else 1.0
    return tokens
