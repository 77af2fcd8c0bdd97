"""Which success-rate estimator foretells the next visit best? A run's history, replayed through each of them.

    python -m recipe.knapsack.compare_estimators runs/quickstart/knapsack runs/quickstart/grpo

All estimators see the same rollouts and predict the same visits, those that each of them has an estimate for; nothing
is trained. The baseline predicts the mean success rate of the last epoch for every prompt. The Brier score is the mean
squared difference of prediction and outcome (0 is perfect; even the true rate p scores p * (1 - p)), the calibration
error the mean gap between predicted and observed rate in tenths of the predictions. Every visit of a prompt counts
once, whatever its budget.

``--data train.parquet --similar-by data_source extra_info.level`` says instead how well prompts that are alike in these
columns foretell the first visit of one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from knapsack_rl.history import read_history
from knapsack_rl.messages import one_line
from knapsack_rl.metrics import calibration_error
from knapsack_rl.run_folder import HISTORY_FOLDER
from knapsack_rl.task_status import TaskStatus
from recipe.knapsack.studies.first_visits import (
    columns_of_data,
    labels_of_data,
    predict_first_visits,
    regress_first_visits,
)

BASELINE = "mean of last epoch"
PAPERS = "previous_epoch"
_OVERWHELMING_PRIOR = 1e9  # in rollouts: no prompt's own outcomes move its estimate


def make_estimators(
    window: int, discount: float, prior_strength: float, half_life: float | None = None
) -> dict[str, TaskStatus]:
    """The three estimators and the baseline by name, fresh."""
    aging = "" if half_life is None else f", {half_life:g}"
    return {
        PAPERS: TaskStatus(PAPERS),
        f"window ({window})": TaskStatus("window", window=window),
        f"beta ({discount:g}, {prior_strength:g}{aging})": TaskStatus(
            "beta", discount=discount, half_life=half_life, prior_strength=prior_strength
        ),
        BASELINE: TaskStatus("beta", prior_strength=_OVERWHELMING_PRIOR),
    }


def replay(history: pd.DataFrame, estimators: Mapping[str, TaskStatus], seed: int = 0) -> pd.DataFrame:
    """Let every estimator predict each visit from the visits before it.

    Args:
        history: a run's history: `epoch`, `step`, `prompt_id`, `budget`, `successes` of each visit.
        estimators: by name, without observations; they are fed.
        seed: the history does not hold in which order a visit's rollouts came; an estimator that forgets single
            rollouts gets them in an order drawn with this seed.

    Returns:
        One row per visit that all estimators predict: the columns of `history` above and one per estimator.

    Raises:
        ValueError: the history holds no prompt that was visited again in a later epoch.
    """
    rng = np.random.default_rng(seed)
    predicted = []
    for step, visits in tqdm(history.groupby("step"), desc="steps", delay=1.0, leave=False, disable=None):
        # One step holds several epochs where dynamic sampling generated across the end of one.
        batches = [batch for _, batch in visits.groupby("epoch")]
        for batch in batches:
            epoch = int(batch["epoch"].iloc[0])
            rates = {
                name: status.success_rates(batch["prompt_id"], epoch=epoch, step=int(step))
                for name, status in estimators.items()
            }
            predicted.append(batch[["epoch", "step", "prompt_id", "budget", "successes"]].assign(**rates))
        for batch in batches:
            prompt_ids, outcomes = rollouts_of(batch, rng)
            for status in estimators.values():
                status.observe(prompt_ids, outcomes, epoch=int(batch["epoch"].iloc[0]), step=int(step))
    visits = pd.concat(predicted).dropna() if predicted else pd.DataFrame()
    if visits.empty:
        raise ValueError("no prompt was visited again in a later epoch: there is nothing to predict, train for longer")
    return visits.reset_index(drop=True)


def rollouts_of(visits: pd.DataFrame, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """(prompt of each rollout, whether it succeeded) of these visits, (B,) each; a prompt's rollouts are shuffled."""
    budgets, successes = visits["budget"].to_numpy(), visits["successes"].to_numpy()
    visit_of_rollout = np.repeat(np.arange(len(visits)), budgets)
    shuffled = np.lexsort((rng.random(len(visit_of_rollout)), visit_of_rollout))
    rank = np.arange(len(visit_of_rollout)) - np.repeat(np.cumsum(budgets) - budgets, budgets)
    succeeded = np.empty(len(visit_of_rollout), dtype=bool)
    succeeded[shuffled] = rank < successes[visit_of_rollout]
    return visits["prompt_id"].to_numpy()[visit_of_rollout].tolist(), succeeded


