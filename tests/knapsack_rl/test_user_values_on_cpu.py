"""A user's value function: what it wants is read from its parameters' names, what it returns is checked."""

import functools

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, TrainingState, knapsack_allocate, resolve_value_function
from knapsack_rl.theory import expected_value
from knapsack_rl.user_values import user_value
from knapsack_rl.value_checks import check_concave, check_value

BELIEFS = np.array([0.5, 4.0, 1.0]), np.array([8.5, 4.0, 1.0])


def of_rates(n, p):
    return (1 - 0.5**n) * p


def of_beliefs(n, alpha, beta):
    return expected_value(n, alpha, beta)


def of_rates_and_state(n, p, state):
    return (1 - 0.5**n) * np.abs(p - state.mean_success_rate)


def by_keyword(n, *, state, alpha, beta):
    return (1 - 0.5**n) * alpha / (alpha + beta) ** (1 + state.never_solved)


def by_position_only(x1, x2, /, out=None):
    return (1 - 0.5**x1) * x2


def with_a_default(n, p, alpha=2.0):
    return (1 - 0.5**n) * p**alpha


@pytest.mark.parametrize(
    ("function", "parameters", "needs_state"),
    [
        (of_rates, ("success_rates",), False),
        (of_beliefs, ("alpha", "beta"), False),
        (of_rates_and_state, ("success_rates",), True),
        (by_keyword, ("alpha", "beta"), True),
        (with_a_default, ("success_rates",), False),
        (functools.partial(with_a_default, alpha=1.0), ("success_rates",), False),
        (np.vectorize(of_beliefs), ("alpha", "beta"), False),
        (np.power, ("success_rates",), False),
        (by_position_only, ("success_rates",), False),
        (lambda *given: given[1], ("success_rates",), False),
    ],
)
def test_parameters_say_by_their_names_what_is_wanted(function, parameters, needs_state):
    value = user_value(function, "mine")
    assert value.parameters == parameters
    assert value.needs_state == needs_state
    assert value.for_state(TrainingState()).value(3, *np.full((len(parameters), 4), 0.5)).shape == (4,)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda n, p, tokens: p, "depends on tokens, not offered"),
        (lambda n, rate: rate, "depends on rate, not offered"),
        (lambda p: p, "depends on p: expected n"),
        (lambda n: n, "depends on n: expected n, then p or alpha and beta"),
        (lambda n, state: n, "expected n, then p or alpha and beta"),
        (lambda n, alpha: alpha, "expected n, then p or alpha and beta"),
        (lambda n, p, alpha, beta: p, "expected n, then p or alpha and beta"),
        (lambda n, p, *, epoch: p, "depends on epoch, not offered"),
    ],
)
def test_what_is_not_offered_is_refused(function, said):
    with pytest.raises(ValueError, match=said) as refusal:
        resolve_value_function(function)
    assert "\n" not in str(refusal.value)


def test_beliefs_reach_the_function_in_any_order_of_its_parameters():
    def swapped(beta, n, alpha):
        return expected_value(n, alpha, beta)

    budgets = [
        knapsack_allocate(None, 60, value=value, beliefs=BELIEFS).budgets.tolist()
        for value in (swapped, of_beliefs, "expected")
    ]
    assert budgets[0] == budgets[1] == budgets[2]


def rates_first(p, n, /):
    return np.sqrt(n) * p


def only_keywords(*anything, n, p):
    return np.sqrt(n) * p


def without_names(first, second, /):
    return np.sqrt(first) * second


@pytest.mark.parametrize("function", [rates_first, only_keywords, without_names])
def test_names_decide_wherever_python_takes_the_arguments(function):
    expected = knapsack_allocate([0.5, 0.25, 0.9], 40, value=lambda n, p: np.sqrt(n) * p)
    assert knapsack_allocate([0.5, 0.25, 0.9], 40, value=function).budgets.tolist() == expected.budgets.tolist()


