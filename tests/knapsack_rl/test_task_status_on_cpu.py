"""What is known of each prompt: identity, the estimators against their definitions, persistence and its faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from knapsack_rl import task_status
from knapsack_rl.status_file import write_status
from knapsack_rl.status_records import _SINCE_VERSION_2
from knapsack_rl.task_status import ESTIMATORS, TaskStatus, TaskStatusError, prompt_id

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1 ="}]


# --- prompt identity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "same_question",
    [
        [{"content": "Be brief.", "role": "system"}, {"content": "1 + 1 =", "role": "user"}],
        np.array(QUESTION, dtype=object),
        tuple(QUESTION),
        [{**message, "name": None} for message in QUESTION],
        [{key: np.str_(value) for key, value in message.items()} for message in QUESTION],
    ],
    ids=["key order", "object array", "tuple", "keys filled with None by parquet", "numpy strings"],
)
def test_prompt_id_depends_on_content_only(same_question):
    assert prompt_id("math", same_question) == prompt_id("math", QUESTION)


def test_prompt_id_of_content_parts_ignores_numpy_wrappers():
    box = [1.5, 2.0]
    parts = [{"type": "text", "text": "What is this?"}, {"type": "box", "corners": box}]
    wrapped = np.array([parts[0], {"type": "box", "corners": np.array(box)}], dtype=object)
    message, wrapped_message = {"role": "user", "content": parts}, {"role": "user", "content": wrapped}
    assert prompt_id("vision", [message]) == prompt_id("vision", np.array([wrapped_message], dtype=object))


def test_prompt_id_tells_different_prompts_apart():
    picture = np.zeros((2, 2, 3), dtype=np.uint8)
    other_picture = picture.copy()
    other_picture[0, 0, 0] = 1
    identities = [
        prompt_id("math", QUESTION),
        prompt_id("code", QUESTION),
        prompt_id("math", QUESTION[::-1]),
        prompt_id("math", [QUESTION[0], {"role": "assistant", "content": "1 + 1 ="}]),
        prompt_id("math", "1 + 1 ="),
        prompt_id("math", "1 + 1 = "),
        prompt_id("math1", " + 1 ="),
        prompt_id("math", ["1 + 1 ="]),
        prompt_id("math", QUESTION, media={"image": [picture]}),
        prompt_id("math", QUESTION, media={"image": [other_picture]}),
        prompt_id("math", QUESTION, media={"image": [b"bytes"]}),
        prompt_id("math", QUESTION, media={"video": [b"bytes"]}),
    ]
    assert len(set(identities)) == len(identities)
    assert all(len(identity) == 32 and set(identity) <= set("0123456789abcdef") for identity in identities)


def test_prompt_id_reads_pictures_by_their_pixels():
    image = pytest.importorskip("PIL.Image")
    red, copy, blue = (image.new("RGB", (4, 4), color) for color in ("red", "red", "blue"))
    identities = [prompt_id("geo", "<image> What colour?", media={"image": [picture]}) for picture in (red, copy, blue)]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((None, "text"), "data_source must be a string, got NoneType"), (("math", [object()]), "got object")],
)
def test_prompt_id_refuses_what_has_no_canonical_form(arguments, message):
    with pytest.raises(TypeError, match=message):
        prompt_id(*arguments)


# --- estimators -----------------------------------------------------------------------------------------------------


def observe_counts(status, counts, *, epoch, step, **optional):
    """Observe {prompt: (successes, rollouts)}."""
    prompts = [prompt for prompt, (_, rollouts) in counts.items() for _ in range(rollouts)]
    outcomes = [rollout < successes for successes, rollouts in counts.values() for rollout in range(rollouts)]
    status.observe(prompts, outcomes, epoch=epoch, step=step, **optional)


def test_previous_epoch_uses_the_last_epoch_in_which_the_prompt_was_seen():
    status = TaskStatus("previous_epoch")
    observe_counts(status, {"a": (1, 4), "dropped": (3, 4)}, epoch=0, step=1)
    observe_counts(status, {"a": (4, 4)}, epoch=1, step=2)  # drop_last left "dropped" out of epoch 1
    np.testing.assert_array_equal(status.success_rates(["a", "dropped"], epoch=2), [1.0, 0.75])


def test_previous_epoch_does_not_see_the_running_epoch():
    status = TaskStatus("previous_epoch")
    observe_counts(status, {"a": (1, 4)}, epoch=0, step=1)
    before = status.success_rates(["a"], epoch=1)
    observe_counts(status, {"a": (4, 4), "new": (2, 2)}, epoch=1, step=2)
    np.testing.assert_array_equal(status.success_rates(["a"], epoch=1), before)
    assert np.isnan(status.success_rates(["new"], epoch=1)).all()


def test_previous_epoch_adds_up_all_visits_of_an_epoch():
    status = TaskStatus("previous_epoch")
    observe_counts(status, {"a": (0, 2)}, epoch=0, step=1)
    observe_counts(status, {"a": (6, 6)}, epoch=0, step=2)
    np.testing.assert_array_equal(status.success_rates(["a"], epoch=1), [0.75])


def test_window_counts_the_last_rollouts_across_epochs():
    status = TaskStatus("window", window=4)
    status.observe(["a"] * 3, [1, 1, 1], epoch=0, step=1)
    np.testing.assert_array_equal(status.success_rates(["a"], epoch=0), [1.0])
    status.observe(["a"] * 3, [0, 0, 1], epoch=1, step=2)
    np.testing.assert_array_equal(status.success_rates(["a"], epoch=1), [0.5])
    status.observe(["a"] * 9, [1] * 5 + [0] * 4, epoch=1, step=3)
    np.testing.assert_array_equal(status.success_rates(["a"], epoch=1), [0.0])


def test_beta_discounts_visits_and_starts_from_the_mean_of_the_last_epoch():
    status = TaskStatus("beta", discount=0.5, prior_strength=1.0)
    observe_counts(status, {"a": (1, 4), "b": (3, 4)}, epoch=0, step=1)
    observe_counts(status, {"a": (2, 2)}, epoch=1, step=2)
    prior_mean = (1 / 4 + 3 / 4) / 2
    successes, failures = 0.5 * 1 + 2, 0.5 * 3
    expected = (successes + prior_mean) / (successes + failures + 1)
    np.testing.assert_allclose(status.success_rates(["a"], epoch=1), [expected])
    np.testing.assert_allclose(status.success_rates(["a"], epoch=2), [(successes + 1.0 - 1e-3) / (4 + 1)])


def test_with_a_half_life_counts_age_by_the_steps_that_pass():
    status = TaskStatus("beta", discount=1.0, half_life=10)
    observe_counts(status, {"a": (4, 4), "b": (0, 4)}, epoch=0, step=1)
    np.testing.assert_allclose(status.beliefs(["a"], epoch=1, step=11), [[2.0 + 0.5], [0.5]])
    np.testing.assert_allclose(status.beliefs(["a"], epoch=1, step=1), status.beliefs(["a"], epoch=1))
    observe_counts(status, {"a": (0, 2)}, epoch=1, step=21)
    np.testing.assert_allclose(status.beliefs(["a"], epoch=1, step=31), [[1.0], [1.5]])


def test_a_prior_does_not_age_before_the_first_visit():
    status = TaskStatus("beta", half_life=1, prior_weight=4)
    status.add_priors(["a"], [1.0])
    np.testing.assert_allclose(status.success_rates(["a"], epoch=0, step=100), [4.5 / 5])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_unseen_prompts_have_no_rate_and_the_prior_as_belief(estimator):
    status = TaskStatus(estimator, prior_strength=2.0)
    observe_counts(status, {"a": (1, 4), "b": (2, 4)}, epoch=0, step=1)
    assert np.isnan(status.success_rates(["never"], epoch=1)).all()
    alpha, beta = status.beliefs(["never"], epoch=1)
    np.testing.assert_allclose([alpha[0], beta[0]], [2.0 * 0.375, 2.0 * 0.625])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_new_status_believes_one_half(estimator):
    alpha, beta = TaskStatus(estimator).beliefs(["never"], epoch=0)
    assert alpha == beta == 0.5


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_beliefs_stay_proper_when_all_prompts_are_alike(estimator, outcome):
    status = TaskStatus(estimator)
    status.observe(["a"] * 4, [outcome] * 4, epoch=0, step=1)
    for parameters in status.beliefs(["a", "never"], epoch=1):
        assert np.all(parameters > 0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_min_rollouts_hides_what_rests_on_too_few(estimator):
    status = TaskStatus(estimator, min_rollouts=4)
    observe_counts(status, {"few": (1, 3), "enough": (1, 4)}, epoch=0, step=1)
    rates = status.success_rates(["few", "enough"], epoch=1)
    assert np.isnan(rates[0]) and not np.isnan(rates[1])
    belief_few, belief_never = (status.beliefs([prompt], epoch=1) for prompt in ("few", "never"))
    np.testing.assert_array_equal(belief_few, belief_never)


class Definition:
    """The estimators as the docstring defines them, from a plain list of all observations."""

    def __init__(self, estimator, window, discount, half_life):
        self.estimator, self.window, self.discount, self.half_life = estimator, window, discount, half_life
        self.visits = []

    def observe(self, prompts, outcomes, *, epoch, step):
        for prompt in dict.fromkeys(prompts):
            own = [outcome for other, outcome in zip(prompts, outcomes, strict=True) if other == prompt]
            self.visits.append((prompt, epoch, step, own))

    def _of_epoch(self, prompt, epoch):
        return [outcome for other, at, _, own in self.visits if other == prompt and at == epoch for outcome in own]

    def prior_mean(self, epoch):
        epochs = [at for _, at, _, _ in self.visits if at < epoch] or [at for _, at, _, _ in self.visits]
        if not epochs:
            return 0.5
        groups = [self._of_epoch(prompt, max(epochs)) for prompt in {prompt for prompt, _, _, _ in self.visits}]
        return float(np.clip(np.mean([np.mean(group) for group in groups if group]), 1e-3, 1 - 1e-3))

    def counts(self, prompt, epoch, now):
        own = [(at, step, outcomes) for other, at, step, outcomes in self.visits if other == prompt]
        if self.estimator == "previous_epoch":
            earlier = [at for at, _, _ in own if at < epoch]
            outcomes = self._of_epoch(prompt, max(earlier)) if earlier else []
        elif self.estimator == "window":
            outcomes = [outcome for _, _, group in own for outcome in group][-self.window :]
        else:
            weights = [self.discount ** (len(own) - 1 - visit) for visit in range(len(own))]
            if self.half_life is not None:
                weights = [
                    weight * 2 ** (-(now - step) / self.half_life)
                    for weight, (_, step, _) in zip(weights, own, strict=True)
                ]
            successes = sum(weight * sum(group) for weight, (_, _, group) in zip(weights, own, strict=True))
            rollouts = sum(weight * len(group) for weight, (_, _, group) in zip(weights, own, strict=True))
            return successes, rollouts
        return sum(outcomes), len(outcomes)

    def success_rate(self, prompt, epoch, now):
        successes, rollouts = self.counts(prompt, epoch, now)
        if rollouts == 0:
            return np.nan
        if self.estimator == "beta":
            return (successes + self.prior_mean(epoch)) / (rollouts + 1)
        return successes / rollouts


rollouts_of_a_step = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=12)
steps_of_a_run = st.lists(st.tuples(st.integers(0, 2), rollouts_of_a_step), max_size=8)


@pytest.mark.parametrize(("estimator", "half_life"), [*((name, None) for name in ESTIMATORS), ("beta", 1.5)])
@given(steps=steps_of_a_run)
@settings(max_examples=150, derandomize=True, deadline=None)
def test_estimates_follow_their_definition(estimator, half_life, steps):
    status = TaskStatus(estimator, window=3, discount=0.25, half_life=half_life)
    definition = Definition(estimator, window=3, discount=0.25, half_life=half_life)
    epoch = 0
    for step, (epochs_later, rollouts) in enumerate(steps):
        epoch += epochs_later
        for asked in (epoch, epoch + 1):
            expected = [definition.success_rate(prompt, asked, step) for prompt in "abcde"]
            np.testing.assert_allclose(status.success_rates("abcde", epoch=asked, step=step), expected)
            alpha, _ = status.beliefs("e", epoch=asked)
            np.testing.assert_allclose(alpha, definition.prior_mean(asked))
        prompts, outcomes = [list(column) for column in zip(*rollouts, strict=True)]
        status.observe(prompts, outcomes, epoch=epoch, step=step)
        definition.observe(prompts, outcomes, epoch=epoch, step=step)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_of_a_belief_combines_prior_and_evidence(estimator):
    status = TaskStatus(estimator, prior_strength=1.0)
    observe_counts(status, {"a": (1, 4), "b": (3, 4)}, epoch=0, step=1)
    alpha, beta = status.beliefs(["a", "b"], epoch=1)
    np.testing.assert_allclose(alpha / (alpha + beta), [(1 + 0.5) / 5, (3 + 0.5) / 5])
    if estimator == "beta":
        np.testing.assert_allclose(status.success_rates(["a", "b"], epoch=1), alpha / (alpha + beta))


@pytest.mark.parametrize("estimator", ["previous_epoch", "beta"])
def test_order_of_rollouts_within_a_step_does_not_matter(estimator):
    prompts, outcomes = np.array(list("aabbbcaab")), np.array([1, 0, 1, 1, 0, 1, 0, 0, 1])
    statuses = [TaskStatus(estimator) for _ in range(2)]
    statuses[0].observe(prompts, outcomes, epoch=0, step=1)
    statuses[1].observe(prompts[::-1], outcomes[::-1], epoch=0, step=1)
    rates = [status.success_rates("abc", epoch=1) for status in statuses]
    np.testing.assert_array_equal(*rates)


def test_greedy_match_rate_is_the_chance_to_repeat_the_greedy_outcome():
    status = TaskStatus("previous_epoch")
    observe_counts(status, {"a": (1, 4), "b": (1, 4)}, epoch=0, step=1, greedy_successes=[1] * 4 + [0] * 4)
    observe_counts(status, {"no greedy": (1, 4)}, epoch=0, step=2)
    rates = status.greedy_match_rates(["a", "b", "no greedy", "never"], epoch=1)
    np.testing.assert_array_equal(rates, [0.25, 0.75, np.nan, np.nan])


def test_mean_response_length_prefers_recent_visits():
    status = TaskStatus(discount=0.5)
    status.observe(["a", "a", "b"], [0, 1, 1], epoch=0, step=1, response_lengths=[10, 30, 7])
    np.testing.assert_array_equal(status.mean_response_lengths(["a", "b", "c"]), [20.0, 7.0, np.nan])
    status.observe(["a"], [0], epoch=1, step=2, response_lengths=[50])
    np.testing.assert_array_equal(status.mean_response_lengths(["a"]), [(0.5 * 40 + 50) / (0.5 * 2 + 1)])
    status.observe(["a"], [0], epoch=2, step=3)
    np.testing.assert_array_equal(status.mean_response_lengths(["a"]), [(0.5 * 40 + 50) / (0.5 * 2 + 1)])


def test_size_and_progress_are_visible():
    status = TaskStatus()
    assert (len(status), status.epoch, status.step) == (0, -1, -1)
    status.observe(["b", "a", "b"], [1, 0, 1], epoch=0, step=3)
    assert (len(status), status.epoch, status.step, status.prompt_ids) == (2, 0, 3, ["b", "a"])
    assert "a" in status and "c" not in status


def test_many_prompts_keep_their_own_counts():
    status = TaskStatus("previous_epoch")
    prompts = [f"prompt {number}" for number in range(5000)]
    for step, start in enumerate(range(0, 5000, 500)):
        shown = prompts[start : start + 500]
        status.observe(shown * 5, np.arange(2500) // 500 < np.tile(np.arange(500) % 6, 5), epoch=0, step=step)
    expected = np.tile(np.arange(500) % 6, 10) / 5
    np.testing.assert_array_equal(status.success_rates(prompts, epoch=1), expected)


# --- refused input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "kalman"}, "previous_epoch, window, beta, got 'kalman'"),
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"window": 2.5}, "window must be an integer of at least 1, got 2.5"),
        ({"min_rollouts": 0}, "min_rollouts must be an integer of at least 1, got 0"),
        ({"discount": 1.5}, r"discount must be a number in \[0, 1\], got 1.5"),
        ({"discount": float("nan")}, r"discount must be a number in \[0, 1\], got nan"),
        ({"prior_strength": 0.0}, "prior_strength must be a finite number greater than 0, got 0.0"),
        ({"estimator": "window", "window": 4, "min_rollouts": 5}, "min_rollouts=5 can never be reached"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TaskStatus(**options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"successes": [1]}, ValueError, r"successes must hold one value for each of the 2 rollouts, got shape \(1,\)"),
        ({"successes": [1.0, 0.5]}, ValueError, "successes must be True or False .* for rollout 1"),
        ({"successes": [np.nan, 1.0]}, ValueError, "got .*nan.* for rollout 0"),
        ({"response_lengths": [3, -1]}, ValueError, "response_lengths must be token counts, got -1.0 for rollout 1"),
        ({"response_lengths": [np.inf, 1]}, ValueError, "got inf for rollout 0"),
        ({"greedy_successes": [0, 2]}, ValueError, "greedy_successes must be True or False"),
        ({"prompt_ids": ["new", 7]}, TypeError, "prompt ids must be strings as prompt_id makes them, got int"),
        ({"epoch": 1}, ValueError, "epoch 1 is not valid: epoch 2 was already observed"),
        ({"step": 8}, ValueError, "step 8 is not valid: step 9 was already observed"),
    ],
)
def test_a_refused_observation_changes_nothing(change, error, message):
    status = TaskStatus()
    status.observe(["a", "a"], [1, 0], epoch=2, step=9)
    before = status.state_dict()
    observation = {"prompt_ids": ["a", "new"], "successes": [1, 1], "epoch": 2, "step": 9, **change}
    with pytest.raises(error, match=message):
        status.observe(**observation)
    assert_same_state(status.state_dict(), before)


def test_rates_of_a_past_epoch_are_refused():
    status = TaskStatus()
    status.observe(["a"], [1], epoch=2, step=9)
    with pytest.raises(ValueError, match="epoch 1 is not valid: epoch 2 was already observed"):
        status.success_rates(["a"], epoch=1)
    with pytest.raises(ValueError, match="epoch -1 is not valid: it is counted from 0"):
        TaskStatus().success_rates(["a"], epoch=-1)


def test_an_observation_without_rollouts_is_harmless():
    status = TaskStatus()
    status.observe([], [], epoch=0, step=1)
    assert len(status) == 0


# --- persistence ----------------------------------------------------------------------------------------------------


def assert_same_state(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def trained_status(estimator="previous_epoch", steps=None, status=None, **options):
    """A status after some steps of a made-up run, whose steps can be run in two halves."""
    status = status or TaskStatus(estimator, **options)
    for step in range(12) if steps is None else steps:
        random = np.random.default_rng(step)
        prompts = [f"prompt {number}" for number in random.integers(0, 20, size=64)]
        lengths = random.integers(1, 100, size=64)
        status.observe(prompts, random.random(64) < 0.4, epoch=step // 4, step=step, response_lengths=lengths)
    return status


PROMPTS = [f"prompt {number}" for number in range(22)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_restored_status_is_the_same_to_the_bit(tmp_path, estimator):
    status = trained_status(estimator, window=5, min_rollouts=2, discount=0.7, prior_strength=3.0)
    path = tmp_path / "task_status.npz"
    status.save(path)
    restored = TaskStatus.load(path)
    assert_same_state(restored.state_dict(), status.state_dict())
    for epoch in (2, 3):
        assert restored.success_rates(PROMPTS, epoch=epoch).tobytes() == (
            status.success_rates(PROMPTS, epoch=epoch).tobytes()
        )
    assert restored.mean_response_lengths(PROMPTS).tobytes() == status.mean_response_lengths(PROMPTS).tobytes()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_resumed_run_continues_as_if_nothing_happened(tmp_path, estimator):
    uninterrupted = trained_status(estimator, steps=range(12))
    trained_status(estimator, steps=range(7)).save(tmp_path / "task_status.npz")
    resumed = trained_status(steps=range(7, 12), status=TaskStatus.load(tmp_path / "task_status.npz"))
    assert_same_state(resumed.state_dict(), uninterrupted.state_dict())
    for one, other in zip(resumed.beliefs(PROMPTS, epoch=3), uninterrupted.beliefs(PROMPTS, epoch=3), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_same_status_gives_the_same_file(tmp_path):
    trained_status().save(tmp_path / "one.npz")
    trained_status().save(tmp_path / "two.npz")
    TaskStatus.load(tmp_path / "one.npz").save(tmp_path / "three.npz")
    contents = {(tmp_path / name).read_bytes() for name in ("one.npz", "two.npz", "three.npz")}
    assert len(contents) == 1


def test_an_empty_status_can_be_saved(tmp_path):
    TaskStatus("beta").save(tmp_path / "empty.npz")
    assert len(TaskStatus.load(tmp_path / "empty.npz")) == 0


def test_prompt_ids_survive_in_full(tmp_path):
    status = TaskStatus()
    identities = ["plain", "with space ", "ü-mlaut", "f" * 32]
    status.observe(identities, [1, 1, 0, 0], epoch=0, step=0)
    status.save(tmp_path / "task_status.npz")
    assert TaskStatus.load(tmp_path / "task_status.npz").prompt_ids == identities


@pytest.mark.parametrize("saved_as", ESTIMATORS)
@pytest.mark.parametrize("continued_as", ESTIMATORS)
def test_a_run_can_continue_with_another_estimator(tmp_path, saved_as, continued_as):
    trained_status(saved_as).save(tmp_path / "task_status.npz")
    continued = TaskStatus.load(tmp_path / "task_status.npz", estimator=continued_as)
    expected = trained_status(continued_as).success_rates(PROMPTS, epoch=3)
    np.testing.assert_array_equal(continued.success_rates(PROMPTS, epoch=3), expected)


@pytest.mark.parametrize(("saved_window", "window"), [(8, 3), (3, 8)])
def test_the_window_may_change_on_resume(saved_window, window):
    saved = TaskStatus("window", window=saved_window)
    saved.observe(["a"] * 6, [1, 1, 1, 0, 0, 1], epoch=0, step=0)
    resumed = TaskStatus("window", window=window)
    resumed.load_state_dict(saved.state_dict())
    np.testing.assert_allclose(resumed.success_rates(["a"], epoch=1), [1 / 3])
    resumed.observe(["a"], [1], epoch=1, step=1)
    np.testing.assert_allclose(resumed.success_rates(["a"], epoch=1), [2 / 3 if window == 3 else 2 / 4])


def test_a_restored_status_forgets_what_it_knew():
    status = trained_status("beta")
    status.beliefs(PROMPTS, epoch=3)
    donor = TaskStatus("beta")
    donor.observe(["prompt 1"] * 4, [1, 1, 1, 0], epoch=0, step=0)
    status.load_state_dict(donor.state_dict())
    np.testing.assert_array_equal(status.beliefs(PROMPTS, epoch=3), donor.beliefs(PROMPTS, epoch=3))
    assert status.prompt_ids == ["prompt 1"]


def test_a_state_is_a_copy():
    status = TaskStatus()
    status.observe(["a"], [1], epoch=0, step=0)
    state = status.state_dict()
    status.observe(["a"], [0], epoch=0, step=1)
    restored = TaskStatus()
    restored.load_state_dict(state)
    np.testing.assert_array_equal(restored.success_rates(["a"], epoch=1), [1.0])
    restored.observe(["a"], [0], epoch=0, step=1)
    assert state["records"]["last_rollouts"] == [1]


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        TaskStatus.load(tmp_path / "task_status.npz")


@given(data=st.data())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_a_file_cut_short_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("status") / "task_status.npz"
    trained_status(steps=range(2)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(TaskStatusError, match="task_status.npz"):
        TaskStatus.load(path)


@given(data=st.data())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_a_flipped_bit_is_refused_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("status") / "task_status.npz"
    status = trained_status(steps=range(2))
    status.save(path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        loaded = TaskStatus.load(path)
    except TaskStatusError as error:
        assert "task_status.npz" in str(error)
    else:  # the flip hit an unused field of the archive, such as a file date
        assert_same_state(loaded.state_dict(), status.state_dict())


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not an archive"),
        lambda path: np.savez(path, weights=np.ones(3)),
        lambda path: np.save(path.open("wb"), np.ones(3)),
        lambda path: np.savez(path, anything=np.array([{"pickled": True}], dtype=object)),
    ],
    ids=["empty", "text", "another npz", "an npy", "pickled"],
)
def test_a_foreign_file_is_refused(tmp_path, write):
    path = tmp_path / "task_status.npz"
    write(path)
    with pytest.raises(TaskStatusError, match="task_status.npz"):
        TaskStatus.load(path)


def test_what_is_no_state_is_refused():
    with pytest.raises(TaskStatusError, match="the task status is a NoneType"):
        TaskStatus().load_state_dict(None)


def test_an_id_that_could_not_be_saved_is_refused():
    with pytest.raises(TypeError, match="must not end in a NUL character"):
        TaskStatus().observe(["a", "a\0"], [1, 0], epoch=0, step=0)


def rewrite(path, **changes):
    with np.load(path) as archive:
        content = {**dict(archive), **changes}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": np.asarray(3)}, "has format version 3, this program reads versions 1 and 2"),
        ({"format_version": None}, "has format version None"),
        ({"step": np.asarray(77)}, "is damaged: its checksum is"),
        ({"checksum": None}, "is damaged: its checksum is none"),
    ],
)
def test_changed_content_is_refused(tmp_path, changes, message):
    path = tmp_path / "task_status.npz"
    trained_status().save(path)
    rewrite(path, **changes)
    with pytest.raises(TaskStatusError, match=message):
        TaskStatus.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": None}, "lacks records"),
        ({"records": np.zeros(2)}, "records of an unknown layout"),
        ({"prompt_ids": np.array([b"a"])}, "1 prompt ids for 2 records"),
        ({"prompt_ids": np.array([b"a", b"a"])}, "1 prompt ids more than once"),
        ({"prompt_ids": np.array([1, 2])}, "prompt ids of type int64: expected bytes"),
        ({"prompt_ids": np.array("a")}, "1 prompt ids for 2 records"),
        ({"epoch": "x"}, "epoch='x': expected an integer"),
        ({"epoch": -5}, "epoch=-5: expected an integer, -1 before the first"),
        ({"step": 1.5}, "step=1.5: expected an integer"),
    ],
)
def test_an_inconsistent_state_is_refused_and_changes_nothing(change, message):
    donor = TaskStatus()
    donor.observe(["a", "b"], [1, 0], epoch=0, step=0)
    state = {name: value for name, value in {**donor.state_dict(), **change}.items() if value is not None}
    status = trained_status()
    before = status.state_dict()
    with pytest.raises(TaskStatusError, match=message):
        status.load_state_dict(state)
    assert_same_state(status.state_dict(), before)


def test_a_crash_while_saving_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "task_status.npz"
    trained_status(steps=range(3)).save(path)
    before = path.read_bytes()

    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(task_status.os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        trained_status(steps=range(6)).save(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    trained_status(steps=range(6)).save(path)
    assert TaskStatus.load(path).step == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["task_status.npz"]


def test_a_status_of_the_first_layout_still_loads(tmp_path):
    status = trained_status()
    state = status.state_dict()
    records = state["records"]
    first = [name for name in records.dtype.names if name not in _SINCE_VERSION_2]
    old = np.zeros(len(records), dtype=[(name, records.dtype[name]) for name in first])
    for name in first:
        old[name] = records[name]
    write_status(tmp_path / "old.npz", {**state, "records": old, "format_version": 1})
    loaded = TaskStatus.load(tmp_path / "old.npz")
    ids, epoch = status.prompt_ids, status.epoch + 1
    np.testing.assert_array_equal(loaded.success_rates(ids, epoch=epoch), status.success_rates(ids, epoch=epoch))
    assert loaded.training_state(epoch=epoch, step=9) == status.training_state(epoch=epoch, step=9)
    assert (loaded.state_dict()["records"]["reviewed_step"] == status.step).all()
