"""What the trainer does to advantages before the update."""

import doctest

import numpy as np
import pytest
import torch
from scored_batches import batch_of, with_advantages

from knapsack_rl.advantage_estimators import ADVANTAGE_ESTIMATORS
from verl.trainer.ppo import advantages
from verl.trainer.ppo.advantages import (
    clip_advantages,
    clipped_share,
    gradient_shares,
    weigh_prompts,
    without_single_rollouts,
)
from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss


def test_docstring_examples_hold():
    assert doctest.testmod(advantages).failed == 0


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo", "gpg", "reinforce_plus_plus_baseline"])
def test_a_rollout_alone_in_its_group_does_not_train_on_its_raw_reward(name):
    assert ADVANTAGE_ESTIMATORS[name].compares_group
    batch = with_advantages(batch_of([1.0, 1.0, 0.0], [0, 1, 1]), name)
    kept = without_single_rollouts(batch.batch["advantages"], batch.non_tensor_batch["uid"])
    assert (kept[0] == 0).all()
    torch.testing.assert_close(kept[1:], batch.batch["advantages"][1:])


def test_groups_of_two_and_more_are_left_alone():
    values = torch.randn(5, 3)
    assert without_single_rollouts(values, np.array(["b", "a", "b", "a", "a"])) is values


