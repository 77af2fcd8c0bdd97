"""How much does a rule learn per rollout? The learning simulation, without a language model.

    python -m recipe.knapsack.simulate --learning
    python -m recipe.knapsack.simulate --learning --value my_values:solved_at_least_once --prompt-weight sqrt

Prompts are softmax policies of their own (the paper's proposition 1) that GRPO trains, at the paper's scale. The rules
use the project's own explorer, advantages, clip and prompt weights. With --value, --estimator, --prompt-weight or --set
a rule of your own stands beside GRPO, the paper's rule and the clairvoyant allocator, which knows every success rate.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from knapsack_rl import PROMPT_WEIGHTS, ExplorationConfig
from knapsack_rl.config import check_preset
from knapsack_rl.config_checks import check_reviews, check_token_limit, configured_value
from knapsack_rl.presets import preset_value
from recipe.knapsack.studies.learning_prompts import REGIMES, Regime
from recipe.knapsack.studies.learning_simulation import CLAIRVOYANT, GRPO, PAPER, RULES, Rule, Scale, compare_rules

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        scale = Scale(options.num_prompts, options.batch_size, options.rollouts, options.num_steps, options.hard_length)
        rules = _rules(options)
        for rule in rules:
            _check(rule, scale)
        if options.level is not None and not 0.0 < options.level < 1.0:
            raise ValueError(f"level must lie strictly between 0 and 1, got {options.level}")
        if options.seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {options.seeds}")
        regimes = {name: _regime(name, options.learning_rate) for name in options.regime or ["normalised"]}
        on_step = _show_progress(len(regimes) * len(rules) * options.seeds * scale.num_steps)
        summaries = {
            name: compare_rules(rules, regime, scale, range(options.seeds), options.level, on_step)
            for name, regime in regimes.items()
        }
    except (ValueError, ImportError, AttributeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(summaries, indent=2))
    else:
        print("\n\n".join(_table(name, summary, options) for name, summary in summaries.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipe.knapsack.simulate --learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scale = Scale()
    parser.add_argument(
        "--regime",
        action="append",
        choices=sorted(REGIMES),
        help="how gradients become updates; may be repeated (default: normalised)",
    )
    parser.add_argument("--learning-rate", type=float, help="instead of the regime's")
    parser.add_argument("--seeds", type=int, default=1, help="populations that each rule trains (default: %(default)s)")
    parser.add_argument("--level", type=float, help="mean success rate to reach (default: where GRPO ends)")
    parser.add_argument("--num-prompts", type=int, default=scale.num_prompts, help="(default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=scale.batch_size, help="prompts per step (default: %(default)s)"
    )
    parser.add_argument(
        "--rollouts", type=int, default=scale.rollouts_per_prompt, help="per prompt on average (default: %(default)s)"
    )
    parser.add_argument("--num-steps", type=int, default=scale.num_steps, help="(default: %(default)s)")
    parser.add_argument(
        "--hard-length",
        type=float,
        default=scale.hard_length,
        help="length of a response to a prompt never solved, relative to one always solved (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    own = parser.add_argument_group("a rule of your own")
    own.add_argument("--value", help="as exploration.value: a name or package.module:function")
    own.add_argument("--estimator", help="as exploration.success_rate.estimator")
    own.add_argument("--prompt-weight", choices=list(PROMPT_WEIGHTS), help="as algorithm.prompt_weight")
    own.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key below exploration, as in --set success_rate.discount=0.8; may be repeated",
    )
    return parser


def _regime(name: str, learning_rate: float | None) -> Regime:
    regime = REGIMES[name]
    if learning_rate is None:
        return regime
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate}")
    return Regime(learning_rate, regime.normalised, regime.interference)


def _rules(options: argparse.Namespace) -> Sequence[Rule]:
    """GRPO, the paper's, the user's and the clairvoyant; without the user's, `RULES`."""
    settings = dict(_setting(text) for text in options.set)
    if options.value is not None:
        settings["value"] = options.value
    if options.estimator is not None:
        settings["success_rate.estimator"] = options.estimator
    if not settings and options.prompt_weight is None:
        return RULES
    described = [f"{key}={value}" for key, value in settings.items()]
    described += [f"prompt_weight={options.prompt_weight}"] if options.prompt_weight else []
    check_preset(settings.get("preset"))
    prompt_weight = options.prompt_weight or preset_value(settings.get("preset"), "algorithm.prompt_weight")
    exploration = _nested(settings)
    _refuse_without_effect(exploration)
    return GRPO, PAPER, Rule(", ".join(described), exploration, prompt_weight), CLAIRVOYANT