def brier_by_visit(predicted: np.ndarray, visits: pd.DataFrame) -> np.ndarray:
    """Mean squared difference of the prediction and the outcomes of each visit's rollouts, (V,) in [0, 1]."""
    observed = visits["successes"].to_numpy() / visits["budget"].to_numpy()
    return observed * (1.0 - predicted) ** 2 + (1.0 - observed) * predicted**2


def summarize(visits: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Brier score and calibration error of each estimator, and its Brier score against the paper's estimator.

    Returns:
        Index: estimator. Columns: `brier`, `calibration`, `difference` (negative: better than the paper's) and
        `standard_error` of that difference, from the same visits predicted by both.
    """
    scores = {name: brier_by_visit(visits[name].to_numpy(), visits) for name in names}
    rows = {}
    for name in names:
        difference = scores[name] - scores[PAPERS]
        rows[name] = {
            "brier": scores[name].mean(),
            "calibration": calibration_error(visits[name], visits["successes"], visits["budget"]),
            "difference": difference.mean(),
            "standard_error": difference.std() / np.sqrt(len(difference)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def by_epoch(visits: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Brier score of each estimator (columns) in each epoch (index)."""
    return pd.DataFrame(
        {
            name: pd.Series(brier_by_visit(visits[name].to_numpy(), visits)).groupby(visits["epoch"]).mean()
            for name in names
        }
    )


def report(run_folder: Path, estimators: Mapping[str, TaskStatus], last_epochs: int) -> str:
    """Replay one run and lay the comparison out as text."""
    visits = replay(read_history(run_folder / HISTORY_FOLDER).to_pandas(), estimators)
    names = list(estimators)
    summary = summarize(visits, names)
    lines = [f"{run_folder}: {len(visits)} visits predicted"]
    lines.append(f"  {'':22}{'Brier':>9}{'calibration':>13}{'Brier - previous_epoch':>26}")
    for name, row in summary.iterrows():
        against = "" if name == PAPERS else f"{row.difference:+.4f} +- {row.standard_error:.4f}"
        lines.append(f"  {name:22}{row.brier:9.4f}{row.calibration:13.4f}{against:>26}")
    lines.append(f"  best Brier score: {summary['brier'].idxmin()}")
    lines.append("  Brier score by epoch")
    lines.append("  " + f"{'epoch':>7}" + "".join(f"{name:>22}" for name in names))
    for epoch, row in by_epoch(visits, names).tail(last_epochs).iterrows():
        lines.append("  " + f"{epoch:7d}" + "".join(f"{value:22.4f}" for value in row))
    return "\n".join(lines)


def report_first_visits(run_folder: Path, data: Path, similar_by: list[str]) -> str:
    """How well similar prompts foretell first visits, as a line."""
    history = read_history(run_folder / HISTORY_FOLDER).to_pandas()
    visits = predict_first_visits(history, labels_of_data(data, similar_by))
    visits["regression"] = regress_first_visits(history, columns_of_data(data, similar_by))
    similar, regression, of_all = (
        brier_by_visit(visits[name].to_numpy(), visits).mean() for name in ("similar", "regression", "all")
    )
    scores = (
        f"Brier score {similar:.4f} by {', '.join(similar_by)}; {regression:.4f} by a regression on these columns; "
        f"{of_all:.4f} by the mean of all"
    )
    return f"{run_folder}: {len(visits)} first visits, {scores}"


def main(arguments: list[str] | None = None) -> int:
    """Command line of this module; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs")
    parser.add_argument("--window", type=int, default=16, help="rollouts that the window estimator remembers")
    parser.add_argument("--discount", type=float, default=0.5, help="of the beta estimator's earlier visits")
    parser.add_argument("--half-life", type=float, help="of the beta estimator's counts, in steps (default: none)")
    parser.add_argument("--prior-strength", type=float, default=1.0, help="of the beta estimator, in rollouts")
    parser.add_argument("--last-epochs", type=int, default=1000, help="epochs shown, counted from the end")
    parser.add_argument("--data", type=Path, help="training data (parquet) of the runs, for --similar-by")
    parser.add_argument("--similar-by", nargs="+", metavar="COLUMN", help="exploration.success_rate.similar_by")
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.similar_by is None):
        parser.error("--data and --similar-by go together")
    for run_folder in options.runs:
        try:
            if options.data is not None:
                print(report_first_visits(run_folder, options.data, options.similar_by))
                continue
            estimators = make_estimators(options.window, options.discount, options.prior_strength, options.half_life)
            print(report(run_folder, estimators, options.last_epochs))
        except (ValueError, OSError) as error:
            print(f"error: {run_folder}: {one_line(error)}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
