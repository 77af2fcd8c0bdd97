"""The figures show the numbers of the runs, and leave out what a run lacks."""

import doctest
import io
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from synthetic_run import SyntheticRun, build_run

from knapsack_rl.metrics_file import MetricsFile
from recipe.knapsack.report import figures
from recipe.knapsack.report.figures import NothingToShow, accuracy, style
from recipe.knapsack.report.figures.parts import smoothing_width
from recipe.knapsack.report.figures.style import run_style
from recipe.knapsack.report.prompt_dynamics import final_statuses, next_statuses, prompt_epochs, transition_counts
from recipe.knapsack.report.run_data import EFFECTIVE_RATIO, load_runs

FIGURES = [
    figures.gradient_phases,
    figures.effective_gradient_ratio,
    figures.held_out_accuracy,
    figures.held_out_accuracy_by_source,
    figures.budget_distribution,
    figures.budgets_by_success_rate,
    figures.status_transitions,
    figures.status_first_to_last,
    figures.final_status_counts,
    figures.prompt_trajectories,
    figures.calibration,
    figures.step_time,
    figures.tokens_per_step,
]
SIZES = {"num_prompts": 96, "prompts_per_step": 16, "steps": 60, "planned_steps": 60, "held_out": ("x", "y")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return load_runs(
        [
            build_run(root / "grpo", SyntheticRun("homogeneous", **SIZES)),
            build_run(root / "knapsack", SyntheticRun("knapsack", **SIZES)),
        ]
    )


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A run with so many steps that the first is next to the border of a figure."""
    sizes = {"num_prompts": 16, "prompts_per_step": 4, "steps": 300, "planned_steps": 300, "held_out": ("x", "y")}
    return load_runs([build_run(tmp_path_factory.mktemp("long") / "run", SyntheticRun(**sizes))])[0]


@pytest.fixture
def bare_run(tmp_path):
    """A run that has logged one step without anything that a figure needs, and has written no history."""
    MetricsFile(tmp_path / "bare").log({"actor/lr": 1.0}, step=1)
    return load_runs([tmp_path / "bare"])[0]


def lines_called(axes, name):
    return [line for line in axes.get_lines() if line.get_label() == name]


def drawn_pixels(figure):
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=50)
    content.seek(0)
    return imread(content)[..., :3]


def global_style():
    return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}


def test_doctests():
    assert doctest.testmod(accuracy).failed == 0


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_is_drawn_with_labelled_axes(runs, draw):
    style = global_style()
    metrics, history = runs[1].metrics.copy(), runs[1].history.copy()
    figure = draw(runs)
    assert (drawn_pixels(figure) < 0.9).any(axis=-1).mean() > 0.01
    assert global_style() == style
    pd.testing.assert_frame_equal(runs[1].metrics, metrics)
    pd.testing.assert_frame_equal(runs[1].history, history)
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place.rowspan.stop == place.get_gridspec().nrows:
            assert axes.get_xlabel()
        if place.colspan.start == 0 and draw is not figures.step_time:  # there the runs' names are on the left
            assert axes.get_ylabel()


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_every_figure_says_what_a_bare_run_lacks(runs, bare_run, draw):
    with pytest.raises(NothingToShow, match=r"^[A-Z].*\.$"):
        draw([bare_run])
    assert figures.missing(draw, bare_run) is not None
    assert figures.missing(draw, runs[0]) is None
    assert len(draw([bare_run, *runs]).axes) == len(draw(runs).axes)


def test_the_effective_ratio_is_the_mean_over_the_last_epoch(runs):
    assert smoothing_width(runs[0]) == 6
    (axes,) = figures.effective_gradient_ratio(runs).axes
    for run in runs:
        (line,) = lines_called(axes, run.name)
        values = run.metric(EFFECTIVE_RATIO).to_numpy()
        expected = [values[max(end - 6, 0) : end].mean() for end in range(1, 61)]
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_held_out_accuracy_counts_what_it_costs(runs):
    steps, rollouts, tokens, wall_time = figures.held_out_accuracy(runs).axes
    for run in runs:
        accuracy = run.held_out_accuracy.mean(axis=1)
        for axes, cost in (
            (steps, None),
            (rollouts, run.cumulative_rollouts),
            (tokens, run.history.groupby("step")["response_tokens"].sum().cumsum().reindex(accuracy.index).fillna(0)),
            (wall_time, run.cumulative_seconds / 60),
        ):
            (line,) = lines_called(axes, run.name)
            np.testing.assert_allclose(line.get_ydata(), accuracy)
            np.testing.assert_allclose(line.get_xdata(), accuracy.index if cost is None else cost[accuracy.index])
    assert wall_time.get_xlabel() == "wall time (min)"


def test_tokens_per_step_are_those_of_the_history(runs):
    (axes,) = figures.tokens_per_step(runs).axes
    for run in runs:
        tokens = run.history.groupby("step")["response_tokens"].sum()
        single, smooth = sorted(
            (line for line in axes.lines if line.get_color() == run_color(run)), key=lambda line: line.get_linewidth()
        )
        np.testing.assert_allclose(single.get_ydata(), tokens)
        assert min(tokens) <= min(smooth.get_ydata()) <= max(smooth.get_ydata()) <= max(tokens)


def run_color(run):
    return run_style(run)["color"]


def test_budget_bars_are_shares(runs):
    frequency, spent = figures.budget_distribution(runs).axes
    for axes in (frequency, spent):
        for bars in axes.containers:
            assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    labels = [label.get_text() for label in frequency.get_xticklabels()]
    homogeneous = dict(zip(labels, (bar.get_height() for bar in frequency.containers[0]), strict=True))
    assert homogeneous["8-15"] == 1
    budgets = runs[1].history["budget"]
    knapsack = dict(zip(labels, (bar.get_height() for bar in spent.containers[1]), strict=True))
    in_bin = budgets.between(16, 31)
    assert knapsack["16-31"] == pytest.approx(budgets[in_bin].sum() / budgets.sum())


@pytest.mark.parametrize("draw", [figures.budget_distribution, figures.budgets_by_success_rate])
def test_equal_budgets_are_a_sentence_instead_of_a_figure(runs, draw):
    with pytest.raises(NothingToShow, match="8 rollouts"):
        draw(runs[:1])


def test_the_transition_matrix_shows_percentages_of_its_rows(runs):
    axes = figures.status_transitions(runs).axes[1]
    counts = transition_counts(next_statuses(prompt_epochs(runs[1].history)))
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    for row, column in np.argwhere(counts.sum(axis=1, keepdims=True) * np.ones((1, 5)) > 0):
        assert shown[column, row] == f"{counts[row, column] / counts[row].sum():.1%}"
    assert axes.get_title(loc="left") == "knapsack"
    assert f"n = {counts[0].sum():,}" in axes.get_yticklabels()[0].get_text()


def test_final_status_bars_are_counts(runs):
    (axes,) = figures.final_status_counts(runs).axes
    for run, bars in zip(runs, axes.containers, strict=True):
        assert [bar.get_height() for bar in bars] == final_statuses(prompt_epochs(run.history)).tolist()


def test_trajectories_follow_the_seed(runs):
    titles = [
        [axes.get_title(loc="left") for axes in figures.prompt_trajectories(runs, count=5, seed=seed).axes]
        for seed in (1, 1, 2)
    ]
    assert len(titles[0]) == 5
    assert titles[0] == titles[1] != titles[2]


def test_bars_of_phases_end_at_the_mean_step(runs):
    axes = figures.step_time(runs).axes[0]
    for row, run in enumerate(runs):
        end = max(bars[row].get_x() + bars[row].get_width() for bars in axes.containers)
        assert end == pytest.approx(run.metrics["timing_s/step"].mean())


def test_a_run_looks_the_same_in_every_figure_whichever_others_are_there(runs):
    colors = set()
    for draw in (figures.effective_gradient_ratio, figures.held_out_accuracy, figures.calibration):
        for shown in (runs, runs[1:]):
            (line, *_) = lines_called(draw(shown).axes[0], "knapsack") or draw(shown).axes[0].containers[-1].lines
            colors.add((to_hex(line.get_color()), str(line.get_linestyle()), line.get_marker()))
    assert len(colors) == 1


def test_seven_runs_can_be_told_apart_without_colour():
    for (line, marker), (other_line, other_marker) in combinations(
        [(str(style.LINES[i % len(style.LINES)]), style.MARKERS[i % len(style.MARKERS)]) for i in range(7)], 2
    ):
        assert line != other_line or marker != other_marker
    assert len(set(style.HATCHES)) == 7


@pytest.mark.parametrize(
    "draw",
    [figures.gradient_phases, figures.effective_gradient_ratio, figures.held_out_accuracy, figures.step_time],
    ids=lambda draw: draw.__name__,
)
def test_no_marker_is_cut_by_the_border_of_its_panel(long_run, draw):
    figure = draw([long_run])
    figure.canvas.draw()
    checked = 0
    for axes in figure.axes:
        left, right = axes.get_window_extent().intervalx
        for line in axes.get_lines():
            if line.get_marker() != "None" and line.get_clip_on():
                x = line.get_transform().transform(line.get_xydata())[:, 0]
                radius = line.get_markersize() / 2 * figure.dpi / 72
                assert left + radius <= x[0] and x[-1] <= right - radius
            checked += line.get_marker() != "None"
    assert checked


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_a_longer_run_is_drawn_within_its_panel(runs, long_run, draw):
    """In whichever order: panels may share their axes."""
    for shown in ([runs[1], long_run], [long_run, runs[1]]):
        figure = draw(shown)
        figure.canvas.draw()
        for axes in figure.axes:
            left, right = axes.get_xlim()
            for line in axes.get_lines():
                if line.get_transform() is axes.transData and len(line.get_xdata()):
                    assert left <= min(line.get_xdata()) and max(line.get_xdata()) <= right


@pytest.mark.parametrize("steps", [1, 7])
def test_a_run_that_has_just_begun(tmp_path, steps):
    sizes = {**SIZES, "steps": steps}
    runs = load_runs([build_run(tmp_path, SyntheticRun(**sizes))])
    drawn = []
    for draw in FIGURES:
        if figures.missing(draw, runs[0]) is None:
            try:
                drawn_pixels(draw(runs))
                drawn.append(draw.__name__)
            except NothingToShow:
                assert draw in (
                    figures.budget_distribution,
                    figures.budgets_by_success_rate,
                    figures.prompt_trajectories,
                )
    assert {"gradient_phases", "held_out_accuracy", "step_time", "final_status_counts"} <= set(drawn)
