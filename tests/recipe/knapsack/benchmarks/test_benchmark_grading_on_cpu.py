"""The benchmark that weighs this grader against math-verify alone."""

from __future__ import annotations

import json
import sys

import pytest

from recipe.knapsack.benchmarks import benchmark_grading


def case(response: str, ground_truth: str, expected: bool) -> dict[str, object]:
    return {"response": response, "ground_truth": ground_truth, "expected": expected, "data_source": "math_500"}


def run(monkeypatch: pytest.MonkeyPatch, *files: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_grading", *map(str, files)])
    benchmark_grading.main()


def test_each_grader_is_counted_against_the_labels(monkeypatch, tmp_path, capsys):
    """Two plain cases; a label that is wrong on purpose; one that math-verify alone accepts."""
    cases = [
        case(r"So it is \boxed{5}.", "5", True),
        case(r"So it is \boxed{6}.", "5", False),
        case(r"So it is \boxed{7}.", "7", False),
        case(r"\boxed{x = 6, y = 5}", "(5, 6)", False),
    ]
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in cases))
    run(monkeypatch, file)
    title, _, this_grader, *alone = capsys.readouterr().out.splitlines()
    assert title == "cases.jsonl: 4 cases, 1 of them right"
    assert this_grader.split() == ["this", "grader", "3", "1", "0"]
    assert [int(line.split()[-2]) >= 1 for line in alone] == [True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no labelled cases"),
        ("{not json\n", "holds no labelled cases"),
        ('{"response": "5", "ground_truth": "5"}\n', "has cases without data_source, expected"),
    ],
)
def test_a_file_without_cases_is_refused_in_a_line(monkeypatch, tmp_path, text, said):
    file = tmp_path / "cases.jsonl"
    file.write_text(text)
    with pytest.raises(SystemExit, match=said):
        run(monkeypatch, file)
