"""The learning simulation: its updates are the trainer's, its bound holds, its rules are the project's, its output."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import logit
from scored_batches import batch_of, with_advantages

from recipe.knapsack.studies import learning_prompts, learning_simulation
from recipe.knapsack.studies.learning_prompts import REGIMES, LearningPrompts, Regime, pull_of_groups
from recipe.knapsack.studies.learning_simulation import (
    CLAIRVOYANT,
    GRPO,
    PAPER,
    Rule,
    Scale,
    compare_rules,
    spent_to_reach,
    train,
)
from recipe.knapsack.studies.simulate import main
from verl.trainer.ppo.advantages import clip_advantages, weigh_prompts, without_single_rollouts

SMALL = Scale(num_prompts=512, batch_size=64, num_steps=120)
SMALL_OPTIONS = ["--learning", "--num-prompts=512", "--batch-size=64", "--num-steps=120"]


# ---------------------------------------------------------------- updates


def test_docstring_examples_hold():
    import doctest

    for module in (learning_prompts, learning_simulation):
        assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("prompt_weight", ["rows", "sqrt", "equal"])
@pytest.mark.parametrize("adv_clip", [None, 5.0, 1.0])
def test_the_pull_is_that_of_the_trainers_advantages(prompt_weight, adv_clip):
    """Oracle: verl's GRPO on the rollouts, the trainer's functions, and the score function of each rollout."""
    rollouts = np.array([1, 2, 2, 8, 40, 8, 8])
    successes = np.array([1, 1, 2, 3, 1, 0, 8])
    rates = np.linspace(0.1, 0.9, len(rollouts))
    prompt = np.repeat(np.arange(len(rollouts)), rollouts)
    is_success = np.concatenate([np.arange(n) < s for s, n in zip(successes, rollouts, strict=True)])
    batch = with_advantages(batch_of(is_success.astype(float), prompt), "grpo")
    uids = batch.non_tensor_batch["uid"]
    advantages = without_single_rollouts(batch.batch["advantages"], uids)
    advantages = weigh_prompts(clip_advantages(advantages, adv_clip), uids, prompt_weight)[:, 0].numpy()
    expected = np.bincount(prompt, weights=advantages * (is_success - rates[prompt])) / rollouts.mean()
    np.testing.assert_allclose(
        pull_of_groups(successes, rollouts, rates, adv_clip, prompt_weight), expected, rtol=1e-4, atol=1e-5
    )


def test_the_pull_is_the_gradient_of_the_policy_loss_by_the_log_odds():
    """Oracle: autograd through the log-probability of what was sampled."""
    log_odds = torch.tensor([-1.0, 0.7], requires_grad=True)
    prompt, is_success = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1])
    batch = with_advantages(batch_of(is_success.numpy(), prompt.numpy()), "grpo")
    log_prob = torch.nn.functional.logsigmoid(torch.where(is_success > 0, 1, -1) * log_odds[prompt])
    (batch.batch["advantages"][:, 0] * log_prob).sum().div(4).backward()
    rates = torch.sigmoid(log_odds).detach().numpy()
    pull = pull_of_groups(np.array([1, 4]), np.array([3, 5]), rates, 5.0, "rows")
    np.testing.assert_allclose(pull, log_odds.grad.numpy(), rtol=1e-4)


def test_a_plain_update_goes_by_the_gradient_and_a_normalised_one_moves_equally_far():
    chosen = np.arange(0, 40, 2)
    pull = np.linspace(-0.1, 0.4, len(chosen))
    for normalised, moved in ((False, 0.5 * pull), (True, 0.5 * 0.3 * pull / np.sqrt(np.mean(pull**2)))):
        prompts = LearningPrompts(40, Regime(0.5, normalised), seed=3)
        before = logit(prompts.rates)
        prompts.update(chosen, pull)
        np.testing.assert_allclose(logit(prompts.rates)[chosen] - before[chosen], moved, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(logit(prompts.rates)[1::2], before[1::2])


def test_a_step_without_a_gradient_moves_nothing():
    for regime in REGIMES.values():
        prompts = LearningPrompts(20, regime, seed=0)
        before = prompts.rates.copy()
        prompts.update(np.arange(4), np.zeros(4))
        np.testing.assert_allclose(prompts.rates, before, atol=1e-12)


def test_interference_moves_all_prompts_by_the_size_of_the_update():
    still, disturbed = (LearningPrompts(20_000, Regime(1.0, True, noise), seed=1) for noise in (0.0, 0.05))
    before, pull = logit(disturbed.rates), np.array([0.3, -0.1])
    still.update(np.arange(2), pull)
    disturbed.update(np.arange(2), pull)
    moved = logit(disturbed.rates)[2:] - before[2:]
    assert moved.std() == pytest.approx(0.05 * 0.3, rel=0.05) and abs(moved.mean()) < 0.001
    assert abs(logit(disturbed.rates)[0] - logit(still.rates)[0]) < 0.1


# ---------------------------------------------------------------- rules


@pytest.fixture(scope="module")
def summary():
    return compare_rules((GRPO, PAPER, CLAIRVOYANT), REGIMES["plain"], SMALL, seeds=range(2))


def test_the_clairvoyant_allocator_learns_most_and_the_papers_rule_part_of_it(summary):
    """Learning by the plain gradient is what the paper's value speaks of."""
    assert summary["clairvoyant"]["share_of_clairvoyant"] == 1.0 and summary["GRPO"]["gain"] == 0.0
    assert 0.3 < summary[PAPER.name]["share_of_clairvoyant"] < 1.0
    assert summary["clairvoyant"]["wins"] == summary[PAPER.name]["wins"] == 2
    assert summary["clairvoyant"]["gain"] > 0.02


