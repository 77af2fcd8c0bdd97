"""The rows of the comparison: methods, ablations, and both methods with more and fewer rollouts."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.knapsack.tiny.tiny_runs import ROLLOUTS_PER_STEP

BASELINE = "GRPO, N = 8"
KNAPSACK = "Knapsack-GRPO"


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: what the table calls it.
        folder: where its runs go.
        overrides: Hydra overrides.
        group: ``main`` rows run with every seed, ``ablation`` and ``rollouts`` (figure 9) rows with
            ``--ablation-seeds``.
        rollouts_per_step: rollouts that a step generates at least; all methods but figure 9's spend equal rollouts.
    """

    name: str
    folder: str
    overrides: tuple[str, ...]
    group: str = "ablation"
    rollouts_per_step: int = ROLLOUTS_PER_STEP


_BETA = ("exploration.success_rate.estimator=beta",)
# Ended by a signal at their rollouts, these runs keep the history only up to the last checkpoint.
_DYNAMIC = ("exploration.dynamic_sampling.enable=true", "trainer.test_freq=5", "trainer.save_freq=5")
_HOMOGENEOUS = ("exploration.allocator=homogeneous",)

# The rows of figure 9 by N, the rollouts per prompt.
BY_ROLLOUTS_PER_PROMPT = {
    "GRPO": {4: "GRPO, N = 4", 8: BASELINE, 16: "GRPO, N = 16"},
    KNAPSACK: {4: "Knapsack-GRPO, N = 4", 8: KNAPSACK, 16: "Knapsack-GRPO, N = 16"},
}
# What a row is compared with, where that is not `BASELINE`: GRPO with as many rollouts.
BASELINE_OF = {BY_ROLLOUTS_PER_PROMPT[KNAPSACK][n]: name for n, name in BY_ROLLOUTS_PER_PROMPT["GRPO"].items()}


def _with_rollouts_per_prompt(n: int) -> tuple[Variant, Variant]:
    grpo, knapsack = (rows[n] for rows in BY_ROLLOUTS_PER_PROMPT.values())
    override, rollouts_per_step = f"actor_rollout_ref.rollout.n={n}", n * ROLLOUTS_PER_STEP // 8
    return (
        Variant(grpo, f"grpo_{n}", (*_HOMOGENEOUS, override), "rollouts", rollouts_per_step),
        Variant(knapsack, f"knapsack_{n}", (override,), "rollouts", rollouts_per_step),
    )


VARIANTS = (
    Variant(BASELINE, "grpo", _HOMOGENEOUS, "main"),
    Variant(KNAPSACK, "knapsack", (), "main"),
    Variant("knapsack, beta estimates", "beta", _BETA, "main"),
    Variant("knapsack, expected value", "expected", (*_BETA, "exploration.value=expected"), "main"),
    Variant("dynamic sampling, equal rollouts", "dynamic", (*_HOMOGENEOUS, *_DYNAMIC), "main"),
    Variant("dynamic sampling + knapsack", "dynamic_knapsack", _DYNAMIC, "main"),
    Variant("knapsack, window of 16", "window", ("exploration.success_rate.estimator=window",)),
    Variant("knapsack without fallback", "no_fallback", ("exploration.fallback=false",)),
    Variant("knapsack, n_low = 4", "n_low_4", ("exploration.n_low=4",)),
    Variant("knapsack, n_up = 16", "n_up_16", ("exploration.n_up=16",)),
    Variant("knapsack, n_up = 32", "n_up_32", ("exploration.n_up=32",)),
    *_with_rollouts_per_prompt(4),
    *_with_rollouts_per_prompt(16),
)
