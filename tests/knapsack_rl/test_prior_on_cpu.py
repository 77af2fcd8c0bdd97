"""Success rates known before training: read and refused, taken by every estimator, planned with from the first step."""

import json
from datetime import date

import numpy as np
import pytest

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, TaskStatus, prompt_id
from knapsack_rl.prior import PriorError, checked_rates, read_prior

QUESTIONS = ["1+1=", "2+2=", 'a "quoted", line']
MESSAGES = [[{"role": "user", "content": question}] for question in QUESTIONS]
IDS = [prompt_id("sums", messages) for messages in MESSAGES]
RATES = {"easy": 0.9, "hard": 0.1, "never": 0.0, "always": 1.0}


# --- files ------------------------------------------------------------------------------------------------------------


def write_table(path, **columns):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    write(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_names_prompts_by_id_or_by_content(tmp_path, suffix):
    rates, source = [0.0, 0.25, 1.0], ["sums"] * 3
    expected = dict(zip(IDS, rates, strict=True))
    by_id = write_table(tmp_path / f"ids{suffix}", prompt_id=IDS, success_rate=rates)
    by_text = write_table(tmp_path / f"text{suffix}", data_source=source, prompt=QUESTIONS, success_rate=rates)
    as_json = [json.dumps(messages) for messages in MESSAGES]
    by_json = write_table(tmp_path / f"json{suffix}", data_source=source, prompt=as_json, success_rate=rates)
    assert read_prior(by_id) == read_prior(by_text) == read_prior(by_json) == expected
    if suffix == ".parquet":
        by_messages = write_table(tmp_path / "m.parquet", data_source=source, prompt=MESSAGES, success_rate=rates)
        assert read_prior(by_messages) == expected


def test_an_id_that_looks_like_a_number_stays_an_id(tmp_path):
    (tmp_path / "prior.csv").write_text("prompt_id,success_rate\n00000000000000000000000000000012,0.5\n1e5,1\n")
    assert read_prior(tmp_path / "prior.csv") == {"00000000000000000000000000000012": 0.5, "1e5": 1.0}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("prompt_id,success_rate\na,0.5\nb,1.5\n", "holds 1.5 in row 1: expected a success rate between 0 and 1"),
        ("prompt_id,success_rate\na,-0.1\n", "holds -0.1 in row 0"),
        ("prompt_id,success_rate\na,nan\n", "holds (nan|None) in row 0"),
        ("prompt_id,success_rate\na,\n", "holds None in row 0"),
        ("prompt_id,success_rate\na,often\n", "cannot be read"),
        ("prompt_id,success_rate\na,0.5\nb,0.5\na,0.5\n", "has prompt a in row 0 and in row 2"),
        ("prompt_id,rate\na,0.5\n", "no column 'success_rate' but prompt_id, rate"),
        ("name,success_rate\na,0.5\n", "expected prompt_id, or data_source and prompt"),
        ("prompt,success_rate\na,0.5\n", "expected prompt_id, or data_source and prompt"),
        ("prompt_id,success_rate\n", "holds no row"),
        ("prompt_id,success_rate,success_rate\na,0.5,0.5\n", "has several columns 'success_rate'"),
        ("", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, lines, said):
    pytest.importorskip("pyarrow")
    (tmp_path / "prior.csv").write_text(lines)
    with pytest.raises(PriorError, match=said) as refusal:
        read_prior(tmp_path / "prior.csv")
    assert "\n" not in str(refusal.value) and "prior.csv" in str(refusal.value)


def test_a_file_that_is_not_there_or_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(FileNotFoundError, match=r"no.csv does not exist"):
        read_prior(tmp_path / "no.csv")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(PriorError, match="text.parquet cannot be read"):
        read_prior(tmp_path / "text.parquet")


@pytest.mark.parametrize("value", [True, "0.5", None, float("inf"), -1])
def test_what_is_no_success_rate_is_refused(value):
    with pytest.raises(PriorError, match="the column holds .* in row 1"):
        checked_rates([0.5, value], "the column")


# --- estimates --------------------------------------------------------------------------------------------------------


def status_of(estimator, **options):
    status = TaskStatus(estimator, **options)
    status.add_priors(list(RATES), list(RATES.values()))
    return status


@pytest.mark.parametrize("estimator", ["previous_epoch", "window"])
def test_the_prior_is_the_estimate_until_there_are_counts(estimator):
    status = status_of(estimator)
    ids = [*RATES, "new"]
    np.testing.assert_allclose(status.success_rates(ids, epoch=0), [0.9, 0.1, 0.0, 1.0, np.nan])
    status.observe(["easy"] * 4, [0, 0, 0, 1], epoch=0, step=1)
    np.testing.assert_allclose(status.success_rates(ids, epoch=1), [0.25, 0.1, 0.0, 1.0, np.nan])


def test_in_beta_the_prior_is_an_earlier_visit():
    status = status_of("beta", prior_weight=6.0, prior_strength=2.0, discount=0.5)
    rates = status.success_rates(["easy", "new"], epoch=0)
    assert rates[0] == pytest.approx((5.4 + 2 * 0.5) / 8) and np.isnan(rates[1])
    alpha, beta = status.beliefs(["easy", "never"], epoch=0)
    np.testing.assert_allclose(alpha, [6.4, 1.0])
    np.testing.assert_allclose(beta, [1.6, 7.0])
    status.observe(["easy"] * 4, [0, 0, 0, 1], epoch=0, step=1)
    # Half of the prior's visit is left beside the four rollouts; the common prior has the mean of the epoch so far.
    mean = 0.25
    assert status.success_rates(["easy"], epoch=0)[0] == pytest.approx((2.7 + 1 + 2 * mean) / (3 + 4 + 2))


def test_a_prior_that_comes_late_does_not_count_twice():
    for estimator in ("previous_epoch", "window", "beta"):
        early, late = status_of(estimator), TaskStatus(estimator)
        for status in (early, late):
            status.observe(["easy"] * 4, [1, 0, 0, 1], epoch=0, step=1)
        before = late.success_rates(["easy"], epoch=1)
        late.add_priors(["easy"], [0.9])
        assert late.success_rates(["easy"], epoch=1) == before
        again = early.success_rates(["easy"], epoch=1)
        early.add_priors(["easy"], [0.9])
        assert early.success_rates(["easy"], epoch=1) == again


def test_prompts_without_a_prior_are_as_without_any():
    for estimator in ("previous_epoch", "window", "beta"):
        plain, other = TaskStatus(estimator), status_of(estimator)
        for status in (plain, other):
            status.observe(["x", "x", "y"], [1, 0, 1], epoch=0, step=1)
        for epoch in (0, 1):
            ours, theirs = (status.success_rates(["x", "y", "z"], epoch=epoch) for status in (plain, other))
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("rates", [[0.5, 1.5], [0.5, np.nan], [0.5]])
def test_a_status_refuses_what_is_no_success_rate(rates):
    with pytest.raises(ValueError, match="priors must"):
        TaskStatus().add_priors(["a", "b"], rates)


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["previous_epoch", "window", "beta"])
@pytest.mark.parametrize("comes_with_prompts", [False, True])
def test_the_first_step_is_planned_by_the_prior_and_a_resumed_run_goes_on_the_same(estimator, comes_with_prompts):
    ids, rates = list(RATES), np.array(list(RATES.values()))
    config = ExplorationConfig.from_mapping({"success_rate": {"estimator": estimator, "prior": "prior.csv"}})
    prior = None if comes_with_prompts else RATES
    column = rates if comes_with_prompts else None
    explorer, resumed = (Explorer(config, rollouts_per_prompt=8, prior=prior) for _ in range(2))
    plan = explorer.plan(ids, epoch=0, step=1, prior=column)
    assert plan.budgets.sum() == 32 and plan.budgets[0] > plan.budgets[3] and len(set(plan.budgets.tolist())) > 1
    success = np.arange(16) % 3 == 0
    came = np.repeat([0, 1], 8)
    explorer.observe(plan, Outcomes(came, success * 1.0, success, success, np.ones(16)))
    resumed.load_state_dict(explorer.state_dict())
    ours, theirs = (one.plan(ids, epoch=1, step=2, prior=column) for one in (explorer, resumed))
    assert ours.budgets.tobytes() == theirs.budgets.tobytes()
    assert ours.success_rates.tobytes() == theirs.success_rates.tobytes() and not np.isnan(ours.success_rates).any()