def test_the_clipped_share_counts_response_tokens():
    values, mask = torch.tensor([[6.0, -7.0], [1.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])
    assert clipped_share(values, mask, adv_clip=5.0) == pytest.approx(2 / 3)


# ---------------------------------------------------------------- prompt weights

GROUPS = np.repeat(np.arange(4), [2, 4, 8, 18])  # in no batch are the rows of a prompt together
SHUFFLED = GROUPS[np.random.default_rng(0).permutation(len(GROUPS))]
LOSS_AGG_MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def weighted_batch(estimator, prompt_weight):
    rewards = np.random.default_rng(1).permutation(len(SHUFFLED)) % 2.0
    batch = batch_of(rewards, SHUFFLED, greedy_rewards=np.ones(len(SHUFFLED)))
    batch = with_advantages(batch, estimator)
    unweighted = batch.batch["advantages"].clone()
    batch.batch["advantages"] = weigh_prompts(unweighted, batch.non_tensor_batch["uid"], prompt_weight)
    return batch, unweighted


@pytest.mark.parametrize("estimator", ADVANTAGE_ESTIMATORS)
@pytest.mark.parametrize(("prompt_weight", "power"), [("sqrt", -0.5), ("equal", -1.0)])
def test_every_estimators_advantages_are_weighted_by_prompt_and_nothing_else_is(estimator, prompt_weight, power):
    returns = weighted_batch(estimator, "rows")[0].batch["returns"]
    batch, unweighted = weighted_batch(estimator, prompt_weight)
    sizes = np.bincount(GROUPS)
    factor = sizes**power / (sizes ** (power + 1)).sum() * sizes.sum()
    expected = unweighted * torch.from_numpy(factor[SHUFFLED]).float()[:, None]
    torch.testing.assert_close(batch.batch["advantages"], expected)
    assert batch.batch["advantages"].dtype == unweighted.dtype
    torch.testing.assert_close(batch.batch["returns"], returns)  # what a critic learns has no weights
    effective = ADVANTAGE_ESTIMATORS[estimator].effective_rollouts
    rewards = batch.batch["token_level_rewards"].sum(-1).numpy()
    np.testing.assert_array_equal(
        effective(rewards, SHUFFLED, batch.batch["advantages"].numpy()),
        effective(rewards, SHUFFLED, unweighted.numpy()),
    )


def test_rows_returns_the_advantages_themselves():
    advantages = torch.randn(len(SHUFFLED), 3)
    assert weigh_prompts(advantages, SHUFFLED, "rows") is advantages


@pytest.mark.parametrize("prompt_weight", ["sqrt", "equal"])
def test_equal_groups_are_not_changed_by_a_bit(prompt_weight):
    advantages = torch.randn(24, 3)
    assert torch.equal(weigh_prompts(advantages, np.arange(24) % 8, prompt_weight), advantages)


def test_the_clip_acts_on_large_groups_whatever_a_prompt_counts():
    """One success among 64 has advantage 7.9 and is clipped to 5; the factor comes on top of that."""
    rewards = np.zeros(66)
    rewards[[0, 2]] = 1.0
    prompts = np.repeat([0, 1], [2, 64])
    advantages = with_advantages(batch_of(rewards, prompts), "grpo").batch["advantages"]
    weighted = weigh_prompts(clip_advantages(advantages, 5.0), prompts, "equal")
    assert advantages[2].max() == pytest.approx(63 / 8, rel=1e-3)
    assert weighted[2].max() == pytest.approx(5.0 * 33 / 64)
    assert weighted[0].max() == pytest.approx(0.5**0.5 * 33 / 2, rel=1e-3)  # beyond 5: the clip is no bound on weights


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
@pytest.mark.parametrize(("prompt_weight", "power"), [("rows", 1.0), ("sqrt", 0.5), ("equal", 0.0)])
def test_a_prompt_counts_in_the_loss_as_is_said(mode, prompt_weight, power):
    """With advantages and lengths alike, the gradient of a prompt's rows together goes by the power of their number."""
    shape = (len(SHUFFLED), 3)
    old, new, mask = torch.full(shape, -1.0), torch.full(shape, -1.0, requires_grad=True), torch.ones(shape)
    advantages = weigh_prompts(torch.ones(shape), SHUFFLED, prompt_weight)
    compute_policy_loss(old, new, advantages, mask, cliprange=0.2, loss_agg_mode=mode)[0].backward()
    together = np.bincount(SHUFFLED, weights=new.grad.sum(dim=-1).numpy())
    sizes = np.bincount(SHUFFLED)
    np.testing.assert_allclose(together / together[0], (sizes / sizes[0]) ** power, rtol=1e-5)
    unweighted = agg_loss(torch.ones(shape), mask, mode)
    assert -together.sum() == pytest.approx(unweighted.item(), rel=1e-5)  # the loss as a whole keeps its scale


def test_clipped_terms_of_the_policy_loss_are_weighted_too():
    """A positive factor commutes with PPO's clipping, so that the weight of a prompt does not depend on the ratios."""
    old, mask = torch.zeros(len(SHUFFLED), 3), torch.ones(len(SHUFFLED), 3)
    new = torch.linspace(-2, 2, old.numel()).reshape(old.shape)
    advantages = torch.where(torch.from_numpy(SHUFFLED % 2 == 0)[:, None], 1.0, -1.0).expand_as(old)
    factor = weigh_prompts(torch.ones_like(old), SHUFFLED, "equal")
    for row in range(len(SHUFFLED)):
        losses = [
            compute_policy_loss(old[[row]], new[[row]], chosen[[row]], mask[[row]], cliprange=0.2)[0].item()
            for chosen in (advantages, advantages * factor)
        ]
        assert losses[1] == pytest.approx(losses[0] * factor[row, 0].item(), rel=1e-5)


@pytest.mark.parametrize(("mode", "long_share"), [("token-mean", 0.8), ("seq-mean-token-mean", 2 / 3)])
def test_the_share_of_the_gradient_follows_the_aggregation_of_the_loss(mode, long_share):
    """Prompt a: two rollouts of 2 tokens. Prompt b: four of 4 tokens. The same advantage everywhere."""
    batch = batch_of(np.zeros(6), np.repeat([0, 1], [2, 4]))
    batch.batch["response_mask"] = (torch.arange(4) < torch.tensor([2, 2, 4, 4, 4, 4])[:, None]).float()
    batch.batch["advantages"] = torch.full((6, 4), -0.5)
    shares = gradient_shares(batch, mode)
    assert shares["gradient_share/budget_4_7"] == pytest.approx(long_share)
    assert shares["gradient_share/budget_2_3"] == pytest.approx(1 - long_share)