def test_without_a_state_a_function_of_it_is_refused():
    with pytest.raises(ValueError, match="depends on the state of training: use"):
        knapsack_allocate([0.5, 0.25], 20, value=of_rates_and_state)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda n, p: p[:-1], r"returned shape \(8,\) for \(9,\) success rates"),
        (lambda n, p: 1.0, r"returned shape \(\)"),
        (lambda n, alpha, beta: (alpha + beta)[None], r"returned shape \(1, 27\) for \(27,\) beliefs"),
        (lambda n, p: np.where(p > 0.97, np.nan, p), "gave nan for p=0.98, N=2"),
        (lambda n, p: p / (n - 2), "gave inf for p=0.001, N=2"),
        (lambda n, alpha, beta: np.where(alpha > 8, np.nan, 1.0), "gave nan for alpha="),
        (lambda n, p, state: p * np.log(state.mean_success_rate), "gave -inf .*mean_success_rate=0.0"),
        (lambda n, p, state: p * state.loss, "failed .*'TrainingState' object has no attribute 'loss'"),
        (lambda n, p: p if p > 0.5 else 0.0, "Wrap a function of scalars in numpy.vectorize"),
        (lambda n, p: {}["p"], "failed for n=2 .*: KeyError: 'p';"),
        (lambda n, p: p + [][n], "failed for n=2 .*: list index out of range;"),
        (lambda n, p: next(iter(())), "failed for n=2 .*: StopIteration;"),
        (lambda n, p: p * np.log(np.maximum(11 - n, 0)), "gave -inf for p=0.001, N=11"),
        (lambda n, p: p + 1j * n, "failed for n=2 .*: it returned complex numbers"),
        (lambda n, p: ["one"] * len(p), "failed for n=2"),
        (lambda n, p: p / (1 if n < 128 else 0) if n == 128 else p, "gave inf|failed"),
    ],
)
def test_what_a_function_returns_is_checked_before_there_is_anything_to_allocate(function, said):
    with pytest.raises(ValueError, match=said) as refusal:
        check_value(resolve_value_function(function), 2, 128)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "value", [of_rates, of_beliefs, of_rates_and_state, by_keyword, "grpo", "remax", "easy_to_hard", "hard_leaning"]
)
def test_values_that_can_be_used_pass(value):
    check_value(resolve_value_function(value), 2, 128)
    check_concave(resolve_value_function(value), 2, 128)


def test_a_value_that_is_not_concave_is_told_with_where():
    with pytest.raises(ValueError, match="gains more from rollout 4 than from rollout 3 at p=0.001"):
        check_concave(resolve_value_function(lambda n, p: n**2 * p), 2, 16)


@pytest.mark.parametrize("name", ["of_beliefs", "by_keyword", "of_rates_and_state"])
def test_a_configured_function_of_beliefs_and_state_decides_from_the_first_step_on(name, tmp_path, monkeypatch):
    source = {
        "of_beliefs": "def f(n, alpha, beta): return (1 - 0.5**n) * alpha / (alpha + beta)",
        "by_keyword": "def f(n, *, state, alpha, beta): return (1 - 0.5**n) * alpha * (1 + state.never_solved)",
        "of_rates_and_state": "def f(n, p, state): return (1 - 0.5**n) * p**2 * state.mean_success_rate",
    }[name]
    (tmp_path / f"values_{name}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = ExplorationConfig.from_mapping({"value": f"values_{name}:f", "success_rate": {"estimator": "beta"}})
    explorer, again = Explorer(config), Explorer(config)
    ids = ["a", "b", "c", "d"]
    rng = np.random.default_rng(0)
    for step in range(1, 4):
        plan = explorer.plan(ids, epoch=step - 1, step=step)
        assert plan.budgets.sum() == 32
        success = rng.random(32) < np.array([0.0, 0.2, 0.6, 1.0])[plan.order]
        explorer.observe(plan, Outcomes(plan.order, success * 1.0, success, success, np.ones(32)))
    again.load_state_dict(explorer.state_dict())
    plans = [one.plan(ids, epoch=3, step=4).budgets for one in (explorer, again)]
    assert plans[0].tobytes() == plans[1].tobytes()
    assert len(set(plans[0].tolist())) > 1


def in_place(n, p):
    q = 1.0 - p
    p *= p
    return (1.0 - q**n) * q


def with_one_buffer():
    buffer = np.empty(16)

    def value(n, p):
        buffer[: p.size] = (1.0 - (1.0 - p) ** n) * (1.0 - p)
        return buffer[: p.size]

    return value


def scalar_that_begins_with_an_integer(n, p):
    return 0 if p < 0.2 else (1.0 - (1.0 - p) ** n) * (1.0 - p)


def plain(n, p):
    return (1.0 - (1.0 - p) ** n) * (1.0 - p)


@pytest.mark.parametrize("careless", [in_place, with_one_buffer()], ids=["in_place", "one_buffer"])
def test_a_function_may_work_in_place_and_keep_its_buffer(careless):
    rates = np.array([0.1, 0.5, 0.5, 0.9])
    budgets = knapsack_allocate(rates, 32, 2, 16, value=careless).budgets
    assert budgets.tolist() == knapsack_allocate(rates, 32, 2, 16, value=plain).budgets.tolist()
    assert rates.tolist() == [0.1, 0.5, 0.5, 0.9]
    check_value(user_value(in_place, "mine"), 2, 16)
    check_value(user_value(lambda n, p: np.log(p), "mine"), 2, 16)  # at the same points as ever


def test_a_vectorized_function_of_scalars_keeps_its_fractions():
    value = user_value(np.vectorize(scalar_that_begins_with_an_integer), "mine")
    rates = np.array([0.1, 0.5])
    assert value.value(3, rates).tolist() == [0.0, plain(3, 0.5)]
