"""Start-up checks of batch sizes: a step's rollouts are placed within their bounds and split evenly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks.facts import Facts
from verl.trainer.config.checks.reading import (
    data_parallel_size,
    exploration_config,
    only_validates,
    prompts_per_batch,
    uses_critic,
    world_size,
)


def check_budgets(config: DictConfig, facts: Facts) -> None:
    """Refuse a total budget that is infeasible or that the workers and mini-batches cannot split evenly."""
    exploration, prompts = exploration_config(config), prompts_per_batch(config)
    schedule = exploration.budget_schedule(prompts, config.actor_rollout_ref.rollout.n)
    is_explicit = exploration.total_budget is not None
    multiple = _rows_must_divide_by(config, with_mini_batch=is_explicit)
    batch_size = "gen_batch_size" if config.data.get("gen_batch_size") else "train_batch_size"
    key = "exploration.total_budget" if is_explicit else f"data.{batch_size} * actor_rollout_ref.rollout.n"
    if exploration.allocator == "knapsack":
        lowest, highest = prompts * exploration.n_low, prompts * exploration.n_up
    else:
        lowest, highest = prompts, prompts * max(schedule.budgets)
    for budget in schedule.budgets:
        if not lowest <= budget <= highest:
            raise ConfigError(
                f"{key}={budget} is infeasible for {prompts} prompts a step with exploration.n_low={exploration.n_low} "
                f"and exploration.n_up={exploration.n_up}: expected {lowest} to {highest}."
            )
        if budget % multiple:
            raise ConfigError(
                f"{key}={budget} must be a multiple of {multiple} (workers{', mini-batch' if is_explicit else ''}): "
                f"nearest legal: {_nearest_multiples(budget, multiple, lowest, highest)}."
            )


def _rows_must_divide_by(config: DictConfig, with_mini_batch: bool) -> int:
    divisors = [world_size(config)]
    rollout = config.actor_rollout_ref.rollout
    if rollout.mode == "async":
        divisors.append(rollout.agent.num_workers)
    if with_mini_batch:
        divisors.append(config.actor_rollout_ref.actor.ppo_mini_batch_size * rollout.n)
    return math.lcm(*divisors)


def _nearest_multiples(budget: int, multiple: int, lowest: int, highest: int) -> str:
    below, above = budget // multiple * multiple, -(-budget // multiple) * multiple
    legal = [value for value in sorted({below, above}) if lowest <= value <= highest]
    return " or ".join(map(str, legal)) if legal else "none; change the batch sizes"


def check_mini_batches(config: DictConfig, facts: Facts) -> None:
    """Refuse mini-batches that do not divide the rows a step trains on: the last one's loss would be scaled down.

    verl divides the loss of every mini-batch by the number of micro-batches of a full one.
    """
    if only_validates(config):
        return
    sections = [("actor_rollout_ref.actor", config.actor_rollout_ref.actor.ppo_mini_batch_size)]
    if uses_critic(config):
        sections.append(("critic", config.critic.ppo_mini_batch_size))
    for key, mini_batch in sections:
        for rows, source in _trained_rows(config):
            _check_mini_batch(config, f"{key}.ppo_mini_batch_size", mini_batch, rows, source)


def _trained_rows(config: DictConfig) -> Iterator[tuple[int, str]]:
    """Yield how many rows a step is trained on, and the keys that say so, for every number that occurs."""
    exploration, rollouts_per_prompt = exploration_config(config), config.actor_rollout_ref.rollout.n
    if exploration.total_budget is not None:
        for budget in exploration.budget_schedule(1, 1).budgets:
            yield budget, f"exploration.total_budget={budget}"
        return
    # Dynamic sampling trains on train_batch_size prompts' worth of rows, however many prompts it draws.
    name = "gen_batch_size" if config.data.get("gen_batch_size") else "train_batch_size"
    if exploration.dynamic_sampling.enable:
        name = "train_batch_size"
    prompts = config.data[name]
    yield prompts * rollouts_per_prompt, f"data.{name}={prompts}"


def _check_mini_batch(config: DictConfig, key: str, mini_batch: int, rows: int, source: str) -> None:
    rollouts_per_prompt, parts = config.actor_rollout_ref.rollout.n, data_parallel_size(config)

    def is_legal(prompts: int) -> bool:
        size = prompts * rollouts_per_prompt
        return size <= rows and rows % size == 0 and size % parts == 0

    if is_legal(mini_batch):
        return
    nearest = _nearest_legal(mini_batch, is_legal, highest=max(1, rows // rollouts_per_prompt))
    if mini_batch * rollouts_per_prompt > rows:
        fault = f"exceeds {source}"
    elif rows % (mini_batch * rollouts_per_prompt):
        fault = f"does not divide {source}, so that the loss of the last mini-batch would be scaled down"
    else:
        fault = f"gives {mini_batch * rollouts_per_prompt} rows, which the {parts} data-parallel workers cannot share"
    raise ConfigError(f"{key}={mini_batch} {fault}: nearest legal: {nearest}.")


def _nearest_legal(value: int, is_legal: Callable[[int], bool], highest: int) -> str:
    below = next((candidate for candidate in range(min(value, highest), 0, -1) if is_legal(candidate)), None)
    above = next((candidate for candidate in range(value + 1, highest + 1) if is_legal(candidate)), None)
    legal = [str(candidate) for candidate in (below, above) if candidate is not None]
    return " or ".join(legal) if legal else "none; change the batch sizes"


def check_dynamic_sampling(config: DictConfig, facts: Facts) -> None:
    """Refuse dynamic sampling that cannot generate the rows it is to train on, or rows that workers cannot share."""
    exploration, rollouts_per_prompt = exploration_config(config), config.actor_rollout_ref.rollout.n
    if not exploration.dynamic_sampling.enable or exploration.total_budget is not None or only_validates(config):
        return
    trained = config.data.train_batch_size
    drawn = prompts_per_batch(config) * exploration.dynamic_sampling.max_generations
    if drawn < trained:
        raise ConfigError(
            f"data.gen_batch_size={prompts_per_batch(config)} * exploration.dynamic_sampling.max_generations="
            f"{exploration.dynamic_sampling.max_generations} draws {drawn} prompts, fewer than data.train_batch_size="
            f"{trained} that a step trains on: raise max_generations to at least "
            f"{-(-trained // prompts_per_batch(config))}."
        )
    if trained * rollouts_per_prompt % world_size(config):
        raise ConfigError(
            f"data.train_batch_size={trained} * actor_rollout_ref.rollout.n={rollouts_per_prompt} rows cannot be "
            f"shared by {world_size(config)} workers: expected a multiple."
        )


def check_micro_batches_divide(config: DictConfig, facts: Facts) -> None:
    """Refuse a micro-batch that does not divide a worker's part of a mini-batch."""
    actor = config.actor_rollout_ref.actor
    micro_batch = actor.ppo_micro_batch_size_per_gpu
    rows = actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n // data_parallel_size(config)
    if not actor.use_dynamic_bsz and micro_batch is not None and (rows == 0 or rows % micro_batch):
        raise ConfigError(
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro_batch} does not divide the {rows} rows of a "
            "mini-batch on each data-parallel worker (ppo_mini_batch_size * rollout.n / workers): expected a divisor."
        )
