"""What the trainer does to the advantages of verl's estimators before the update."""

from __future__ import annotations

import numpy as np
import torch

from knapsack_rl.metrics import gradient_share_metrics
from knapsack_rl.weighting import prompt_weights
from verl import DataProto

__all__ = [
    "clip_advantages",
    "clipped_share",
    "gradient_shares",
    "truncated_importance_weights",
    "weigh_by_importance",
    "weigh_prompts",
    "without_single_rollouts",
]


def clip_advantages(advantages: torch.Tensor, adv_clip: float | None) -> torch.Tensor:
    """Clip advantages of any shape to [-adv_clip, adv_clip]; None leaves them (paper, appendix C).

    Example:
        >>> clip_advantages(torch.tensor([-7.0, 0.5]), 5.0)
        tensor([-5.0000,  0.5000])
    """
    return advantages if adv_clip is None else advantages.clamp(-adv_clip, adv_clip)


def clipped_share(advantages: torch.Tensor, response_mask: torch.Tensor, adv_clip: float) -> float:
    """Share of response tokens whose advantage exceeds the clip; both (B, response_length)."""
    clipped = (advantages.abs() > adv_clip) & response_mask.bool()
    return (clipped.sum() / response_mask.sum()).item()


def without_single_rollouts(advantages: torch.Tensor, uids: np.ndarray) -> torch.Tensor:
    """Set the advantage of a rollout that is alone in its group to 0: it was compared with nothing.

    verl's group estimators give such a rollout its raw reward. One arises where other rollouts of its prompt failed.

    Args:
        advantages: (B, response_length) float.
        uids: (B,), equal for the rollouts of a group.

    Example:
        >>> without_single_rollouts(torch.tensor([[1.0], [0.5], [-0.5]]), np.array(["a", "b", "b"])).tolist()
        [[0.0], [0.5], [-0.5]]
    """
    _, group, sizes = np.unique(uids, return_inverse=True, return_counts=True)
    is_alone = sizes[group] == 1
    if not is_alone.any():
        return advantages
    return advantages.masked_fill(torch.from_numpy(is_alone)[:, None], 0.0)


def weigh_prompts(advantages: torch.Tensor, uids: np.ndarray, prompt_weight: str) -> torch.Tensor:
    """Multiply every rollout's advantages by its prompt's weight (`knapsack_rl.weighting`).

    It comes after the clip. The clip bounds how far one rollout stands out from its group; the weight says how much the
    group counts. In the other order the weight would lift small groups to the bound and take large ones, which the clip
    is for, below it. A positive factor on a row commutes with PPO's own clipping and with importance weights.

    Args:
        advantages: (B, response_length) float, of all rollouts that a step trains on.
        uids: (B,), equal for the rollouts of a prompt.
        prompt_weight: ``algorithm.prompt_weight``; ``rows`` returns the advantages themselves.

    Example:
        >>> weigh_prompts(torch.ones(6, 1), np.array(["a", "a", "b", "b", "b", "b"]), "equal").flatten().tolist()
        [1.5, 1.5, 0.75, 0.75, 0.75, 0.75]
    """
    if prompt_weight == "rows":
        return advantages
    _, prompt, rollouts = np.unique(uids, return_inverse=True, return_counts=True)
    weights = torch.from_numpy(prompt_weights(rollouts, prompt_weight)[prompt])
    return advantages * weights.to(advantages.dtype)[:, None]


def gradient_shares(batch: DataProto, loss_agg_mode: str) -> dict[str, float]:
    """Tell from which prompts the update comes: `knapsack_rl.metrics.gradient_share_metrics` of a batch.

    Args:
        batch: B rows with ``uid``, ``response_mask``, and ``advantages`` as they are trained on.
        loss_agg_mode: the actor's; where it takes the mean over a rollout's tokens, so is it done here.
    """
    response_mask = batch.batch["response_mask"]
    pull = (batch.batch["advantages"].abs() * response_mask).sum(dim=-1)
    if loss_agg_mode == "seq-mean-token-mean":
        pull = pull / response_mask.sum(dim=-1).clamp(min=1)
    _, prompt_index = np.unique(batch.non_tensor_batch["uid"], return_inverse=True)
    return gradient_share_metrics(prompt_index, pull.numpy())


def truncated_importance_weights(
    training_log_probs: torch.Tensor, rollout_log_probs: torch.Tensor, cap: float
) -> torch.Tensor:
    """Return min(pi_training / pi_rollout, cap) per token, detached; all arguments (B, response_length).

    Multiplied into the advantages, the weights scale each token's policy-gradient term, clipped or not.

    Example:
        >>> truncated_importance_weights(torch.tensor([0.0, -2.0]), torch.tensor([-2.0, -2.0]), cap=2.0)
        tensor([2., 1.])
    """
    return torch.exp(training_log_probs - rollout_log_probs).clamp(max=cap).detach()


def weigh_by_importance(batch: DataProto, cap: float) -> dict[str, float]:
    """Multiply the advantages of a batch, in place, by truncated importance weights; return metrics.

    Args:
        batch: B rows with ``advantages``, ``old_log_probs``, ``rollout_log_probs`` and ``response_mask``.
        cap: ``exploration.rollout_is_cap``.
    """
    columns = batch.batch
    weights = truncated_importance_weights(columns["old_log_probs"], columns["rollout_log_probs"], cap)
    columns["advantages"] = columns["advantages"] * weights
    on_response = weights[columns["response_mask"].bool()]
    return {
        "training/rollout_is_weight_mean": on_response.mean().item(),
        "training/rollout_is_capped_ratio": (on_response >= cap).float().mean().item(),
    }
