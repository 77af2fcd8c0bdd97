"""Start-up checks of the whole configuration: what can be known to fail is refused before Ray starts.

Each check is a function of the configuration and the :class:`Facts` of the machine. It raises a :class:`ConfigError` of
one line that names the key, the value and what to do. Checks that have nothing to do with each other are all made, so
that all that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from knapsack_rl.config import ConfigError
from verl.trainer.config.checks import (
    budgets,
    cpu_slots,
    data,
    device,
    engine,
    estimators,
    files,
    kinds,
    limits,
    models,
    prior,
    prompts,
    resume,
    rewards,
    run_folder,
    sampling,
    token_limit,
    upstream,
)
from verl.trainer.config.checks.facts import Facts, joins_existing_cluster, look_around
from verl.trainer.config.checks.reading import exploration_config, iterate_scalars, longest_sequence

__all__ = [
    "Check",
    "ConfigError",
    "Facts",
    "check_config",
    "exploration_config",
    "find_config_errors",
    "find_config_notices",
    "iterate_scalars",
    "joins_existing_cluster",
    "longest_sequence",
    "look_around",
]

Check = Callable[[DictConfig, Facts], None]

IN_ORDER: tuple[Check, ...] = (
    kinds.check_values,
    device.check_device,
    device.check_cluster,
    estimators.check_value_function,
    estimators.check_advantages,
    estimators.check_importance_cap,
    device.check_workers,
    engine.check_rollout_engine,
    budgets.check_budgets,
    estimators.check_groups,
    sampling.check_sampling,
    upstream.check_upstream_rules,
    budgets.check_mini_batches,
    budgets.check_micro_batches_divide,
    files.check_data_files,
    data.check_columns,
    models.check_models,
    rewards.check_reward_function,
)
"""Each relies on what those before it accept; the first refusal ends them."""

INDEPENDENT: tuple[Check, ...] = (
    kinds.check_checkpoint_contents,
    budgets.check_dynamic_sampling,
    token_limit.check_limits,
    prior.check_prior,
    prior.check_similar_by,
    rewards.check_reward_manager,
    rewards.check_resampling,
    cpu_slots.check_cpu_slots,
    limits.check_micro_batch_tokens,
    limits.check_engine_tokens,
    data.check_files_agree,
    data.check_row_counts,
    data.check_rows,
    prompts.check_prompt_lengths,
    run_folder.check_folders,
    run_folder.check_not_in_use,
    run_folder.check_loggers,
)
"""Made of what `IN_ORDER` accepts; all their refusals are told."""

RESUME: tuple[Check, ...] = (
    resume.check_resume_path,
    resume.check_resumed_contents,
    resume.check_resumed_workers,
    resume.check_resumed_model,
    resume.check_resumed_data,
)
"""Made beside `INDEPENDENT`, but not of a run that is finished: it is not resumed."""


def check_config(config: DictConfig, defaults: DictConfig, facts: Facts | None = None) -> None:
    """Refuse a configuration that cannot run.

    Args:
        config: the composed configuration with the user's overrides.
        defaults: the same configuration without them; it tells the type each key should have.
        facts: of the machine; those of this one if None.

    Raises:
        ConfigError: naming the key, the value and what would be accepted; a line for each reason.
    """
    errors = find_config_errors(config, defaults, facts)
    if errors:
        raise ConfigError("\n".join(map(str, errors)))


def find_config_errors(
    config: DictConfig, defaults: DictConfig, facts: Facts | None = None, further_checks: Sequence[Check] = ()
) -> list[ConfigError]:
    """Return why a configuration cannot run; empty if it can.

    Args:
        config: the composed configuration with the user's overrides.
        defaults: the same configuration without them.
        facts: of the machine; those of this one if None.
        further_checks: to be made beside `INDEPENDENT`.
    """
    facts = look_around() if facts is None else facts
    try:
        kinds.check_types(config, defaults)
        exploration_config(config)
        for check in IN_ORDER:
            check(config, facts)
    except ConfigError as error:
        return [error]
    resumes = resume.finished_run(config, facts) is None
    checks = (*INDEPENDENT, *(RESUME if resumes else ()), *further_checks)
    return list(filter(None, (_error_of(check, config, facts) for check in checks)))


def find_config_notices(config: DictConfig) -> list[str]:
    """Return a line for each thing that is worth knowing of a configuration that can run."""
    return [*resume.resume_notices(config), *prompts.prompt_notices(config)]


def _error_of(check: Check, config: DictConfig, facts: Facts) -> ConfigError | None:
    try:
        check(config, facts)
    except ConfigError as error:
        return error
    return None