def test_the_level_is_where_grpo_ends(summary):
    assert summary["GRPO"]["rollouts_to_level"] == pytest.approx(1.0, abs=0.02)  # noise may reach it a step before
    for name in ("clairvoyant", PAPER.name):
        assert summary[name]["reached"] == 2
        assert summary[name]["rollouts_to_level"] < 0.95 and summary[name]["tokens_to_level"] < 0.95


def test_another_level_may_be_out_of_reach():
    summary = compare_rules((GRPO, CLAIRVOYANT), REGIMES["plain"], SMALL, seeds=[0], level=0.999)
    assert summary["GRPO"]["rollouts_to_level"] is None and summary["GRPO"]["reached"] == 0
    assert summary["GRPO"]["success_rate_sd"] is None


def test_every_rule_spends_the_same_rollouts_and_starts_from_the_same_prompts():
    courses = [train(rule, REGIMES["interference"], SMALL, seed=5) for rule in (GRPO, PAPER, CLAIRVOYANT)]
    for course in courses:
        np.testing.assert_array_equal(course.rollouts, 512 * np.arange(121))
        assert course.success_rates[0] == courses[0].success_rates[0]
        assert np.all(np.diff(course.tokens) > 0)


def test_the_first_epoch_of_the_papers_rule_is_grpos():
    of_grpo, of_paper = (train(rule, REGIMES["normalised"], SMALL, seed=2) for rule in (GRPO, PAPER))
    np.testing.assert_array_equal(of_grpo.success_rates[:9], of_paper.success_rates[:9])
    assert not np.array_equal(of_grpo.success_rates, of_paper.success_rates)


def test_hard_prompts_have_long_responses():
    """With equal lengths tokens are rollouts; with long hard ones, allocating to hard prompts costs more tokens."""
    for hard_length in (1.0, 3.0):
        scale = Scale(512, 64, num_steps=40, hard_length=hard_length)
        grpo, clairvoyant = (train(rule, REGIMES["plain"], scale, seed=0) for rule in (GRPO, CLAIRVOYANT))
        if hard_length == 1.0:
            np.testing.assert_array_equal(grpo.tokens, 256 * grpo.rollouts)
        else:
            # In the first batch, of success rates that no training has changed yet.
            first = LearningPrompts(512, REGIMES["plain"], seed=0).rates[
                np.random.default_rng([0, 1]).permutation(512)[:64]
            ]
            assert grpo.tokens[1] == pytest.approx(8 * (256 * (3 - 2 * first)).sum(), rel=1e-3)
            assert clairvoyant.tokens[1] != grpo.tokens[1]


