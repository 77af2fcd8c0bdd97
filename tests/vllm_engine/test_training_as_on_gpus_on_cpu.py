"""Knapsack-GRPO by the exact vLLM of the GPU users: several engines, tensor parallelism, LoRA, asynchronous rollouts.

Of every run is checked: the sums of budgets; that every rollout belongs to its prompt; that engine and actor agree on
log-probs; and that the engine has the weights of the step, whose greedy answers are those of transformers.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from copying_task import NUM_PROMPTS
from greedy_answers import greedy_answers, validated_answers
from test_vllm_training_on_cpu import TOTAL_BUDGET, M, assert_identities_agree, dumped_rollouts, history_of
from training_process import SCRIPTS, TrainingProcess

from knapsack_rl.metrics_file import read_metrics

pytestmark = [pytest.mark.end_to_end, pytest.mark.needs_gpu_pins]

STEPS, EVERY = 4, 2
ROLLOUT = "actor_rollout_ref.rollout"
RESPONSE_LENGTH = 8
SCRIPT = SCRIPTS / "run_tiny_vllm_cpu.sh"


def overrides(folder: Path) -> tuple[str, ...]:
    """Four steps that move the weights far, each second of them validated greedily and saved; all rollouts dumped."""
    return (
        f"trainer.total_training_steps={STEPS}",
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


WORKERS = "trainer.n_gpus_per_node=2"
LORA = (
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=16",
    "actor_rollout_ref.model.target_modules=all-linear",
)
ASYNC = (f"{ROLLOUT}.mode=async", "data.return_raw_chat=true")
RUNS = {
    "two engines": (WORKERS,),
    "tensor parallel": (WORKERS, f"{ROLLOUT}.tensor_model_parallel_size=2"),
    "lora": (*LORA, f"{ROLLOUT}.load_format=safetensors"),
    "async two servers": (*ASYNC, WORKERS, "exploration.rollout_is_cap=2"),
    "async tensor parallel": (
        *ASYNC,
        WORKERS,
        f"{ROLLOUT}.tensor_model_parallel_size=2",
        f"{ROLLOUT}.agent.num_workers=2",
    ),
    "async lora": (*ASYNC, *LORA, f"{ROLLOUT}.agent.num_workers=1"),
}


@pytest.fixture(scope="module", params=RUNS)
def finished_run(request, train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return train(folder, *overrides(folder), *RUNS[request.param])


def steps_of(run: Path) -> int:
    """Training steps that the run has logged."""
    records = read_metrics(run) if (run / "metrics.jsonl").exists() else []
    return sum("training/global_step" in record for record in records)


def assert_budgets_hold(run: Path) -> None:
    by_step = history_of(run).groupby("step")["budget"]
    assert by_step.sum().tolist() == [TOTAL_BUDGET] * STEPS
    assert by_step.count().tolist() == [M] * STEPS


def assert_rollouts_belong_to_their_prompts(run: Path, task: Path) -> None:
    rollouts = dumped_rollouts(run / "rollouts")
    assert len(rollouts) == STEPS * TOTAL_BUDGET
    assert_identities_agree(rollouts, history_of(run), pd.read_parquet(task / "train.parquet"))


def assert_engine_and_actor_agree(run: Path) -> None:
    steps = [record for record in read_metrics(run) if "training/rollout_probs_diff_max" in record]
    assert len(steps) == STEPS
    assert max(step["training/rollout_probs_diff_max"] for step in steps) < 1e-4
    assert all(step["actor/grad_norm"] > 0 for step in steps)
    # Equal log-probs are importance ratios of 1, where a run caps them.
    assert all(step.get("training/rollout_is_weight_mean", 1.0) == pytest.approx(1.0, abs=1e-4) for step in steps)


def assert_validation_has_the_weights_of_its_step(run: Path, task: Path) -> None:
    validated = {step: validated_answers(run / "validation", step) for step in range(0, STEPS + 1, EVERY)}
    for step, answers in validated.items():
        assert len(answers) == NUM_PROMPTS
        checkpoint = run / f"global_step_{step}" if step else None
        assert answers == greedy_answers(checkpoint, task / "model", list(answers), RESPONSE_LENGTH), f"step {step}"
    # Equality says something because the weights of another step answer otherwise.
    for earlier, later in pairwise(validated.values()):
        assert sum(earlier[prompt] != later[prompt] for prompt in later) > NUM_PROMPTS / 4


def check(run: Path, task: Path) -> None:
    assert_budgets_hold(run)
    assert_rollouts_belong_to_their_prompts(run, task)
    assert_engine_and_actor_agree(run)
    assert_validation_has_the_weights_of_its_step(run, task)


def test_a_run_holds_its_budgets_rows_log_probs_and_weights(finished_run, copying_task):
    check(finished_run, copying_task)
    assert "[Gloo]" not in (finished_run / "train.log").read_text()


def test_an_asynchronous_run_that_was_killed_goes_on_from_its_checkpoint(copying_task, train, tmp_path):
    run = tmp_path / "killed"
    settings = (*overrides(run), *ASYNC, f"{ROLLOUT}.agent.num_workers=1")
    killed = TrainingProcess(SCRIPT, copying_task, run, settings)
    killed.wait_until(lambda: steps_of(run) > EVERY, "step after the checkpoint")
    killed.kill()
    assert (run / f"global_step_{EVERY}").exists() and not (run / f"global_step_{STEPS}").exists()
    train(run, *settings)
    check(run, copying_task)


def test_a_script_for_gpus_shrunk_to_the_tiny_model(copying_task, tmp_path, monkeypatch):
    run = tmp_path / "script"
    homes = {"RAY_DATA_HOME": tmp_path / "data", "RAY_MODEL_HOME": tmp_path / "models", "RAY_SAVE_HOME": tmp_path}
    for variable, folder in homes.items():
        monkeypatch.setenv(variable, str(folder))
    monkeypatch.setenv("NGPUS_PER_NODE", "2")
    for source, target in (
        (copying_task / "train.parquet", homes["RAY_DATA_HOME"] / "dapo_math_17k" / "train.parquet"),
        (copying_task / "test.parquet", homes["RAY_DATA_HOME"] / "math_evaluation" / "validation.parquet"),
        (copying_task / "model", homes["RAY_MODEL_HOME"] / "Qwen2.5-Math-7B"),
    ):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    shrunk = (
        "trainer.device=cpu",
        f"trainer.default_local_dir={run}",
        "trainer.logger=[]",
        "data.max_prompt_length=8",
        f"data.max_response_length={RESPONSE_LENGTH}",
        "data.filter_overlong_prompts_workers=1",
        "actor_rollout_ref.model.use_remove_padding=false",
        "actor_rollout_ref.actor.use_torch_compile=false",
        f"{ROLLOUT}.dtype=float32",
        f"{ROLLOUT}.enforce_eager=true",
        f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=64",
    )
    training = TrainingProcess(SCRIPTS / "run_knapsack_grpo_7b.sh", copying_task, run, (*shrunk, *overrides(run)))
    assert training.finish() == 0, training.log[-5000:]
    check(run, copying_task)
