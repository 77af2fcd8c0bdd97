"""Metrics of dispatch: how even a step's work is over the workers."""

from __future__ import annotations

import numpy as np

from knapsack_rl.arrays import Array
from knapsack_rl.dispatch import worker_of_row, workers_per_prompt
from knapsack_rl.metrics.descriptions import MetricDescription

__all__ = ["BALANCE_METRICS", "imbalance"]


def imbalance(
    order: Array,
    num_workers: int,
    tokens_per_row: Array,
    *,
    worker_seconds: Array | None = None,
) -> dict[str, float]:
    """How uneven a step's work is over the workers, and over how many of them a prompt is spread.

    Args:
        order: (N_total,) prompt index of every row, as sent out.
        num_workers: W; the rows go out in contiguous chunks of ceil(N_total / W).
        tokens_per_row: (N_total,) tokens of every row, in the same order.
        worker_seconds: (W,) generation time of every worker, if it was measured.

    Returns:
        Most / mean over the workers (1 = even) of rows, tokens and, if given, seconds: `dispatch/row_imbalance`,
        `dispatch/token_imbalance`, `dispatch/time_imbalance`. The number of prompts on more than one worker:
        `dispatch/split_prompts`. The mean number of workers a prompt lies on: `dispatch/workers_per_prompt`.

    Raises:
        ValueError: there are no rows or no workers, or the shapes do not fit together.

    >>> metrics = imbalance(np.array([0, 0, 1, 0]), 2, np.array([10, 20, 20, 30]))
    >>> metrics["dispatch/token_imbalance"], metrics["dispatch/split_prompts"], metrics["dispatch/workers_per_prompt"]
    (1.25, 1.0, 1.5)
    """
    order, tokens_per_row = np.asarray(order), np.asarray(tokens_per_row, dtype=np.float64)
    if order.shape != tokens_per_row.shape or order.ndim != 1 or len(order) == 0:
        raise ValueError(f"expected one token count per row, got {order.shape} rows and {tokens_per_row.shape} counts")
    worker = worker_of_row(len(order), num_workers)
    workers_of_prompts = workers_per_prompt(order, num_workers)
    metrics = {
        "dispatch/row_imbalance": _max_over_mean(np.bincount(worker, minlength=num_workers)),
        "dispatch/token_imbalance": _max_over_mean(np.bincount(worker, tokens_per_row, num_workers)),
        "dispatch/split_prompts": float(np.sum(workers_of_prompts > 1)),
        "dispatch/workers_per_prompt": float(workers_of_prompts.mean()),
    }
    if worker_seconds is not None:
        if np.shape(worker_seconds) != (num_workers,):
            raise ValueError(f"expected the seconds of {num_workers} workers, got shape {np.shape(worker_seconds)}")
        metrics["dispatch/time_imbalance"] = _max_over_mean(np.asarray(worker_seconds, dtype=np.float64))
    return metrics


def _max_over_mean(load: Array) -> float:
    return float(load.max() / load.mean()) if load.any() else 1.0


_IMBALANCE_ADVICE = "Well above 1: workers wait for the fullest one. Try the other dispatch mode or fewer workers."

BALANCE_METRICS: dict[str, MetricDescription] = {
    "dispatch/row_imbalance": MetricDescription(
        "ratio", "most rollouts on a worker / mean rollouts of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/token_imbalance": MetricDescription(
        "ratio", "most response tokens on a worker / mean response tokens of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/time_imbalance": MetricDescription(
        "ratio", "longest generation time of a worker / mean generation time of a worker", _IMBALANCE_ADVICE
    ),
    "dispatch/split_prompts": MetricDescription(
        "prompts",
        "number of prompts whose rollouts lie on more than one worker",
        "At least the number of workers although dispatch is packed: the order did not reach the workers.",
    ),
    "dispatch/workers_per_prompt": MetricDescription(
        "workers",
        "mean number of workers that a prompt's rollouts lie on; each of them processes the prompt itself",
        "High with long prompts: the same prompt is processed again and again; set dispatch to packed.",
    ),
}
"""Keys of `imbalance`."""
