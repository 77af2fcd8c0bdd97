"""Real updates of tiny actors and critics on a CPU, by one process or several, and the gradients they step with."""

from __future__ import annotations

import os
import pickle
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
import torch.multiprocessing
from omegaconf import DictConfig, open_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

from verl import DataProto
from verl.workers.actor import DataParallelPPOActor
from verl.workers.critic import DataParallelPPOCritic
from verl.workers.fsdp_workers import compute_in_parameter_dtype

ROWS, PROMPT_LENGTH, RESPONSE_LENGTH, VOCABULARY = 128, 4, 12, 20
LOSS_AGG_MODES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
Update = dict[str, Any]


def make_rows(lengths: np.ndarray, seed: int = 0) -> DataProto:
    """Rollouts with responses of ``lengths`` (B,), whose advantages depend on the length, as hard prompts' do."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), RESPONSE_LENGTH)
    response_mask = (torch.arange(RESPONSE_LENGTH) < torch.from_numpy(lengths)[:, None]).long()
    responses = torch.randint(1, VOCABULARY, shape, generator=generator) * response_mask
    prompts = torch.randint(1, VOCABULARY, (len(lengths), PROMPT_LENGTH), generator=generator)
    attention_mask = torch.cat([torch.ones_like(prompts), response_mask], dim=-1)
    advantages = torch.randn((len(lengths), 1), generator=generator) + torch.from_numpy(lengths)[:, None] / 6 - 1
    tensors = {
        "responses": responses,
        "response_mask": response_mask,
        "input_ids": torch.cat([prompts, responses], dim=-1),
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(dim=-1) - 1).clamp(min=0),
        "advantages": advantages * response_mask,
        "old_log_probs": -3.0 + 0.5 * torch.randn(shape, generator=generator),
        "ref_log_prob": -3.0 + 0.5 * torch.randn(shape, generator=generator),
        "values": torch.randn(shape, generator=generator),
        "returns": torch.randn(shape, generator=generator) + advantages,
    }
    return DataProto.from_dict(tensors, meta_info={"temperature": 1.0})


def uneven_lengths(seed: int = 0) -> np.ndarray:
    """(ROWS,) response lengths, most of them short."""
    return 1 + np.random.default_rng(seed).binomial(RESPONSE_LENGTH - 1, 0.25, ROWS)


@lru_cache(maxsize=1)
def _config() -> DictConfig:
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(
            "knapsack_trainer",
            overrides=[
                "actor_rollout_ref.actor.use_kl_loss=true",
                "actor_rollout_ref.actor.kl_loss_coef=0.3",
                "actor_rollout_ref.actor.entropy_coeff=0.1",
                "actor_rollout_ref.actor.use_torch_compile=false",
                "actor_rollout_ref.actor.grad_clip=1e9",
                "critic.grad_clip=1e9",
            ],
        )


def _model(role: str) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        classifier_dropout=0.0,
        initializer_range=0.3,
        pad_token_id=0,
    )
    model = (LlamaForCausalLM if role == "actor" else LlamaForTokenClassification)(settings)
    if torch.distributed.get_world_size() > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (torch.distributed.get_world_size(),)))
    compute_in_parameter_dtype(model)
    return model


def update(role: str, data: DataProto, config: DictConfig) -> Update:
    """Update a fresh ``role`` (actor or critic) with this process's rows; return the gradients of every step.

    The learning rate is 0, so that every step starts from the same weights.
    """
    model = _model(role)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gradients: list[torch.Tensor] = []

    def record(*_: Any) -> None:
        full = [getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat([gradient.flatten() for gradient in full]).clone())

    optimizer.register_step_pre_hook(record)
    if role == "actor":
        with open_dict(config):
            config.use_remove_padding = False
        metrics = DataParallelPPOActor(config, model, optimizer).update_policy(data)
    else:
        metrics = DataParallelPPOCritic(config, model, optimizer).update_critic(data)
    return {"gradients": gradients, "metrics": metrics}


def section(role: str, rows: int, *overrides: str) -> DictConfig:
    """The actor's or critic's configuration, with mini-batches of ``rows`` rows of one worker."""
    config = deepcopy(_config())
    chosen = config.actor_rollout_ref.actor if role == "actor" else config.critic
    chosen.merge_with_dotlist([f"ppo_mini_batch_size={rows}", *overrides])
    return chosen


def _work(rank: int, world_size: int, folder: str, jobs: list[tuple[str, DataProto, DictConfig]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
    )
    updates = [update(role, data.chunk(world_size)[rank], config) for role, data, config in jobs]
    (Path(folder) / f"{rank}.pkl").write_bytes(pickle.dumps(updates))
    torch.distributed.destroy_process_group()


def update_on_workers(
    world_size: int, folder: Path, jobs: list[tuple[str, DataProto, DictConfig]]
) -> list[list[Update]]:
    """Do all ``jobs`` (role, all workers' rows, configuration) on FSDP workers; return each worker's updates."""
    arguments = (world_size, str(folder), jobs)
    torch.multiprocessing.start_processes(_work, arguments, nprocs=world_size, start_method="spawn")
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(world_size)]