def test_a_seed_gives_the_same_course_and_another_seed_another():
    rule = Rule("beta", {"success_rate": {"estimator": "beta"}}, "sqrt")
    first, again, other = (train(rule, REGIMES["interference"], SMALL, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.success_rates, again.success_rates)
    assert not np.array_equal(first.success_rates, other.success_rates)


def test_what_was_spent_to_reach_a_level():
    rates, spent = np.array([0.2, 0.1, 0.3, 0.2, 0.5]), np.arange(5) * 10.0
    assert spent_to_reach(0.2, rates, spent) == 0.0
    assert spent_to_reach(0.25, rates, spent) == pytest.approx(17.5)
    assert spent_to_reach(0.4, rates, spent) == pytest.approx(30 + 20 / 3)
    assert spent_to_reach(0.6, rates, spent) is None


# ---------------------------------------------------------------- the command


def test_a_rule_of_the_users_own_is_judged(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_values.py").write_text("def mixed(n, p):\n    return 1 - p**n - (1 - p) ** n\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = ["--value", "own_values:mixed", "--estimator", "beta", "--prompt-weight", "sqrt", "--set", "n_up=32"]
    assert main([*SMALL_OPTIONS, *own, "--seeds", "2", "--json"]) == 0
    ((regime, entries),) = json.loads(capsys.readouterr().out).items()
    name = "n_up=32, value=own_values:mixed, success_rate.estimator=beta, prompt_weight=sqrt"
    assert regime == "normalised" and list(entries) == ["GRPO", PAPER.name, name, "clairvoyant"]
    rule = Rule(name, {"n_up": 32, "value": "own_values:mixed", "success_rate": {"estimator": "beta"}}, "sqrt")
    courses = [train(rule, REGIMES["normalised"], SMALL, seed) for seed in range(2)]
    assert entries[name]["success_rate"] == np.mean([course.success_rates[-1] for course in courses])


def test_a_preset_is_judged_with_its_prompt_weights(capsys):
    assert main([*SMALL_OPTIONS, "--set", "preset=recommended", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)["normalised"]["preset=recommended"]
    rule = Rule("", {"success_rate": {"estimator": "beta"}}, "sqrt")
    assert entry["success_rate"] == train(rule, REGIMES["normalised"], SMALL, seed=0).success_rates[-1]


def test_regimes_are_chosen_by_name_and_their_rate_can_be_changed(capsys):
    assert main([*SMALL_OPTIONS, "--prompt-weight=equal", "--regime=plain", "--regime=interference"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("plain: 120 steps, seeds: 1\n") and "\ninterference: 120 steps" in printed
    assert "| prompt_weight=equal |" in printed and "of 1)" in printed
    assert main([*SMALL_OPTIONS, "--prompt-weight=equal", "--regime=plain", "--learning-rate=0.5"]) == 0
    assert capsys.readouterr().out.strip() == printed.partition("\n\ninterference")[0].strip()  # the regime's own rate
    assert main([*SMALL_OPTIONS, "--prompt-weight=equal", "--regime=plain", "--learning-rate=0.1"]) == 0
    assert capsys.readouterr().out.strip() != printed.partition("\n\ninterference")[0].strip()


def test_without_a_rule_of_the_users_own_the_projects_are_compared(capsys):
    assert main([*SMALL_OPTIONS, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["normalised"]) == [rule.name for rule in learning_simulation.RULES]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-prompts=10"], "batch_size=64 is not possible with num_prompts=10"),
        (["--num-steps=0"], "num_steps must be at least 1, got 0"),
        (["--rollouts=1"], "rollouts_per_prompt must be at least 2, got 1"),
        (["--hard-length=0"], "hard_length must be above 0, got 0.0"),
        (["--seeds=0"], "seeds must be at least 1, got 0"),
        (["--learning-rate=0"], "learning_rate must be above 0, got 0.0"),
        (["--learning-rate=nan"], "learning_rate must be above 0, got nan"),
        (["--set", "n_upp=4"], "exploration.n_upp is not a known key: did you mean exploration.n_up?"),
        (["--set", "exploration.n_up=none"], "exploration.n_up='none' is not accepted"),
        (["--set", "n_up"], "--set n_up is not accepted: expected KEY=VALUE"),
        (["--set", "n_up=[3"], "--set n_up=[3 is not accepted: expected a value as in YAML"),
        (["--set", "success_rate.prior=rate"], "--set success_rate.prior is not accepted: the simulation has no data"),
        (["--set", "success_rate={similar_by: level}"], "--set success_rate.similar_by is not accepted"),
        (["--set", "dynamic_sampling.enable=true"], "--set dynamic_sampling is not accepted"),
        (["--set", "n_up.most=3"], "exploration.n_up={'most': 3} is not accepted"),
        (["--set", "n_up=3", "--set", "n_up.most=3"], "--set n_up.most=3 is not accepted: n_up is no section"),
        (["--set", "preset=best"], "exploration.preset='best' is not accepted: expected null or one of paper, "),
        (["--estimator", "bet"], "exploration.success_rate.estimator='bet' is not accepted"),
        (["--value", "no.such:function"], "no.such"),
        (["--set", "n_low=9"], "expected between"),
        (["--value", "expected"], "needs exploration.success_rate.estimator=beta, not previous_epoch"),
        (["--set", "max_expected_tokens=0.1x"], "exploration.max_expected_tokens=0.1x cannot be met"),
        (
            ["--set", "max_expected_tokens=1.0x", "--set", "allocator=homogeneous"],
            "needs exploration.allocator=knapsack",
        ),
        (["--set", "review={after_steps: 5, max_share: 0.001}"], "no prompt would ever be reviewed"),
        (["--level", "nan"], "level must lie strictly between 0 and 1, got nan"),
        (["--level", "2"], "level must lie strictly between 0 and 1, got 2.0"),
    ],
)
def test_what_cannot_run_is_told_in_one_line(options, message, capsys):
    assert main([*SMALL_OPTIONS, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
