"""A step's charts, given to the loggers that show them: wandb, TensorBoard, MLflow, SwanLab and trackio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from knapsack_rl.arrays import Array
from knapsack_rl.charts import (
    BUDGET_HISTOGRAM,
    BUDGETS_BY_SUCCESS_RATE,
    draw_budget_histogram,
    draw_budgets_by_success_rate,
    wandb_charts,
)

__all__ = ["log_charts"]


def log_charts(loggers: Mapping[str, Any], success_rates: Array, budgets: Array, step: int) -> None:
    """Give every logger that shows charts a step's budgets, and how they go with the success rates.

    Args:
        loggers: the backends of verl's ``Tracking`` by their names; others are left alone.
        success_rates: (M,) float in [0, 1]; NaN = unseen.
        budgets: (M,) int, rollouts of each prompt.
        step: the training step.
    """
    for name, log in _CHARTS.items():
        if name in loggers:
            log(loggers[name], success_rates, budgets, step)


def _pictures(success_rates: Array, budgets: Array) -> dict[str, Array]:
    return {
        BUDGET_HISTOGRAM: draw_budget_histogram(budgets),
        BUDGETS_BY_SUCCESS_RATE: draw_budgets_by_success_rate(success_rates, budgets),
    }


def _to_wandb(backend: Any, success_rates: Array, budgets: Array, step: int) -> None:
    backend.log(data=wandb_charts(success_rates, budgets), step=step)


def _to_tensorboard(backend: Any, success_rates: Array, budgets: Array, step: int) -> None:
    backend.writer.add_histogram(BUDGET_HISTOGRAM, budgets, step)
    picture = draw_budgets_by_success_rate(success_rates, budgets)
    backend.writer.add_image(BUDGETS_BY_SUCCESS_RATE, picture, step, dataformats="HWC")


def _to_mlflow(backend: Any, success_rates: Array, budgets: Array, step: int) -> None:
    import mlflow

    for name, picture in _pictures(success_rates, budgets).items():
        mlflow.log_image(picture, key=name, step=step, synchronous=True)


def _to_swanlab(backend: Any, success_rates: Array, budgets: Array, step: int) -> None:
    pictures = _pictures(success_rates, budgets)
    backend.log({name: backend.Image(picture) for name, picture in pictures.items()}, step=step)


def _to_trackio(backend: Any, success_rates: Array, budgets: Array, step: int) -> None:
    import trackio

    if not hasattr(trackio, "Image"):
        return  # before 0.3 there are no pictures
    pictures = _pictures(success_rates, budgets)
    backend.log({name: trackio.Image(picture) for name, picture in pictures.items()}, step=step)


_CHARTS: Mapping[str, Callable[[Any, Array, Array, int], None]] = {
    "wandb": _to_wandb,
    "tensorboard": _to_tensorboard,
    "mlflow": _to_mlflow,
    "swanlab": _to_swanlab,
    "trackio": _to_trackio,
}
