"""What the trainer does to advantages before the update."""

import doctest

import numpy as np
import pytest
import torch
from scored_batches import batch_of, with_advantages

from knapsack_rl.advantage_estimators import ADVANTAGE_ESTIMATORS
from verl.trainer.ppo import advantages
from verl.trainer.ppo.advantages import clipped_share, without_single_rollouts


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
