"""What can be known of an exploration section before training starts, beside the ranges of its single keys.

Every trainer refuses the same: what a check needs of a trainer's own configuration, it is given.
"""

from __future__ import annotations

from knapsack_rl.advantage_estimators import value_for_adv_estimator
from knapsack_rl.config import ConfigError, ExplorationConfig
from knapsack_rl.options import is_number
from knapsack_rl.token_limit import is_share, least_factor
from knapsack_rl.value_checks import check_concave, check_value
from knapsack_rl.value_function import ValueFunction
from knapsack_rl.values import resolve_value_function
from knapsack_rl.weighting import PROMPT_WEIGHT

__all__ = ["check_adv_clip", "check_prompt_weight", "check_reviews", "check_token_limit", "configured_value"]


def configured_value(config: ExplorationConfig, adv_estimator: str) -> ValueFunction:
    """What a budget is worth under a configuration, checked before there is anything to allocate.

    Args:
        config: says it by name, or leaves it to the advantage estimator.
        adv_estimator: verl's name of the advantage estimator.

    Raises:
        ConfigError: the function is unknown, fails, or depends on beliefs that the estimator of success rates does not
            hold; or the configuration names none and the advantage estimator implies none.

    >>> configured_value(ExplorationConfig(), "rloo").name
    'rloo'
    """
    try:
        function = resolve_value_function(config.value or value_for_adv_estimator(adv_estimator))
        check_value(function, config.n_low, config.n_up)
    except (ValueError, ImportError, AttributeError) as error:
        key = "exploration.value" if config.value else "algorithm.adv_estimator"
        raise ConfigError(f"{key}={config.value or adv_estimator!r} is not accepted: {error}") from error
    if "alpha" in function.parameters and config.success_rate.estimator != "beta":
        raise ConfigError(
            f"exploration.value={function.name} depends on beliefs and needs exploration.success_rate.estimator=beta, "
            f"not {config.success_rate.estimator}: set it."
        )
    return function


def check_adv_clip(adv_clip: object) -> None:
    """Refuse a clip of advantages that is neither None nor a positive number.

    Raises:
        ConfigError: naming the value.
    """
    if adv_clip is not None and not (is_number(adv_clip) and adv_clip > 0):  # type: ignore[operator]
        raise ConfigError(f"algorithm.adv_clip={adv_clip!r} is not accepted: expected null or a number above 0.")


def check_prompt_weight(prompt_weight: object) -> None:
    """Refuse a weight of prompts that `PROMPT_WEIGHT` does not accept.

    Raises:
        ConfigError: naming the value.
    """
    if not PROMPT_WEIGHT.accepts(prompt_weight):
        raise ConfigError(
            f"algorithm.prompt_weight={prompt_weight!r} is not accepted: expected {PROMPT_WEIGHT.accepted}."
        )


def check_token_limit(
    config: ExplorationConfig, adv_estimator: str, num_prompts: int, rollouts_per_prompt: int
) -> None:
    """Refuse a limit on expected tokens that no lengths could meet, or that cannot be solved exactly.

    Args:
        config: the exploration section.
        adv_estimator: verl's name of the advantage estimator.
        num_prompts: M, prompts of a batch.
        rollouts_per_prompt: N.

    Raises:
        ConfigError: naming the limit and the least possible.
    """
    limit = config.max_expected_tokens
    if limit is None:
        return
    key = f"exploration.max_expected_tokens={limit}"
    if config.allocator == "homogeneous":
        raise ConfigError(
            f"{key} needs exploration.allocator=knapsack: homogeneous allocation has no choice. Unset it."
        )
    if config.solver == "dp":
        raise ConfigError(f"{key} needs exploration.solver=auto or greedy, not dp.")
    function = configured_value(config, adv_estimator)
    try:
        check_concave(function, config.n_low, config.n_up)
    except ValueError as error:
        raise ConfigError(f"{key} is not accepted: {error}.") from error
    for budget in config.budget_schedule(num_prompts, rollouts_per_prompt).budgets:
        if not is_share(limit) and limit < budget:
            raise ConfigError(
                f"{key} cannot be met by the {budget} rollouts of a step: the least possible is {budget}, a token each."
            )
        least = least_factor(num_prompts, budget, config.n_low)
        if is_share(limit) and float(limit[:-1]) < least:
            raise ConfigError(
                f"{key} cannot be met: the least possible is {least:g}x, which exploration.n_low={config.n_low} "
                f"rollouts for each of {num_prompts} prompts have of {budget}."
            )


def check_reviews(config: ExplorationConfig, num_prompts: int, rollouts_per_prompt: int) -> None:
    """Refuse reviews that no step could ever pay for.

    Raises:
        ConfigError: naming the share that one review takes.
    """
    review = config.review
    if review.after_steps is None:
        return
    if config.allocator == "homogeneous":
        raise ConfigError(
            f"exploration.review.after_steps={review.after_steps} needs exploration.allocator=knapsack: homogeneous "
            "allocation gives every prompt the same. Unset it."
        )
    cost = review.rollouts - config.n_low
    for budget in config.budget_schedule(num_prompts, rollouts_per_prompt).budgets:
        room = min(int(review.max_share * budget), budget - num_prompts * config.n_low)
        if room < cost:
            raise ConfigError(
                f"exploration.review.rollouts={review.rollouts} takes {cost} rollouts more than exploration.n_low="
                f"{config.n_low}, and exploration.review.max_share={review.max_share:g} of a step's {budget} leaves "
                f"{max(room, 0)}: no prompt would ever be reviewed. Raise max_share, or lower rollouts."
            )
