"""Comparison by computer algebra: what it may keep in memory, and that it never evaluates text."""

import ast
import builtins
import time
from pathlib import Path

import pytest

from verl.utils.reward_score import default_compute_score, math_reward, symbolic_equality
from verl.utils.reward_score.symbolic_equality import CACHE_BYTES, answers_match, size_of
from verl.utils.reward_score.verifier_pool import VerifierPool

FOLDER = Path(symbolic_equality.__file__).parent
ATTACKS = [
    "__import__('os').abort()",
    r"\begin{pmatrix}__import__('os').abort()\end{pmatrix}",
    "[__import__('os').abort()]",
    "exit()",
    "eval(exit())",
    "Matrix([[exit()]])",
    "(lambda: exit())()",
    r"x_{__import__('os').abort()}",
    r"\text{__import__('os').abort()}",
    r"1 + \text{exit()}",
]


@pytest.fixture
def no_eval(monkeypatch):
    def refuse(*_):
        raise AssertionError("text was evaluated")

    answers_match("x+1", "1+x")  # what is imported now evaluates code of its own
    monkeypatch.setattr(builtins, "eval", refuse)
    monkeypatch.setattr("sympy.parsing.sympy_parser.eval_expr", refuse)
    monkeypatch.setattr("sympy.parsing.sympy_parser.parse_expr", refuse)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("truth", ["2x+1", r"\begin{pmatrix}1\\2\end{pmatrix}", "[1,2]", "y=3x"])
def test_text_is_never_evaluated(attack, truth, no_eval):
    assert answers_match(attack, truth) is False


def test_right_answers_need_no_evaluation_either(no_eval):
    assert answers_match("(x+1)^2", "x^2+2x+1")
    assert answers_match(r"\frac{1}{\sqrt{n}}", r"\frac{\sqrt{n}}{n}")


def test_no_module_here_calls_a_function_that_evaluates_text():
    evaluating = {"eval", "exec", "compile", "parse_expr", "sympify", "parse_latex", "lambdify", "literal_eval"}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                owner = getattr(getattr(node.func, "value", None), "id", "")
                assert name not in evaluating or (name, owner) == ("compile", "re"), f"{path.name}: {name}"


@pytest.mark.parametrize("source", sorted(math_reward.NUMINA_DATA_SOURCES) + ["hiyouga/geometry3k"])
@pytest.mark.parametrize("attack", ATTACKS[:3])
def test_sources_that_verl_would_evaluate_are_scored_here(source, attack, no_eval):
    assert default_compute_score(source, rf"\boxed{{{attack}}}", "[1,2]")["acc"] == 0.0
    assert default_compute_score(source, r"\boxed{\frac12}", "0.5")["acc"] == 1.0


def test_geometry_weighs_the_format_by_a_tenth_as_in_verl():
    source = "hiyouga/geometry3k"
    assert default_compute_score(source, r"<think>so</think> \boxed{5}", "5")["score"] == pytest.approx(1.0)
    assert default_compute_score(source, r"\boxed{5}", "5")["score"] == pytest.approx(0.9)
    assert default_compute_score(source, r"<think>so</think> \boxed{6}", "5")["score"] == pytest.approx(0.1)


@pytest.mark.parametrize("source", ["codecontests", "apps", "codeforces", "taco"])
def test_programs_are_refused_without_a_sandbox(source):
    with pytest.raises(ValueError, match=f"'{source}'.*reward_model.sandbox_fusion.url"):
        default_compute_score(source, "```python\nprint(1)\n```", '{"inputs": [""], "outputs": ["1"]}')


def test_the_cache_of_expressions_is_bounded_by_their_size(monkeypatch):
    cache = symbolic_equality._ParsedCache(limit=100_000)
    monkeypatch.setattr(
        symbolic_equality, "_parse", lambda latex: int(latex) and __import__("sympy").Integer(7) ** 9000
    )
    for number in range(1, 200):
        cache.get(str(number))
        assert cache.size <= 100_000
    assert 1 <= len(cache) < 40


def test_a_huge_integer_is_not_kept(monkeypatch):
    cache = symbolic_equality._ParsedCache()
    monkeypatch.setattr(symbolic_equality, "_parse", lambda latex: __import__("sympy").Integer(7) ** 1_000_000)
    assert size_of(cache.get("7^{1000000}")) > CACHE_BYTES // 16
    assert (len(cache), cache.size) == (0, 0)


@pytest.mark.parametrize(
    "text", ["\\boxed", "#### ", "answer is" + " " * 50, "answer is is", "\\boxed{", "$", "**A** "]
)
def test_long_responses_are_read_in_linear_time(text):
    started = time.process_time()
    for response in (text * 20_000, "answer is " + text * 20_000, "answer is" + " " * 100_000):
        math_reward.extract_answer(response)
        math_reward.extract_choice(response)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "(10^{9})!",
        r"\sqrt{" * 150 + "2" + "}" * 150,
        r"\frac{1}{" * 80 + "x" + "}" * 80,
        "(" * 500 + "x" + ")" * 500,
        "{" * 500 + "}" * 500,
        "x^{" * 200 + "2" + "}" * 200,
        r"\binom{10^{9}}{5 \cdot 10^{8}}",
        "+".join(f"x^{{{n}}}" for n in range(100)),
        r"\sin" * 200 + " x",
        "!".join("5" * 200),
    ],
)
def test_hostile_answers_end_and_are_wrong(answer):
    pool = VerifierPool(num_workers=1, time_limit=1.0)
    started = time.monotonic()
    assert pool.verify([(answer, "x+7"), ("7+x", "x+7")]) == [False, True]
    assert time.monotonic() - started < 60
    pool.close()
