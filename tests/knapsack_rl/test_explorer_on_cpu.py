"""The explorer: plans add up, what came is learned, states restore to the bit."""

import numpy as np
import pytest

from knapsack_rl import Allocation, ExplorationConfig, Explorer, Outcomes, knapsack_allocate
from knapsack_rl.metrics import METRICS

PROMPTS = [f"prompt {number}" for number in range(12)]
RATES = np.array([0.0, 0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.0, 1.0, 1.0])


def explorer_of(**options):
    return Explorer(ExplorationConfig.from_mapping(options), rollouts_per_prompt=8)


def sample(plan, rng):
    """Outcomes of a plan whose prompts succeed with `RATES`."""
    successes = rng.random(len(plan.order)) < RATES[plan.order]
    counts = np.bincount(plan.order, weights=successes, minlength=len(RATES))
    mixed = (counts > 0) & (counts < plan.budgets)
    return Outcomes(plan.order, successes * 1.0, successes, mixed[plan.order], rng.integers(1, 50, len(plan.order)))


def train(explorer, steps, rng, first_step=1):
    plans = []
    for step in range(first_step, first_step + steps):
        plan = explorer.plan(PROMPTS, epoch=step - 1, step=step)
        explorer.observe(plan, sample(plan, rng))
        plans.append(plan)
    return plans


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"allocator": "homogeneous"},
        {"dispatch": "packed"},
        {"value": "expected", "success_rate": {"estimator": "beta"}},
        {"total_budget": [[1, 96], [3, 60]]},
    ],
)
def test_every_plan_spends_the_budget_and_deals_out_every_rollout(options):
    explorer = explorer_of(**options)
    for plan in train(explorer, 5, np.random.default_rng(0)):
        assert plan.budgets.sum() == explorer.total_budget(12, plan.step) == len(plan.order)
        np.testing.assert_array_equal(np.bincount(plan.order, minlength=12), plan.budgets)


def test_the_first_epoch_is_homogeneous_and_the_next_is_not():
    first, second = train(explorer_of(), 2, np.random.default_rng(0))
    assert first.budgets.tolist() == [8] * 12 and np.isnan(first.success_rates).all()
    assert second.budgets[-1] == 2 and second.budgets.max() > 8


def test_the_explorer_calls_the_allocation_that_it_was_given():
    called = []

    def allocate(*arguments, **options) -> Allocation:
        called.append(options["value"].name)
        return knapsack_allocate(*arguments, **options)

    explorer = Explorer(ExplorationConfig(), rollouts_per_prompt=8, allocate=allocate)
    train(explorer, 2, np.random.default_rng(0))
    assert called == ["grpo", "grpo"]


def test_what_is_observed_is_what_came_and_not_what_was_planned():
    explorer = explorer_of()
    plan = explorer.plan(["a", "b"], epoch=0, step=1)
    came = np.array([0, 0, 0, 1])
    successes = np.array([True, False, False, True])
    explorer.observe(plan, Outcomes(came, successes * 1.0, successes, successes, np.ones(4)))
    assert explorer.plan(["a", "b"], epoch=1, step=2).success_rates.tolist() == [pytest.approx(1 / 3), 1.0]


def test_outcomes_of_prompts_that_were_not_planned_are_refused():
    explorer = explorer_of()
    plan = explorer.plan(["a"], epoch=0, step=1)
    one = np.ones(1)
    with pytest.raises(ValueError, match="outcomes name prompt 1, and the plan has 1 prompts"):
        explorer.observe(plan, Outcomes(np.array([1]), one, one > 0, one > 0, one))


@pytest.mark.parametrize("estimator", ["previous_epoch", "window", "beta"])
def test_a_restored_explorer_plans_the_same_to_the_bit(estimator):
    options = {"success_rate": {"estimator": estimator}, "dispatch": "packed"}
    uninterrupted, interrupted = explorer_of(**options), explorer_of(**options)
    train(uninterrupted, 3, np.random.default_rng(1))
    train(interrupted, 3, np.random.default_rng(1))
    resumed = explorer_of(**options)
    resumed.load_state_dict(interrupted.state_dict())
    expected = train(uninterrupted, 3, np.random.default_rng(2), first_step=4)
    for ours, theirs in zip(train(resumed, 3, np.random.default_rng(2), first_step=4), expected, strict=True):
        assert ours.budgets.tobytes() == theirs.budgets.tobytes()
        assert ours.order.tobytes() == theirs.order.tobytes()
        assert ours.success_rates.tobytes() == theirs.success_rates.tobytes()


def test_metrics_count_every_batch_of_a_step():
    explorer, rng = explorer_of(), np.random.default_rng(0)
    train(explorer, 1, rng)
    explored = []
    for _ in range(2):
        plan = explorer.plan(PROMPTS, epoch=1, step=2)
        explored.append((plan, sample(plan, rng)))
    metrics = explorer.metrics(explored)
    assert metrics.keys() <= METRICS.keys()
    effective = sum(outcomes.effective.sum() for _, outcomes in explored)
    assert metrics["training/num_effective_samples"] == effective
    assert metrics["allocation/budget_fallback"] == sum(plan.allocation.placed["fallback"] for plan, _ in explored)
    one_each = [explorer.metrics([pair])["training/effective_gradient_ratio"] for pair in explored]
    assert metrics["training/effective_gradient_ratio"] == pytest.approx(np.mean(one_each))


def test_the_history_takes_plans_and_outcomes(tmp_path):
    pytest.importorskip("pyarrow")
    from knapsack_rl.history import ExplorationHistory, read_history

    explorer, rng = explorer_of(), np.random.default_rng(0)
    history = ExplorationHistory(tmp_path)
    plan = explorer.plan(PROMPTS, epoch=0, step=1)
    outcomes = sample(plan, rng)
    history.record(plan, outcomes)
    history.flush()
    table = read_history(tmp_path).to_pydict()
    assert table["budget"] == plan.budgets.tolist() and table["prompt_id"] == PROMPTS
    assert sum(table["successes"]) == outcomes.successes.sum()


def test_a_budget_that_cannot_be_placed_is_named():
    explorer = explorer_of(total_budget=10)
    with pytest.raises(ValueError, match="total_budget=10 cannot be placed on 12 prompts"):
        explorer.plan(PROMPTS, epoch=0, step=1)
