"""First visits foretold by similar prompts: against counts by hand, and through the command."""

import numpy as np
import pandas as pd
import pytest

from knapsack_rl import prompt_id
from knapsack_rl.history import ExplorationHistory
from recipe.knapsack.studies.compare_estimators import main
from recipe.knapsack.studies.first_visits import (
    columns_of_data,
    labels_of_data,
    predict_first_visits,
    regress_first_visits,
)


def prompts(*levels):
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(len(levels))]
    data = pd.DataFrame({"data_source": "sums", "prompt": messages, "level": levels})
    return data, [prompt_id("sums", entry) for entry in messages]


def visits(ids, successes, step, epoch=0):
    return pd.DataFrame({"epoch": epoch, "step": step, "prompt_id": ids, "budget": 4, "successes": successes})


def test_a_first_visit_is_foretold_by_the_steps_before_it(tmp_path):
    data, ids = prompts("easy", "hard", "easy", "hard", "odd")
    data.to_parquet(tmp_path / "train.parquet")
    history = pd.concat([visits(ids[:2], [4, 1], 1), visits(ids[1:4], [0, 2, 2], 2), visits(ids[4:], [4], 3)])
    predicted = predict_first_visits(history, labels_of_data(tmp_path / "train.parquet", ["level"]))
    assert predicted["prompt_id"].tolist() == ids[2:]
    mean = (1 + 1 / 4) / 2
    after_two_steps = (1 + 1 / 8 + 1 / 2 + 1 / 2) / 4
    np.testing.assert_allclose(predicted["all"], [mean, mean, after_two_steps])
    np.testing.assert_allclose(predicted["similar"], [(1 + mean) / 2, (1 / 4 + mean) / 2, after_two_steps])


def test_a_regression_foretells_combinations_that_were_never_seen():
    """Half of the rate comes from the level, half from the topic; only the last combination was not seen."""
    columns = {f"{level}{topic}{copy}": (level, topic) for level in "ab" for topic in "xy" for copy in range(40)}
    rate = {("a", "x"): 4, ("a", "y"): 2, ("b", "x"): 2}
    seen = [identity for identity, row in columns.items() if row in rate]
    unseen = [identity for identity, row in columns.items() if row not in rate]
    history = pd.concat([visits(seen, [rate[columns[each]] for each in seen], 1), visits(unseen, 0, 2)])
    predicted = regress_first_visits(history, columns)
    np.testing.assert_allclose(predicted, 0.0, atol=0.06)
    by_mean = predict_first_visits(history, {identity: "".join(row) for identity, row in columns.items()})
    np.testing.assert_allclose(by_mean["similar"], 2 / 3)


def test_with_one_column_a_regression_is_the_mean_of_similar_prompts(tmp_path):
    data, ids = prompts(*["easy", "hard"] * 100)
    data.to_parquet(tmp_path / "train.parquet")
    history = pd.concat([visits(ids[:100], [4, 1] * 50, 1), visits(ids[100:], [4, 1] * 50, 2)])
    columns = columns_of_data(tmp_path / "train.parquet", ["level"])
    predicted = regress_first_visits(history, columns)
    np.testing.assert_allclose(predicted, [1.0, 0.25] * 50, atol=0.01)


def test_a_run_with_other_prompts_is_refused():
    with pytest.raises(ValueError, match="1 prompts of the run are not in the data, the first of them b"):
        predict_first_visits(visits(["a", "b"], [1, 1], 1), {"a": "easy"})


def test_a_run_of_one_step_has_nothing_to_foretell():
    with pytest.raises(ValueError, match="every prompt was first visited in the first step"):
        predict_first_visits(visits(["a"], [1], 1), {"a": "easy"})


@pytest.fixture
def run(tmp_path):
    data, ids = prompts(*[1, 2] * 8)
    data.to_parquet(tmp_path / "train.parquet")
    (tmp_path / "text.parquet").write_text("text")
    history = ExplorationHistory(tmp_path / "history")
    for step, chosen in enumerate((ids[:8], ids[8:]), start=1):
        budgets = np.full(8, 4)
        history.append(step, 0, chosen, np.full(8, np.nan), budgets, np.array([4, 0] * 4), budgets)
    history.flush()
    return tmp_path


def test_the_command_says_what_similar_prompts_tell(run, capsys):
    assert main([str(run), "--data", str(run / "train.parquet"), "--similar-by", "level"]) == 0
    # Four of each level were seen and one more counts half: the rates are 0.9 and 0.1, and 0.1 squared is the score.
    assert capsys.readouterr().out.endswith(
        ": 8 first visits, Brier score 0.0100 by level; 0.0100 by a regression on these columns; "
        "0.2500 by the mean of all\n"
    )


@pytest.mark.parametrize(
    ("data", "column", "said"),
    [
        ("train.parquet", "nope", "train.parquet has no column 'nope'"),
        ("train.parquet", "prompt", "column 'prompt' holds the prompts themselves"),
        ("text.parquet", "level", "text.parquet"),
        ("nowhere.parquet", "level", "nowhere.parquet"),
    ],
)
def test_data_that_cannot_be_used_are_one_line(run, capsys, data, column, said):
    assert main([str(run), "--data", str(run / data), "--similar-by", column]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and said in printed and printed.count("\n") == 1


def test_data_and_columns_go_together(run, capsys):
    with pytest.raises(SystemExit):
        main([str(run), "--similar-by", "level"])
    assert "--data and --similar-by go together" in capsys.readouterr().err
