"""Prompts whose true success rates drift as the paper's training says, and what can be known of them at best."""

from __future__ import annotations

import numpy as np
from scipy.optimize import fsolve
from scipy.special import expit, ndtr

ROLLOUTS_PER_PROMPT = 8

# (training progress, share of all-failed prompts, share of all-solved prompts) at 8 rollouts per prompt.
# Start: "near 95 %" all-failed (figure 2). 0.07 = step 70, the end of the early phase: the ratio passes 40 %. Middle:
# the ratio is at its best, below 60 %. End: figure 8 has 3,793 of 17,917 prompts never solved and 8,676 always solved.
PHASES = (
    (0.00, 0.95, 0.002),
    (0.07, 0.50, 0.09),
    (0.30, 0.27, 0.19),
    (0.60, 0.22, 0.32),
    (1.00, 0.212, 0.484),
)


def fit_mean_and_spread(all_failed: float, all_solved: float) -> tuple[float, float]:
    """Mean and spread of normal logits for which 8 rollouts fail, or succeed, all together in the given shares.

    Raises:
        ValueError: no normal distribution of logits gives these shares.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(201)
    weights = weights / weights.sum()

    def excess(unknowns: np.ndarray) -> list[float]:
        p = expit(unknowns[0] + np.exp(unknowns[1]) * nodes)
        failed, solved = weights @ (1.0 - p) ** ROLLOUTS_PER_PROMPT, weights @ p**ROLLOUTS_PER_PROMPT
        return [np.log(failed / all_failed), np.log(solved / all_solved)]

    solution, _, status, message = fsolve(excess, [0.0, 1.0], full_output=True)
    if status != 1:
        raise ValueError(
            f"no logit-normal population has {all_failed:.1%} failed and {all_solved:.1%} solved: {message}"
        )
    return float(solution[0]), float(np.exp(solution[1]))


class Population:
    """Prompts whose true success rates drift.

    Args:
        num_prompts: P.
        num_steps: length of training; `PHASES` stretch over it.
        epoch_correlation: correlation of a prompt's standing z from one epoch to the next, in [0, 1].
        generator: source of all randomness.
    """

    def __init__(
        self, num_prompts: int, num_steps: int, epoch_correlation: float, generator: np.random.Generator
    ) -> None:
        self._generator = generator
        self.epoch_correlation = epoch_correlation
        self._num_steps = num_steps
        self._standing = generator.standard_normal(num_prompts)
        self._progress = [progress for progress, _, _ in PHASES]
        self._fitted = np.array([fit_mean_and_spread(failed, solved) for _, failed, solved in PHASES])

    def success_rates(self, step: int) -> np.ndarray:
        """(P,) true success rates at a step."""
        return self.success_rates_of(self._standing, step)

    def success_rates_of(self, standing: np.ndarray, step: int) -> np.ndarray:
        """The success rates that prompts of the given standing z have at a step, in any shape."""
        progress = step / self._num_steps
        mean, spread = (np.interp(progress, self._progress, fitted) for fitted in self._fitted.T)
        return expit(mean + spread * standing)

    def end_epoch(self) -> None:
        """Let every prompt drift relative to the others."""
        noise = self._generator.standard_normal(len(self._standing))
        kept = self.epoch_correlation
        self._standing = kept * self._standing + np.sqrt(1.0 - kept**2) * noise


class StandingFilter:
    """The exact posterior of every prompt's standing, given all its rollouts (a Bayes filter on a grid).

    Args:
        num_prompts: P.
        epoch_correlation: see `Population`.

    Attributes:
        grid: (G,) standings.
        weights: (P, G) posterior probability of each; the rows add up to 1.
    """

    def __init__(self, num_prompts: int, epoch_correlation: float) -> None:
        self.grid = np.linspace(-5.0, 5.0, 201)
        prior = np.exp(-(self.grid**2) / 2.0)
        self.weights = np.tile(prior / prior.sum(), (num_prompts, 1))
        edges = (self.grid[1:] + self.grid[:-1]) / 2.0
        noise = max(np.sqrt(1.0 - epoch_correlation**2), 1e-9)  # 0 would divide by 0 where a standing meets an edge
        below = ndtr((edges - epoch_correlation * self.grid[:, None]) / noise)
        self._drift = np.diff(below, axis=1, prepend=0.0, append=1.0)

    def end_epoch(self) -> None:
        """Expect the drift of `Population.end_epoch`."""
        self.weights = self.weights @ self._drift

    def observe(self, prompts: np.ndarray, successes: np.ndarray, rollouts: np.ndarray, rates: np.ndarray) -> None:
        """Condition on the successes of (M,) different prompts; ``rates`` (G,) are the success rates of the grid."""
        p = np.clip(rates, 1e-12, 1.0 - 1e-12)
        log_posterior = np.log(np.maximum(self.weights[prompts], np.finfo(np.float64).tiny))
        log_posterior += successes[:, None] * np.log(p) + (rollouts - successes)[:, None] * np.log1p(-p)
        posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
        self.weights[prompts] = posterior / posterior.sum(axis=1, keepdims=True)
