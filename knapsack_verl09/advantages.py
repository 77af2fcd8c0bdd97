"""What the trainer does to the advantages of verl's estimators before the update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from knapsack_rl.metrics import gradient_share_metrics
from knapsack_rl.weighting import prompt_weights

__all__ = ["adjust_advantages", "gradient_shares", "session_of", "uid_of", "uid_of_session"]


def session_of(key: str) -> str:
    """The session of a trajectory's key ``{uid}_{session}_{output}``.

    >>> session_of("4f2a_3_0"), uid_of("4f2a_3_0")
    ('4f2a_3', '4f2a')
    """
    return key.rsplit("_", 1)[0]


def uid_of(key: str) -> str:
    """The prompt of a trajectory's key: verl's uid of the group."""
    return uid_of_session(session_of(key))


def uid_of_session(session: str) -> str:
    """The prompt of a session's name ``{uid}_{session}``."""
    return session.rsplit("_", 1)[0]


def adjust_advantages(
    advantages: Sequence[torch.Tensor],
    keys: Sequence[str],
    *,
    adv_clip: float | None,
    compares_group: bool,
    prompt_weight: str = "rows",
) -> tuple[list[torch.Tensor], float]:
    """Clip advantages, weigh them by prompt, and set those of a session that is alone in its group to 0.

    A session alone was compared with nothing, and verl's group estimators give it its raw reward. One arises where
    other sessions of its prompt failed. The weight comes after the clip, as on verl 0.5.

    Args:
        advantages: of each trajectory, (its length,) float.
        keys: of each trajectory.
        adv_clip: the bound of their absolute values; None = off.
        compares_group: whether the estimator compares the sessions of a prompt.
        prompt_weight: ``algorithm.prompt_weight``, one of `knapsack_rl.weighting.PROMPT_WEIGHTS`.

    Returns:
        The adjusted advantages, and the share of tokens whose advantage exceeded the clip.

    >>> adjusted, share = adjust_advantages(
    ...     [torch.tensor([7.0, 7.0]), torch.tensor([-0.5]), torch.tensor([1.0])],
    ...     ["a_0_0", "a_1_0", "b_0_0"], adv_clip=5.0, compares_group=True)
    >>> [values.tolist() for values in adjusted], share
    ([[5.0, 5.0], [-0.5], [0.0]], 0.5)
    """
    sessions = Counter(uid_of_session(session) for session in {session_of(key) for key in keys})
    weights = dict(zip(sessions, prompt_weights(list(sessions.values()), prompt_weight).tolist(), strict=True))
    bound = float("inf") if adv_clip is None else adv_clip
    adjusted, clipped, tokens = [], 0, 0
    for values, key in zip(advantages, keys, strict=True):
        if compares_group and sessions[uid_of(key)] == 1:
            values = torch.zeros_like(values)
        clipped += int((values.abs() > bound).sum())
        tokens += values.numel()
        adjusted.append(values.clamp(-bound, bound) * weights[uid_of(key)])
    return adjusted, clipped / max(tokens, 1)


def gradient_shares(advantages: Sequence[torch.Tensor], keys: Sequence[str], loss_agg_mode: str) -> dict[str, float]:
    """Tell from which prompts the update comes: `knapsack_rl.metrics.gradient_share_metrics`, as on verl 0.5.

    Args:
        advantages: of each trajectory, as they are trained on; 0 where a token is not the model's.
        keys: of each trajectory.
        loss_agg_mode: the actor's; where it takes the mean over a rollout's tokens, so is it done here.

    >>> shares = gradient_shares([torch.ones(3), torch.ones(1)], ["a_0_0", "b_0_0"], "token-mean")
    >>> shares["gradient_share/largest_prompt"]
    0.75
    """
    pulls = [float(values.abs().sum()) for values in advantages]
    if loss_agg_mode == "seq-mean-token-mean":
        pulls = [pull / max(values.numel(), 1) for pull, values in zip(pulls, advantages, strict=True)]
    _, prompt_index = np.unique([uid_of(key) for key in keys], return_inverse=True)
    return gradient_share_metrics(prompt_index, np.array(pulls))
