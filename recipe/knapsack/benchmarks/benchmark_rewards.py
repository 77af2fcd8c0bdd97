"""Speed of the rewards of one training step, as a ratio to plain math-verify in the same run.

    python -m recipe.knapsack.benchmark_rewards --num-workers 2

A step is 256 prompts with 8 responses each: long solutions with a boxed answer, right in half of the cases. The mix
"integers" is that of DAPO-Math-17K, whose answers are integers; in "mixed" 65 % of the prompts ask for an integer, 15 %
for a fraction and 20 % for an expression, about as in MATH-500; in "algebra" all ask for an expression, and hardly a
response writes it as the ground truth does. Plain math-verify parses the whole response and runs in as many processes,
already started, as the pool.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from verl.utils.reward_score.math_reward import compute_scores
from verl.utils.reward_score.verifier_pool import TIME_LIMIT, VerifierPool

SENTENCES = [
    "Let $n$ be the number of ways to arrange the ${k}$ letters, so that $n = {k} \\cdot {m}$.",
    "We have \\[ \\frac{{{k}}}{{{m}}} + x^2 = {m}x + {k}. \\]",
    "Since ${k} < {m}$ does not hold in general, consider the case $x = {k}$ separately.",
    "Substituting gives \\( ({k}-x)({m}+x) = 0 \\), hence there are {k} candidates.",
]
RESPONSES_PER_PROMPT = 8

Answers = tuple[str, list[str], list[str]]
"""The ground truth of a prompt, ways to write it, and wrong answers."""


@dataclass(frozen=True)
class Step:
    """The responses of a training step and their ground truths."""

    responses: list[str]
    ground_truths: list[str]


def integer_answers(generator: random.Random) -> Answers:
    truth = generator.randint(0, 999)
    return str(truth), [str(truth)], [str(truth + error) for error in (-2, -1, 1, 2, 10)]


def fraction_answers(generator: random.Random) -> Answers:
    top, bottom = generator.randint(1, 40), generator.choice([2, 4, 5, 8])
    right = [rf"\dfrac{{{top}}}{{{bottom}}}", str(top / bottom), rf"\frac{{{2 * top}}}{{{2 * bottom}}}"]
    return rf"\frac{{{top}}}{{{bottom}}}", right, [rf"\frac{{{top + error}}}{{{bottom}}}" for error in (1, 2, 3)]


def expression_answers(generator: random.Random) -> Answers:
    a, b = generator.randint(2, 9), generator.randint(10, 99)
    return generator.choice(
        [
            (f"{a}x^2+{b}x", [f"{b}x + {a}x^2", f"x({a}x+{b})"], [f"{a + 1}x^2+{b}x", f"{a}x^2-{b}x"]),
            (rf"{a}\sqrt{{{b}}}", [rf"\sqrt{{{a * a * b}}}"], [rf"\sqrt{{{a * b}}}", rf"{b}\sqrt{{{a}}}"]),
            (f"x^2+{b - a}x-{a * b}", [f"(x-{a})(x+{b})", f"(x+{b})(x-{a})"], [f"(x+{a})(x-{b})", f"(x-{a})(x-{b})"]),
            (rf"\frac{{{b}\pi}}{{{a}}}", [rf"\frac{{{b}}}{{{a}}}\pi"], [rf"\frac{{{a}\pi}}{{{b}}}", rf"{b}\pi"]),
            (rf"[{a},{b}\pi)", [rf"\left[{a}, {b}\pi\right)"], [rf"[{a},{b}\pi]", rf"({a},{b}\pi)"]),
            (f"2^{{n+{a}}}", [f"{2**a} \\cdot 2^n"], [f"2^{{n-{a}}}", f"{a}^n"]),
        ]
    )


def mixed_answers(generator: random.Random) -> Answers:
    kinds = [integer_answers, fraction_answers, expression_answers]
    return generator.choices(kinds, weights=[65, 15, 20])[0](generator)


MIXES: dict[str, Callable[[random.Random], Answers]] = {
    "integers": integer_answers,
    "mixed": mixed_answers,
    "algebra": expression_answers,
}


def make_step(mix: str, num_responses: int, num_sentences: int, seed: int) -> Step:
    generator = random.Random(seed)
    responses, ground_truths = [], []
    while len(responses) < num_responses:
        truth, right, wrong = MIXES[mix](generator)
        for _ in range(RESPONSES_PER_PROMPT):
            answer = generator.choice(right if generator.random() < 0.5 else wrong)
            responses.append(rf"{make_solution(generator, num_sentences)} The answer is $\boxed{{{answer}}}$.")
            ground_truths.append(truth)
    return Step(responses[:num_responses], ground_truths[:num_responses])


def make_solution(generator: random.Random, num_sentences: int) -> str:
    sentences = generator.choices(SENTENCES, k=num_sentences)
    return " ".join(text.format(k=generator.randint(2, 99), m=generator.randint(2, 99)) for text in sentences)


def plain_math_verify(row: tuple[str, str]) -> bool:
    from math_verify import parse, verify

    response, ground_truth = row
    return bool(verify(parse(f"${ground_truth}$"), parse(response)))


def time_plain(step: Step, executor: ProcessPoolExecutor) -> tuple[float, list[bool]]:
    start = time.perf_counter()
    verdicts = list(executor.map(plain_math_verify, zip(step.responses, step.ground_truths, strict=True), chunksize=16))
    return time.perf_counter() - start, verdicts


def time_rewards(step: Step, pool: VerifierPool) -> tuple[float, list[bool]]:
    start = time.perf_counter()
    scores = compute_scores(["math_500"] * len(step.responses), step.responses, step.ground_truths, pool)
    return time.perf_counter() - start, [score["acc"] == 1.0 for score in scores]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--num-responses", type=int, default=2048)
    parser.add_argument("--num-sentences", type=int, default=40, help="length of a solution; 40 are about 900 tokens")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    spawn = multiprocessing.get_context("spawn")
    pool = VerifierPool(arguments.num_workers, TIME_LIMIT)
    print(f"{arguments.num_responses} responses, {arguments.num_workers} processes")
    print(f"{'mix':<10}{'plain s':>9}{'first s':>9}{'again s':>9}{'ratio':>8}{'agreement':>11}")
    with ProcessPoolExecutor(arguments.num_workers, mp_context=spawn) as executor:
        time_plain(make_step("mixed", 64, 1, arguments.seed), executor)
        for number, mix in enumerate(MIXES):
            steps = [
                make_step(mix, arguments.num_responses, arguments.num_sentences, arguments.seed + 100 * number + repeat)
                for repeat in (1, 2)
            ]
            pool.close()
            first, _ = time_rewards(steps[0], pool)
            again, verdicts = time_rewards(steps[1], pool)
            plain, plain_verdicts = time_plain(steps[1], executor)
            agreement = sum(map(bool.__eq__, verdicts, plain_verdicts)) / len(verdicts)
            print(f"{mix:<10}{plain:>9.2f}{first:>9.2f}{again:>9.2f}{plain / again:>8.1f}{agreement:>11.2%}")
    pool.close()
    print("first: with the start of the processes; again: the next step; ratio: plain / again")


if __name__ == "__main__":
    main()
