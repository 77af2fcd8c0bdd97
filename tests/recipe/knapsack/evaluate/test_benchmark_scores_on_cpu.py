"""avg@N, pass@k and the average of Table 2, against the published table and against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from recipe.knapsack.evaluate.benchmark_scores import average, format_table, pass_at_k, score_benchmarks

SOURCES = ("aime_2024_2025", "amc", "math_500", "minerva_math", "olympiad_bench", "gpqa_diamond")
# The paper's Table 2: benchmarks, then the printed average. The row of Qwen3-4B-Instruct + GRPO is left out: its
# printed average, 59.2, does not follow from its entries by the rule that gives the other eleven.
TABLE_2 = {
    "DPSK-R1-Distill-1.5B": ((25.3, 62.1, 81.4, 25.8, 41.7, 39.1), 42.9),
    "DPSK-R1-Distill-1.5B + GRPO": ((27.6, 71.1, 84.0, 27.6, 46.4, 36.7), 45.9),
    "DPSK-R1-Distill-1.5B + Knapsack-GRPO": ((34.0, 75.1, 86.7, 28.5, 49.7, 40.3), 49.7),
    "Qwen3-4B-Base": ((6.6, 29.9, 48.0, 19.4, 23.1, 26.4), 22.9),
    "Qwen3-4B-Base + GRPO": ((20.7, 56.9, 80.6, 31.9, 44.9, 46.6), 43.2),
    "Qwen3-4B-Base + Knapsack-GRPO": ((20.8, 66.0, 81.0, 35.7, 46.2, 45.5), 45.1),
    "Qwen3-4B-Instruct": ((47.7, 82.5, 92.4, 35.4, 61.6, 43.0), 58.6),
    "Qwen3-4B-Instruct + Knapsack-GRPO": ((48.2, 83.1, 92.5, 38.2, 63.5, 59.9), 61.9),
    "Qwen2.5-Math-7B": ((12.3, 41.0, 61.2, 11.8, 26.1, 22.0), 26.7),
    "Qwen2.5-Math-7B + GRPO": ((23.9, 70.6, 81.7, 33.6, 41.9, 40.8), 45.2),
    "Qwen2.5-Math-7B + Knapsack-GRPO": ((24.3, 77.4, 83.9, 34.5, 44.1, 43.8), 47.5),
}


@pytest.mark.parametrize("model", TABLE_2)
def test_the_average_is_the_one_that_table_2_prints(model):
    entries, printed = TABLE_2[model]
    # Entries and average are rounded to one decimal.
    assert average(dict(zip(SOURCES, entries, strict=True))) == pytest.approx(printed, abs=0.1)


@pytest.mark.parametrize("responses", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_response(responses):
    for successes in range(responses + 1):
        is_right = [True] * successes + [False] * (responses - successes)
        for k in range(1, responses + 1):
            subsets = list(combinations(is_right, k))
            expected = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(np.array([successes]), responses, k)[0] == pytest.approx(expected)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_of_more_responses_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=f"pass@{k} .* 4 responses"):
        pass_at_k(np.array([1]), responses=4, k=k)


def test_benchmarks_are_scored_apart_and_come_in_the_order_of_table_2():
    sources = ["my_bench", "math_500", "amc", "math_500"]
    is_right = np.array([[1, 1], [1, 0], [0, 0], [0, 0]], dtype=bool)
    scores = score_benchmarks(sources, is_right, ks=(1, 2))
    assert list(scores) == ["amc", "math_500", "my_bench"]
    assert [score.avg for score in scores.values()] == [0.0, 0.25, 1.0]
    assert scores["math_500"].pass_at == {1: 0.25, 2: 0.5}
    assert (scores["math_500"].prompts, scores["math_500"].responses) == (2, 2)


def test_the_table_has_a_row_for_each_model_and_metric():
    rng = np.random.default_rng(0)
    scores = score_benchmarks(list(SOURCES), rng.random((6, 4)) < 0.5, ks=(1, 4))
    table = format_table({"base": {"amc": scores["amc"]}, "trained": scores})
    lines = table.splitlines()
    assert lines[0].split() == ["avg@4", "AIME", "AMC", "MATH", "MINERVA", "OLYMPIAD", "GPQA", "Avg"]
    expected = [f"{100 * scores[source].avg:.1f}" for source in SOURCES]
    assert lines[2].split()[:-1] == ["trained", *expected]
    assert lines[1].split() == ["base", "-", f"{100 * scores['amc'].avg:.1f}", *"----", lines[1].split()[-1]]
    assert [line.split()[0] for line in lines if "@" in line] == ["avg@4", "pass@1", "pass@4"]
    assert "2024 and 2025" in lines[-1]