@pytest.mark.parametrize("text", ["[3, 1, 2]", "[]", "[" * 100_000, "{}", "x" * (1 << 21)])
def test_text_that_is_no_list_of_messages_is_a_users_message(tmp_path, text):
    pytest.importorskip("pyarrow")
    file = tmp_path / "prior.csv"
    quoted = text.replace('"', '""')
    file.write_text(f'data_source,prompt,success_rate\ns,"{quoted}",0.5\n')
    assert read_prior(file) == {prompt_id("s", [{"role": "user", "content": text}]): 0.5}


@pytest.mark.parametrize("column", [[[0.5]], [{"rate": 0.5}], [date(2026, 1, 1)], ["0.5"]], ids=str)
def test_a_column_of_something_else_is_refused(tmp_path, column):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "prior.parquet"
    pq.write_table(pa.table({"prompt_id": ["a"], "success_rate": column}), file)
    with pytest.raises(PriorError, match="in row 0: expected a success rate"):
        read_prior(file)


def test_prompts_of_another_kind_and_ids_that_are_missing_are_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "prior.parquet"
    pq.write_table(pa.table({"data_source": ["s"], "prompt": [date(2026, 1, 1)], "success_rate": [0.5]}), file)
    with pytest.raises(PriorError, match="no prompt"):
        read_prior(file)
    pq.write_table(pa.table({"prompt_id": pa.array([None], pa.string()), "success_rate": [0.5]}), file)
    with pytest.raises(PriorError, match="no text"):
        read_prior(file)


@pytest.mark.parametrize("header", ["prompt_id,prompt_id,success_rate", "data_source,prompt,prompt,success_rate"])
def test_a_column_that_is_there_twice_is_refused(tmp_path, header):
    file = tmp_path / "prior.csv"
    file.write_text(f"{header}\n{','.join('a' for _ in header.split(',')[1:])},0.5\n")
    with pytest.raises(PriorError, match="has several columns 'prompt"):
        read_prior(file)


def test_the_ids_of_priors_are_strings():
    with pytest.raises(TypeError, match="prompt ids must be strings as prompt_id makes them, got int"):
        Explorer(ExplorationConfig(), prior={1: 0.5})
