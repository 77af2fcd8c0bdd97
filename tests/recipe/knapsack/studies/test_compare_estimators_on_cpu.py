"""Replaying a history: what each estimator would have said, and how well it foretold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from knapsack_rl.history import ExplorationHistory
from knapsack_rl.metrics import brier_score
from recipe.knapsack.studies.compare_estimators import (
    BASELINE,
    PAPERS,
    brier_by_visit,
    by_epoch,
    main,
    make_estimators,
    replay,
    rollouts_of,
    summarize,
)

PROMPTS, EPOCHS = 200, 6


def make_history(rates_by_epoch: np.ndarray, budget: int, seed: int = 0) -> pd.DataFrame:
    """Every prompt once an epoch, two steps an epoch; true rates (epochs, prompts)."""
    rng = np.random.default_rng(seed)
    rows = []
    for epoch, rates in enumerate(rates_by_epoch):
        for prompt, rate in enumerate(rates):
            step = 2 * epoch + 1 + prompt % 2
            rows.append((epoch, step, f"prompt {prompt}", budget, rng.binomial(budget, rate)))
    columns = ["epoch", "step", "prompt_id", "budget", "successes"]
    return pd.DataFrame(rows, columns=columns).sort_values("step", ignore_index=True)


@pytest.fixture
def unchanging() -> pd.DataFrame:
    rates = np.random.default_rng(1).random(PROMPTS)
    return make_history(np.tile(rates, (EPOCHS, 1)), budget=4)


@pytest.fixture
def changing() -> pd.DataFrame:
    rates = np.random.default_rng(1).integers(0, 2, (EPOCHS, PROMPTS)).astype(float)
    rates[1:] = np.where(np.arange(EPOCHS - 1)[:, None] >= 2, rates[2], rates[0])
    return make_history(rates, budget=16)


def estimators():
    return make_estimators(window=16, discount=0.5, prior_strength=1.0)


def test_the_papers_estimator_predicts_the_share_of_the_visit_before(unchanging):
    visits = replay(unchanging, estimators())
    assert len(visits) == PROMPTS * (EPOCHS - 1)
    for _, of_prompt in unchanging.groupby("prompt_id"):
        rates = (of_prompt["successes"] / of_prompt["budget"]).to_numpy()
        predicted = visits[visits["prompt_id"] == of_prompt["prompt_id"].iloc[0]][PAPERS]
        np.testing.assert_array_equal(predicted, rates[:-1])


def test_in_an_unchanging_world_more_memory_predicts_better(unchanging):
    names = list(estimators())
    summary = summarize(replay(unchanging, estimators()), names)
    assert summary.loc[PAPERS, ["difference", "standard_error"]].tolist() == [0.0, 0.0]
    for name in ("window (16)", "beta (0.5, 1)"):
        better = summary.loc[name]
        assert better["difference"] + 3 * better["standard_error"] < 0
    worse = summary.loc[BASELINE]
    assert worse["difference"] - 3 * worse["standard_error"] > 0


def test_after_a_change_the_shortest_memory_predicts_best(changing):
    scores = by_epoch(replay(changing, estimators()), list(estimators()))
    assert scores.index.tolist() == [1, 2, 3, 4, 5]
    assert scores.loc[4, PAPERS] == 0.0 < scores.loc[4, "beta (0.5, 1)"]
    assert scores.loc[3, PAPERS] > 0.4


def test_scores_are_those_that_training_logs(unchanging):
    visits = replay(unchanging, estimators())
    for name in estimators():
        logged = brier_score(visits[name].to_numpy(), visits["successes"].to_numpy(), visits["budget"].to_numpy())
        assert brier_by_visit(visits[name].to_numpy(), visits).mean() == pytest.approx(logged)


def test_rollouts_keep_every_visits_counts_and_come_in_random_order():
    visits = pd.DataFrame({"prompt_id": ["a", "b", "c"], "budget": [40, 2, 3], "successes": [20, 0, 3]})
    prompt_ids, outcomes = rollouts_of(visits, np.random.default_rng(0))
    table = pd.DataFrame({"prompt_id": prompt_ids, "outcome": outcomes}).groupby("prompt_id")["outcome"]
    assert table.size().tolist() == [40, 2, 3] and table.sum().tolist() == [20, 0, 3]
    assert len(set(outcomes[:40][:20])) == 2


def test_a_single_epoch_is_refused(unchanging):
    with pytest.raises(ValueError, match="train for longer"):
        replay(unchanging[unchanging["epoch"] == 0], estimators())


def test_command_line_names_the_best(unchanging, tmp_path, capsys):
    history = ExplorationHistory(tmp_path / "history")
    for step, visits in unchanging.groupby("step"):
        history.append(
            int(step),
            int(visits["epoch"].iloc[0]),
            visits["prompt_id"].tolist(),
            np.full(len(visits), np.nan),
            visits["budget"].to_numpy(),
            visits["successes"].to_numpy(),
            visits["budget"].to_numpy(),
        )
    history.flush()
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    best = summarize(replay(unchanging, estimators()), list(estimators()))["brier"].idxmin()
    assert best != PAPERS and f"best Brier score: {best}" in printed
    assert f"{PROMPTS * (EPOCHS - 1)} visits" in printed


@pytest.mark.parametrize(
    ("has_history_folder", "said"), [(False, "no history was written there"), (True, "train for longer")]
)
def test_a_run_without_history_yet_is_one_line(tmp_path, capsys, has_history_folder, said):
    if has_history_folder:
        (tmp_path / "history").mkdir()
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: ") and said in error and error.count("\n") == 1
