"""What is compared over worlds: methods, and the learning rates that they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from knapsack_rl import ExplorationConfig
from knapsack_rl.presets import preset_value
from recipe.knapsack.worlds.plain_training import Settings

__all__ = ["BASELINE", "LEARNING_RATES", "METHODS", "TUNING_WORLDS", "Method"]

BASELINE = "grpo"
LEARNING_RATES = (2e-4, 4e-4, 8e-4)
"""Each method is compared at the best of these, by the mean of the last five validations on tuning worlds."""
TUNING_WORLDS = range(0, 12)
"""Worlds on which rules and learning rates may be chosen."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: as shown.
        exploration: keys below ``exploration`` that differ from their defaults.
        prompt_weight: ``algorithm.prompt_weight``.
        learning_rate: the best of `LEARNING_RATES` on tuning worlds.
    """

    name: str
    exploration: Mapping[str, Any] = field(default_factory=dict)
    prompt_weight: str = "rows"
    learning_rate: float = 4e-4

    def settings(self, world: int, learning_rate: float, rollouts_per_prompt: int) -> Settings:
        """The settings of a training: order and sampling differ by world, not by method."""
        return Settings(
            ExplorationConfig.from_mapping(self.exploration),
            self.prompt_weight,
            learning_rate,
            rollouts_per_prompt,
            seed=world,
        )


_BETA = {"success_rate": {"estimator": "beta"}}
_HARD_LEANING = {
    "value": "hard_leaning",
    "success_rate": {"estimator": "beta", "prior_strength": 2.0, "discount": 0.95},
}
_FORGETS_NOTHING = {"estimator": "beta", "prior_strength": 3.0, "discount": 1.0}
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        BASELINE: Method("GRPO", {"allocator": "homogeneous"}, learning_rate=8e-4),
        "paper": Method("Knapsack-GRPO as in the paper", {"preset": "paper"}),
        "recommended": Method(
            "exploration.preset=recommended",
            {"preset": "recommended"},
            preset_value("recommended", "algorithm.prompt_weight"),
        ),
        "dynamic": Method(
            "dynamic sampling, equal rollouts",
            {"allocator": "homogeneous", "dynamic_sampling": {"enable": True}},
            learning_rate=8e-4,
        ),
        "token_limit": Method(
            "recommended, exploration.max_expected_tokens=1.0x",
            {"preset": "recommended", "max_expected_tokens": "1.0x"},
            preset_value("recommended", "algorithm.prompt_weight"),
        ),
        # Candidates for the preset.
        "beta": Method("beta", _BETA),
        "expected_sqrt": Method("beta, expected, sqrt", {**_BETA, "value": "expected"}, "sqrt"),
        "hard_leaning": Method("beta, hard_leaning", _HARD_LEANING),
        "hard_leaning_all": Method(
            "beta that forgets nothing, hard_leaning", {"value": "hard_leaning", "success_rate": _FORGETS_NOTHING}
        ),
        "hard_leaning_all_sqrt": Method(
            "beta that forgets nothing, hard_leaning, sqrt",
            {"value": "hard_leaning", "success_rate": _FORGETS_NOTHING},
            "sqrt",
        ),
        "hard_leaning_sqrt": Method("beta, hard_leaning, sqrt", _HARD_LEANING, "sqrt"),
        "easy_to_hard_sqrt": Method("beta, easy_to_hard, sqrt", {**_BETA, "value": "easy_to_hard"}, "sqrt"),
    }
)
