"""Knapsack-GRPO by the exact vLLM of the GPU users: several engines, tensor parallelism, LoRA, asynchronous rollouts.

Of every run is checked: the sums of budgets; that every rollout belongs to its prompt; that engine and actor agree on
log-probs; and that the engine has the weights of the step, whose greedy answers are those of transformers. Then the run
is ended in one of the ways in which runs end, and none of its processes may be left.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from copying_task import NUM_PROMPTS
from greedy_answers import greedy_answers, validated_answers
from run_checks import TOTAL_BUDGET, M, assert_identities_agree, dumped_rollouts, go_back_to, history_of, steps_of
from run_processes import WatchedTraining
from training_process import ROOT, SCRIPTS

from knapsack_rl.metrics_file import read_metrics

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.needs_gpu_pins]

STEPS, EVERY = 4, 2
ROLLOUT = "actor_rollout_ref.rollout"
RESPONSE_LENGTH = 8
REASON = "the device is on fire"
WORKERS = "trainer.n_gpus_per_node=2"
TENSOR_PARALLEL = f"{ROLLOUT}.tensor_model_parallel_size=2"
LORA = (
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=16",
    "actor_rollout_ref.model.target_modules=all-linear",
    # An adapter starts at zero: its first steps change less.
    "actor_rollout_ref.actor.optim.lr=3e-2",
)
ASYNC = (f"{ROLLOUT}.mode=async", "data.return_raw_chat=true")
ONE_LOOP = f"{ROLLOUT}.agent.num_workers=1"


@dataclass(frozen=True)
class Run:
    """How a run trains and how it ends: by a signal, or as a worker fails in a method (see `failing_engine`)."""

    overrides: tuple[str, ...]
    ends_by: signal.Signals | str


RUNS = {
    "tensor parallel": Run((WORKERS, TENSOR_PARALLEL), ends_by="generate_sequences:raise"),
    "lora": Run((*LORA, f"{ROLLOUT}.load_format=safetensors"), ends_by=signal.SIGTERM),
    "async tensor parallel, lora, remax": Run(
        (*ASYNC, WORKERS, TENSOR_PARALLEL, *LORA, ONE_LOOP, "algorithm.adv_estimator=remax"),
        ends_by="execute_model:raise",
    ),
}


def overrides(folder: Path) -> tuple[str, ...]:
    """Steps that move the weights far, each second of them validated greedily and saved; all rollouts dumped."""
    return (
        "trainer.total_training_steps=1000",
        f"trainer.save_freq={EVERY}",
        f"trainer.test_freq={EVERY}",
        "trainer.val_before_train=true",
        "trainer.max_actor_ckpt_to_keep=null",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"trainer.validation_data_dir={folder}/validation",
        "actor_rollout_ref.actor.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        "actor_rollout_ref.actor.optim.lr=2e-2",
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        f"{ROLLOUT}.free_cache_engine=true",
        f"{ROLLOUT}.val_kwargs.do_sample=false",
        f"{ROLLOUT}.val_kwargs.n=1",
        f"{ROLLOUT}.val_kwargs.temperature=0",
    )


@pytest.fixture
def start(start_run: Callable[..., WatchedTraining], tmp_path: Path) -> Callable[..., WatchedTraining]:
    """Start a run that can be ended by ``ends_by``."""

    def start_one(ends_by: signal.Signals | str, *settings: str, **arguments: str | Path) -> WatchedTraining:
        run = tmp_path / "run"
        if isinstance(ends_by, str):
            settings = (*settings, "actor_rollout_ref.model.external_lib=failing_engine")
            failure = {"ENGINE_FAILURE": ends_by, "ENGINE_FAILURE_FILE": f"{run}/fail", "ENGINE_FAILURE_REASON": REASON}
            arguments = {**arguments, **failure}
        return start_run(run, *overrides(run), *settings, **arguments)

    return start_one


def end(training: WatchedTraining, ends_by: signal.Signals | str, after: int = STEPS) -> None:
    """End a run after some steps; fail if it does not say why, or if one of its processes is left."""
    training.wait_until(lambda: steps_of(training.run_folder) >= after, f"step {after}")
    assert len(training.family.alive()) > 4
    if isinstance(ends_by, signal.Signals):
        training.process.send_signal(ends_by)
        training.assert_it_ends_and_nothing_is_left()
        return
    (training.run_folder / "fail").touch()
    training.assert_it_ends_and_nothing_is_left()
    assert training.process.returncode not in (0, None)
    (training.run_folder / "fail").unlink()
    assert_the_cause_is_named(training.log, ends_by)


def assert_the_cause_is_named(log: str, failure: str) -> None:
    method, how = failure.split(":")
    cause = REASON if how == "raise" else "worker 0"
    if method == "generate_sequences":
        assert cause in log
    else:
        assert "asynchronous rollout engine failed" in log and cause in log[log.rindex("RolloutEngineError") :]


def assert_budgets_hold(run: Path) -> None:
    history = history_of(run)
    by_step = history[history["step"] <= STEPS].groupby("step")["budget"]
    assert by_step.sum().tolist() == [TOTAL_BUDGET] * STEPS
    assert by_step.count().tolist() == [M] * STEPS


def assert_rollouts_belong_to_their_prompts(run: Path, task: Path) -> None:
    rollouts, history = dumped_rollouts(run / "rollouts", STEPS), history_of(run)
    assert len(rollouts) == STEPS * TOTAL_BUDGET
    assert_identities_agree(rollouts, history[history["step"] <= STEPS], pd.read_parquet(task / "train.parquet"))


def assert_engine_and_actor_agree(run: Path) -> None:
    steps = {record["step"]: record for record in read_metrics(run) if "training/rollout_probs_diff_max" in record}
    first = [steps[number] for number in range(1, STEPS + 1)]
    assert max(step["training/rollout_probs_diff_max"] for step in first) < 1e-4
    assert all(step["actor/grad_norm"] > 0 for step in first)
    # Equal log-probs are importance ratios of 1, where a run caps them.
    assert all(step.get("training/rollout_is_weight_mean", 1.0) == pytest.approx(1.0, abs=1e-4) for step in first)


def assert_validation_has_the_weights_of_its_step(run: Path, task: Path) -> None:
    validated = {step: validated_answers(run / "validation", step) for step in range(0, STEPS + 1, EVERY)}
    for step, answers in validated.items():
        assert len(answers) == NUM_PROMPTS
        checkpoint = run / f"global_step_{step}" if step else None
        assert answers == greedy_answers(checkpoint, task / "model", list(answers), RESPONSE_LENGTH), f"step {step}"
    # Equality says something because the weights before training answer otherwise. Those of neighbouring steps may not:
    # how the weights move depends on the processor. The log-probs tell them apart.
    untrained = validated.pop(0)
    for answers in validated.values():
        assert sum(untrained[prompt] != answer for prompt, answer in answers.items()) > NUM_PROMPTS / 4


def check(run: Path, task: Path) -> None:
    assert_budgets_hold(run)
    assert_rollouts_belong_to_their_prompts(run, task)
    assert_engine_and_actor_agree(run)
    assert_validation_has_the_weights_of_its_step(run, task)
    assert "[Gloo]" not in (run / "train.log").read_text()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_holds_its_budgets_rows_log_probs_and_weights_and_leaves_no_process(start, copying_task, name):
    training = start(RUNS[name].ends_by, *RUNS[name].overrides)
    end(training, RUNS[name].ends_by)
    check(training.run_folder, copying_task)


def test_two_asynchronous_servers_that_were_killed_go_on_from_the_checkpoint_with_the_same_budgets(start, copying_task):
    two_servers = (*ASYNC, WORKERS, "exploration.rollout_is_cap=2")
    killed = start(signal.SIGKILL, *two_servers)  # with as many agent loops as verl has by default
    run = killed.run_folder
    end(killed, signal.SIGKILL, after=EVERY + 1)
    before = dumped_budgets(run, EVERY + 1)
    go_back_to(run, EVERY)
    resumed = start(signal.SIGTERM, *two_servers, ONE_LOOP)
    end(resumed, signal.SIGTERM)
    check(run, copying_task)
    pd.testing.assert_series_equal(before, dumped_budgets(run, EVERY + 1))


def dumped_budgets(run: Path, steps: int) -> pd.Series:
    return dumped_rollouts(run / "rollouts", steps).groupby(["step", "prompt_id"]).size()


def test_a_script_for_gpus_shrunk_to_the_tiny_model(start, copying_task, tmp_path):
    homes = {"RAY_DATA_HOME": tmp_path / "data", "RAY_MODEL_HOME": tmp_path / "models", "RAY_SAVE_HOME": tmp_path}
    for source, target in (
        (copying_task / "train.parquet", homes["RAY_DATA_HOME"] / "dapo_math_17k" / "train.parquet"),
        (copying_task / "test.parquet", homes["RAY_DATA_HOME"] / "math_evaluation" / "validation.parquet"),
        (copying_task / "model", homes["RAY_MODEL_HOME"] / "Qwen2.5-Math-7B"),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    training = start(
        signal.SIGINT,
        "trainer.device=cpu",
        f"trainer.default_local_dir={tmp_path}/run",
        "trainer.logger=[]",
        f"custom_reward_function.path={ROOT}/recipe/knapsack/tiny/tiny_task.py",
        "custom_reward_function.name=compute_score",
        "data.max_prompt_length=8",
        f"data.max_response_length={RESPONSE_LENGTH}",
        "data.filter_overlong_prompts_workers=1",
        "actor_rollout_ref.model.use_remove_padding=false",
        "actor_rollout_ref.actor.use_torch_compile=false",
        f"{ROLLOUT}.dtype=float32",
        f"{ROLLOUT}.enforce_eager=true",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=64",
        script=SCRIPTS / "run_knapsack_grpo_7b.sh",
        NGPUS_PER_NODE="2",
        **{variable: str(folder) for variable, folder in homes.items()},
    )
    end(training, signal.SIGINT)
    check(training.run_folder, copying_task)