def _check(rule: Rule, scale: Scale) -> None:
    """Refuse what training refuses."""
    config = ExplorationConfig.from_mapping(rule.exploration)
    if config.allocator == "knapsack":
        configured_value(config, "grpo")
    check_token_limit(config, "grpo", scale.batch_size, scale.rollouts_per_prompt)
    check_reviews(config, scale.batch_size, scale.rollouts_per_prompt)


def _refuse_without_effect(exploration: Mapping[str, Any]) -> None:
    """Refuse keys of the exploration section that the simulation does not act on."""
    of_data = {"prior", "prior_weight", "similar_by"}
    success_rate = exploration.get("success_rate")
    keys = [f"success_rate.{key}" for key in success_rate if key in of_data] if isinstance(success_rate, dict) else []
    keys += ["dynamic_sampling"] if "dynamic_sampling" in exploration else []
    if keys:
        raise ValueError(f"--set {keys[0]} is not accepted: the simulation has no data files and samples a step once")


def _setting(text: str) -> tuple[str, Any]:
    key, has_value, value = text.partition("=")
    if not has_value:
        raise ValueError(f"--set {text} is not accepted: expected KEY=VALUE, as in success_rate.discount=0.8")
    key = key.removeprefix("exploration.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {text} is not accepted: expected a value as in YAML") from None


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections.

    >>> _nested({"n_up": 64, "success_rate.estimator": "beta"})
    {'n_up': 64, 'success_rate': {'estimator': 'beta'}}
    """
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ValueError(f"--set {key}={value} is not accepted: {part} is no section of keys")
        section[name] = value
    return nested


def _table(regime: str, summary: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> str:
    level = "GRPO's level" if options.level is None else f"a rate of {options.level:g}"
    columns = ["rule", "mean success rate", "gain over GRPO (wins)", "share of the clairvoyant's gain"]
    columns += [f"rollouts to {level}", f"tokens to {level}", "effective ratio"]
    lines = [f"{regime}: {options.num_steps} steps, seeds: {options.seeds}", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for name, entry in summary.items():
        share = entry["share_of_clairvoyant"]
        cells = [name, _with_spread(entry["success_rate"], entry["success_rate_sd"])]
        if name == GRPO.name:
            cells += ["", ""]
        else:
            gain = _with_spread(entry["gain"], entry["gain_sd"], sign="+")
            cells += [f"{gain} ({entry['wins']} of {options.seeds})", "" if share is None else f"{share:.0%}"]
        partly = "" if entry["reached"] in (0, options.seeds) else f" ({entry['reached']} of {options.seeds})"
        for quantity in ("rollouts", "tokens"):
            spent = entry[f"{quantity}_to_level"]
            cells.append("not reached" if spent is None else f"{spent:.0%}{partly}")
        lines.append("| " + " | ".join([*cells, f"{entry['effective_ratio']:.3f}"]) + " |")
    return "\n".join(lines)


def _with_spread(mean: float, spread: float | None, sign: str = "") -> str:
    return f"{mean:{sign}.4f}" + ("" if spread is None else f" +- {spread:.4f}")


def _show_progress(num_steps: int) -> Callable[[], None]:
    """Show a bar on a terminal; keep quiet when the output goes elsewhere."""
    from tqdm import tqdm

    bar = tqdm(total=num_steps, unit="step", leave=False, disable=not sys.stderr.isatty())

    def step() -> None:
        bar.update()
        if bar.n == num_steps:
            bar.close()

    return step


if __name__ == "__main__":
    sys.exit(main())
