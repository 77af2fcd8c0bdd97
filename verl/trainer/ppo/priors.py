"""Success rates that are known before training, from the column that the configuration names."""

from __future__ import annotations

import numpy as np

from knapsack_rl.config import SuccessRateConfig
from knapsack_rl.prior import checked_rates, is_prior_file
from verl import DataProto

__all__ = ["prior_of_column"]


def prior_of_column(config: SuccessRateConfig, batch: DataProto) -> np.ndarray | None:
    """(M,) rates of the prompts of a batch; None if the configuration names no column.

    Raises:
        ValueError: the data set does not hand the column on, or it holds something that is no success rate.
    """
    if config.prior is None or is_prior_file(config.prior):
        return None
    column = batch.non_tensor_batch.get(config.prior)
    if column is None:
        raise ValueError(
            f"exploration.success_rate.prior={config.prior}: the data set's rows have no such column but "
            f"{', '.join(batch.non_tensor_batch)}"
        )
    return checked_rates(column.tolist(), f"exploration.success_rate.prior={config.prior}: the batch")
