"""Processes that run math-verify: verdicts, time limit, crashes, threads, Ray, and an orderly end."""

import doctest
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from verl.utils.reward_score import math_verify_worker, symbolic_equality, verifier_pool
from verl.utils.reward_score.verifier_pool import VerifierPool, shared_verifier_pool

HANGS = ("9^{9^{9^{9}}}", "3")
ALSO_HANGS = ("8^{9^{9^{9}}}", "3")
EQUAL = ("x^2-1", "(x-1)(x+1)")
UNEQUAL = ("x^2-1", "x^2+1")


@pytest.fixture
def pool():
    pool = VerifierPool(num_workers=2, time_limit=1.0)
    yield pool
    pool.close()


def ends_soon(process_id: int) -> bool:
    """Whether the process is gone, or a zombie that only waits for its parent, within ten seconds."""
    for _ in range(200):
        try:
            with open(f"/proc/{process_id}/stat") as status:
                if status.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def children_of(process_id: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


def processor_seconds(pool: VerifierPool) -> float:
    """What the pool's processes have taken, with those of their children that have ended."""
    fields = [Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split() for worker in pool.process_ids]
    return sum(int(ticks) for stat in fields for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")


def kill_child_and_wait_for_the_next(worker: int) -> None:
    """A worker forks its next child after it has told of the death of the last."""
    (child,) = children_of(worker)
    os.kill(child, signal.SIGKILL)
    for _ in range(200):
        if children_of(worker) not in ([], [child]):
            return
        time.sleep(0.05)
    raise AssertionError(f"worker {worker} has not replaced its child within ten seconds")


def test_examples_in_the_documentation_hold():
    assert doctest.testmod(symbolic_equality).failed == 0


def test_verdicts_come_in_the_order_of_the_pairs(pool):
    pairs = [(rf"\sqrt{{{2 * n * n}}}", rf"{n + n % 2}\sqrt{{2}}") for n in range(2, 60)]
    assert pool.verify(pairs) == [n % 2 == 0 for n in range(2, 60)]


def test_no_pairs_start_no_process(pool):
    assert pool.verify([]) == []
    assert pool.process_ids == []


def test_one_pair_starts_one_process(pool):
    pool.verify([EQUAL])
    assert len(pool.process_ids) == 1


def test_a_hanging_verification_counts_as_unequal_and_spoils_no_other(pool):
    pairs = [EQUAL, HANGS, UNEQUAL, ALSO_HANGS, *[(f"{n}+x", f"x+{n}") for n in range(40)]]
    assert pool.verify(pairs) == [True, False, False, False, *[True] * 40]
    assert (pool.num_time_limits, pool.num_crashes) == (2, 0)


def test_a_hanging_verification_costs_its_limit_once(pool):
    pool.verify([EQUAL, UNEQUAL])  # both processes have started
    processor_time, started = processor_seconds(pool), time.monotonic()
    assert pool.verify([HANGS] * 5) == [False] * 5
    # Five limits would be 5 s. The limit is one of processor time; how long that takes is up to the machine's load.
    assert processor_seconds(pool) - processor_time < 2 * pool.time_limit
    assert time.monotonic() - started < math_verify_worker.WALL_TIME_FACTOR * pool.time_limit + 5
    started = time.monotonic()
    assert pool.verify([HANGS]) == [False]
    assert time.monotonic() - started < 0.5
    assert pool.num_time_limits == 1


def test_a_batch_with_time_limits_is_reported_in_one_line(pool, caplog):
    with caplog.at_level(logging.WARNING):
        pool.verify([HANGS, ALSO_HANGS, EQUAL])
        pool.verify([HANGS, EQUAL])
    assert [record.getMessage() for record in caplog.records] == [
        "Of 3 verifications, 2 took longer than 1 s and 0 crashed; they count as wrong answers."
    ]


def test_nothing_is_logged_about_answers_that_cannot_be_parsed(pool, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        assert pool.verify([(r"\frac{1}{", "3"), ("}{", "x"), (r"\begin{x}", "y")]) == [False] * 3
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


FAULTY_WORKER = """
import os, sys
sys.modules["grading"].__path__.append({folder!r})
from grading import math_verify_worker as worker
faults = {{"crash": os.abort, "exit": lambda: os._exit(3), "allocate": lambda: bytearray(2**40)}}
worker.answers_match = lambda answer, truth: bool(faults.get(answer, lambda: True)()) or answer == truth
main = worker.main
"""


@pytest.mark.parametrize(("fault", "num_crashes"), [("crash", 1), ("exit", 1), ("allocate", 0)])
def test_a_verification_that_breaks_its_process_counts_as_unequal(monkeypatch, tmp_path, fault, num_crashes):
    faulty = tmp_path / "worker.py"
    faulty.write_text(FAULTY_WORKER.format(folder=str(verifier_pool.WORKER_FILE.parent)))
    monkeypatch.setattr(verifier_pool, "WORKER_FILE", faulty)
    pool = VerifierPool(num_workers=1)
    assert pool.verify([("x", "x"), (fault, "y"), ("z", "z")]) == [True, False, True]
    assert (pool.num_time_limits, pool.num_crashes) == (0, num_crashes)
    pool.close()


def test_processes_killed_from_outside_are_replaced(pool):
    assert pool.verify([EQUAL]) == [True]
    for process_id in pool.process_ids:
        os.killpg(process_id, signal.SIGKILL)
    assert pool.verify([("a+b", "b+a"), UNEQUAL]) == [True, False]
    assert pool.num_crashes == 0


@pytest.mark.parametrize("num_pairs", [1, 20])
@pytest.mark.parametrize("is_whole_worker_killed", [False, True])
def test_no_verdict_is_spoilt_by_processes_that_were_killed_while_idle(pool, num_pairs, is_whole_worker_killed):
    pool.verify([EQUAL, UNEQUAL])
    workers = pool.process_ids
    assert len(workers) == 2
    for worker in workers:
        if is_whole_worker_killed:
            os.killpg(worker, signal.SIGKILL)
        else:
            kill_child_and_wait_for_the_next(worker)
    pairs = [(f"{n}+x", f"x+{n + n % 2}") for n in range(num_pairs)]
    verdicts = [n % 2 == 0 for n in range(num_pairs)]
    assert pool.verify(pairs) == verdicts
    assert pool.verify(pairs) == verdicts
    assert (pool.num_time_limits, pool.num_crashes) == (0, 0)
    assert all(ends_soon(worker) for worker in workers)


def test_no_verdict_is_spoilt_by_a_death_while_idle_that_is_told_after_the_next_pairs_were_sent(pool):
    pool.verify([EQUAL])
    (worker,) = pool.process_ids
    (child,) = children_of(worker)
    os.kill(worker, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    threading.Timer(0.5, os.kill, (worker, signal.SIGCONT)).start()
    pairs = [(f"{n}+x", f"x+{n + n % 2}") for n in range(20)]
    for _ in range(2):
        assert pool.verify(pairs) == [n % 2 == 0 for n in range(20)]
    assert (pool.num_time_limits, pool.num_crashes) == (0, 0)
    assert worker not in pool.process_ids and ends_soon(worker)


def test_it_works_in_threads_at_the_same_time(pool):
    verdicts = {}

    def verify(thread: int) -> None:
        verdicts[thread] = pool.verify([(f"{n}+x+{thread}", f"x+{n + thread}") for n in range(10)])

    threads = [threading.Thread(target=verify, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {thread: [True] * 10 for thread in range(4)}


def test_close_ends_the_processes_and_the_pool_can_be_used_again(pool):
    pool.verify([EQUAL])
    process_id = pool.process_ids[0]
    pool.close()
    assert ends_soon(process_id)
    assert pool.verify([UNEQUAL, EQUAL]) == [False, True]


def test_the_processes_end_when_their_parent_is_killed():
    script = (
        "import time\n"
        "from verl.utils.reward_score.verifier_pool import VerifierPool\n"
        "pool = VerifierPool(1, 5)\n"
        "pool.verify([('x+1', '1+x')])\n"
        "print(pool.process_ids[0], flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert ends_soon(worker)


def test_the_processes_import_neither_verl_nor_torch(pool):
    pool.verify([EQUAL])
    with open(f"/proc/{pool.process_ids[0]}/maps") as maps:
        libraries = maps.read()
    assert "torch" not in libraries
    assert "/ray/" not in libraries


def test_a_worker_that_cannot_start_is_an_error_that_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(7)")
    monkeypatch.setattr(verifier_pool, "WORKER_FILE", broken)
    with pytest.raises(RuntimeError, match=r"cannot start .*exit code 7"):
        VerifierPool(num_workers=1).verify([EQUAL])


def test_missing_math_verify_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(verifier_pool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install 'math-verify"):
        VerifierPool(num_workers=1).verify([EQUAL])


@pytest.mark.parametrize("settings", [{"num_workers": 0}, {"time_limit": 0}, {"time_limit": -1.0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        VerifierPool(**settings)


def test_one_pool_is_shared_per_process_and_settings():
    assert shared_verifier_pool(2, 1.5) is shared_verifier_pool(2, 1.5)
    assert shared_verifier_pool(2, 1.5) is not shared_verifier_pool(2, 2.5)


@pytest.mark.slow
def test_it_works_inside_a_ray_actor():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:

        @ray.remote
        class Scorer:
            async def score(self) -> list[bool]:
                from verl.utils.reward_score.verifier_pool import shared_verifier_pool

                return shared_verifier_pool(1, 1.0).verify([EQUAL, HANGS, UNEQUAL])

        assert ray.get(Scorer.remote().score.remote()) == [True, False, False]
    finally:
        ray.shutdown()
