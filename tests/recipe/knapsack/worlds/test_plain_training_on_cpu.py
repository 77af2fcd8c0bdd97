"""The plain loop: its rollouts, its groups, its update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from knapsack_rl import ExplorationConfig
from recipe.knapsack.worlds import plain_training
from recipe.knapsack.worlds.plain_training import PlainTraining, Settings, _response_mask
from recipe.knapsack.worlds.tasks import TASKS

PROMPTS, ROLLOUTS = 16, 4
DYNAMIC = ExplorationConfig.from_mapping({"allocator": "homogeneous", "dynamic_sampling": {"enable": True}})


@pytest.fixture
def training(warm_start, monkeypatch):
    def make(exploration: ExplorationConfig | None = None, prompts: int = PROMPTS, **settings: object) -> PlainTraining:
        monkeypatch.setattr(plain_training, "PROMPTS_PER_STEP", prompts)
        return PlainTraining(
            warm_start,
            TASKS["tiny"],
            Settings(exploration or ExplorationConfig(n_up=16), rollouts_per_prompt=ROLLOUTS, **settings),
        )

    return make


def test_every_step_spends_its_budget_and_epochs_hold_every_prompt_once(training):
    run = training(ExplorationConfig(allocator="homogeneous"))
    seen = [next(run._batches) for _ in range(1024 // PROMPTS + 1)]
    assert sorted(np.concatenate([batch for _, batch in seen[:-1]])) == list(range(1024))
    assert [epoch for epoch, _ in seen] == [0] * (1024 // PROMPTS) + [1]
    run.step()
    run.step()
    assert (run.steps, run.rollouts) == (2, 2 * PROMPTS * ROLLOUTS)


def test_the_knapsack_allocates_by_what_was_observed(training):
    run = training()
    prompts = np.arange(PROMPTS)
    run._batches = iter([(0, prompts), (1, prompts)])
    run.step()
    rates = run.explorer.task_status.success_rates([run.train_prompts.ids[prompt] for prompt in prompts], epoch=1)
    plans = []
    plan = run.explorer.plan
    run.explorer.plan = lambda *args, **kwargs: plans.append(plan(*args, **kwargs)) or plans[-1]
    run.step()
    assert plans[0].success_rates.tolist() == rates.tolist()
    assert plans[0].budgets.sum() == PROMPTS * ROLLOUTS and len(set(plans[0].budgets.tolist())) > 1
    assert run.never_solved == 1024 - int((rates > 0).sum()) - int(
        run.ever_solved[prompts].sum() - (rates > 0).sum()
    ), "a prompt counts once"


def test_dynamic_sampling_trains_on_mixed_groups_and_pays_for_all(training):
    run = training(DYNAMIC)
    effective, roll_out = [], run._roll_out
    run._roll_out = lambda generation: effective.append(roll_out(generation)) or effective[-1]
    rollouts = run._explore()
    assert len(rollouts.scores) == PROMPTS * ROLLOUTS
    assert run.rollouts == 4 * PROMPTS * ROLLOUTS, "it drew as often as it may, for few groups are mixed"
    assert rollouts.effective.sum() == sum(part.effective.sum() for part in effective) > 0
    of_groups = zip(np.unique(rollouts.groups, return_inverse=True)[1], rollouts.prompts)
    assert len(set(of_groups)) == len(set(rollouts.groups)), "a group is of one prompt"


def test_a_step_makes_what_earned_more_than_its_group_likelier(training):
    run = training(learning_rate=1e-3, prompts=128)
    rollouts = run._roll_out(0)
    mask = _response_mask(rollouts.token_ids)
    advantages = run._advantages(rollouts, mask)[:, 0]
    before = (run._log_probs(rollouts) * mask).sum(dim=-1).detach()
    run._update(rollouts)
    moved = (run._log_probs(rollouts) * mask).sum(dim=-1).detach() - before
    assert (moved * advantages).sum() > 0
    assert advantages[torch.from_numpy(~rollouts.effective)].abs().max() < 1e-3


def test_log_probs_are_those_the_decoder_sampled_with(training):
    run = training()
    rollouts = run._roll_out(0)
    inputs = run.train_prompts.input_ids[rollouts.prompts[:1]]
    mask = run.train_prompts.attention_mask[rollouts.prompts[:1]].bool()
    alone = torch.cat([inputs[mask], rollouts.token_ids[0]])[None]
    logits = run.model(alone).logits[0, int(mask.sum()) - 1 : -1].log_softmax(dim=-1)
    expected = logits.gather(-1, rollouts.token_ids[0].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(run._log_probs(rollouts)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_response_counts_up_to_its_end():
    tokens = torch.tensor([[5, 6, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0]])
    assert _response_mask(tokens).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_a_training_is_a_function_of_its_settings(training):
    records = [training().run(3 * PROMPTS * ROLLOUTS, PROMPTS * ROLLOUTS, lambda rollouts: None) for _ in range(2)]
    first, second = ([(each.step, each.tokens, each.accuracy) for each in run] for run in records)
    assert first == second and [each[0] for each in first] == [0, 1, 2, 3]
    assert records[0][-1].tokens <= 3 * PROMPTS * ROLLOUTS * TASKS["tiny"].response_length
