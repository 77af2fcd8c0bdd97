"""Batches of rollouts with rewards, as the trainer holds them."""

import numpy as np
import torch
from omegaconf import OmegaConf

from verl import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage

LENGTH = 4


def batch_of(rewards, prompt_index, greedy_rewards=None, reward_columns=(), **columns):
    """B rows whose reward is on the last token of responses of 2 to 4 tokens."""
    num_rows = len(rewards)
    lengths = torch.arange(num_rows) % 3 + 2
    mask = (torch.arange(LENGTH) < lengths[:, None]).float()
    token_level = torch.zeros(num_rows, LENGTH)
    token_level[torch.arange(num_rows), lengths - 1] = torch.as_tensor(rewards, dtype=torch.float32)
    tensors = {"token_level_scores": token_level, "token_level_rewards": token_level.clone(), "response_mask": mask}
    tensors["values"] = torch.full((num_rows, LENGTH), 0.37) * mask
    if greedy_rewards is not None:
        tensors["reward_baselines"] = torch.as_tensor(greedy_rewards, dtype=torch.float32)
    batch = DataProto.from_dict(
        tensors,
        {
            "uid": np.array([f"prompt {prompt}" for prompt in prompt_index], dtype=object),
            "prompt_index": np.asarray(prompt_index),
            **{name: np.array(column, dtype=object) for name, column in columns.items()},
        },
    )
    batch.meta_info["reward_columns"] = list(reward_columns)
    return batch


def with_advantages(batch, name):
    config = OmegaConf.create({"norm_adv_by_std_in_grpo": True, "gamma": 1.0})
    return compute_advantage(batch, adv_estimator=name, gamma=1.0, lam=1.0, config=config)
