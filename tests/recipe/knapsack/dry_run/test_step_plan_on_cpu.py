"""The dry run: what it plans, what it refuses, and what it only names as missing."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from recipe.knapsack.dry_run.preflight import find_missing, find_unknown_keys
from recipe.knapsack.dry_run.step_plan import compose, dry_run, gpu_memory_from_environment, main
from recipe.knapsack.planner.model_size import model_size
from recipe.knapsack.planner.step_plan_text import memory_warnings
from recipe.knapsack.planner.training_step import plan_step
from verl.trainer.config.checks import check_config

SETTINGS = (
    "data.train_files=/nowhere/dapo_math_17k/train.parquet",
    "data.val_files=/nowhere/math_evaluation/validation.parquet",
    "data.train_batch_size=256",
    "data.max_prompt_length=1024",
    "data.max_response_length=3072",
    "actor_rollout_ref.model.path=/nowhere/Qwen2.5-Math-7B",
    "actor_rollout_ref.actor.strategy=fsdp2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=64",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
    "actor_rollout_ref.rollout.n=8",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=2",
    "actor_rollout_ref.rollout.gpu_memory_utilization=0.5",
    "trainer.n_gpus_per_node=8",
    "trainer.logger=[]",
)
SIZE = model_size("Qwen2.5-Math-7B")
PARAMETERS = 7_615_616_512


def plan(*overrides, gpu_memory_gb=80.0):
    return plan_step(compose([*SETTINGS, *overrides])[0], SIZE, gpu_memory_gb)


def errors(*overrides):
    return dry_run([*SETTINGS, *overrides])[1]


# --- The plan ---------------------------------------------------------------------------------------------------------


def test_a_step_is_counted_out():
    step = plan("trainer.nnodes=2")
    assert (step.prompts, step.budgets, step.rows_per_gpu) == (256, (2048,), 128)
    assert (step.mini_batches, step.updates) == (4, 4)
    assert (step.fewest_rollouts, step.most_rollouts) == (2, 128)
    assert step.most_tokens == 2048 * 4096


def test_the_largest_budget_of_a_schedule_is_planned():
    step = plan("exploration.total_budget=[[1,2048],[100,4096]]", "actor_rollout_ref.actor.ppo_epochs=2")
    assert step.budgets == (2048, 4096)
    assert (step.rows_per_gpu, step.mini_batches, step.updates) == (512, 8, 16)


def test_homogeneous_allocation_has_the_same_bounds_for_all():
    step = plan("exploration.allocator=homogeneous")
    assert (step.fewest_rollouts, step.most_rollouts) == (8, 8)
    step = plan("exploration.allocator=homogeneous", "exploration.total_budget=2560")
    assert (step.fewest_rollouts, step.most_rollouts) == (10, 10)


def test_memory_follows_from_the_model_and_how_it_is_shared():
    memory = plan().memory
    assert memory.weights == memory.gradients == PARAMETERS * 4 / 8
    assert memory.optimizer == PARAMETERS * 8 / 8
    assert memory.checkpoint == PARAMETERS * 12
    assert memory.engine_weights == PARAMETERS * 2 / 2
    # 28 layers, keys and values of 4 heads of width 128 on two GPUs, 2 bytes each.
    of_token = 28 * 2 * (4 // 2) * 128 * 2
    assert memory.kv_cache == pytest.approx(0.5 * 80e9 - PARAMETERS)
    assert memory.full_sequences == int(memory.kv_cache // (of_token * 4096))
    # Two GPUs hold the rollouts of both.
    assert memory.kv_cache_of_step == 2 * 256 * 4096 * of_token
    assert memory.generating == pytest.approx(memory.weights + memory.optimizer + 0.5 * 80e9)
    assert memory.updating == pytest.approx(memory.weights * 4 + memory.micro_batch)


@pytest.mark.parametrize(
    ("overrides", "generating", "updating"),
    [
        (("trainer.nnodes=2",), "less", "less"),
        (("actor_rollout_ref.actor.fsdp_config.param_offload=true",), "less", "same"),
        (("actor_rollout_ref.actor.fsdp_config.optimizer_offload=true",), "less", "same"),
        (("actor_rollout_ref.actor.fsdp_config.offload_policy=true",), "less", "less"),
        (("actor_rollout_ref.actor.fsdp_config.fsdp_size=4",), "more", "more"),
        (("+actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",), "less", "less"),
        (("actor_rollout_ref.model.lora_rank=8",), "less", "less"),
        (("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32768",), "same", "more"),
        (("actor_rollout_ref.model.enable_gradient_checkpointing=false",), "same", "more"),
        (("actor_rollout_ref.rollout.free_cache_engine=false",), "same", "more"),
        (("actor_rollout_ref.rollout.gpu_memory_utilization=0.8",), "more", "same"),
        (("actor_rollout_ref.rollout.name=hf",), "less", "same"),
    ],
)
def test_what_saves_memory_shows_where_it_does(overrides, generating, updating):
    def compare(before, after):
        return "same" if before == pytest.approx(after) else "less" if after < before else "more"

    before, after = plan().memory, plan(*overrides).memory
    assert compare(before.generating, after.generating) == generating
    assert compare(before.updating, after.updating) == updating


def test_a_micro_batch_of_rows_is_as_long_as_its_longest_sequences():
    by_rows = (
        "actor_rollout_ref.actor.use_dynamic_bsz=false",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    )
    assert plan(*by_rows).micro_batch_tokens == 4 * 4096
    by_rows_of_all = (by_rows[0], "actor_rollout_ref.actor.ppo_micro_batch_size=32")
    assert plan(*by_rows_of_all).micro_batch_tokens == 4 * 4096


@pytest.mark.parametrize(
    ("overrides", "gpu_memory_gb", "said"),
    [
        ((), 80, None),
        ((), 20, "updating takes"),
        (("trainer.n_gpus_per_node=2", "actor_rollout_ref.rollout.gpu_memory_utilization=0.9"), 80, "generating takes"),
        (("actor_rollout_ref.rollout.gpu_memory_utilization=0.05",), 80, "no room for one full-length rollout"),
    ],
)
def test_what_does_not_fit_is_warned_of(overrides, gpu_memory_gb, said):
    warnings = memory_warnings(plan(*overrides, gpu_memory_gb=gpu_memory_gb), gpu_memory_gb)
    assert any(said in warning for warning in warnings) if said else warnings == []


def problems(count):
    """So many prompts in verl's schema."""
    return pd.DataFrame(
        {
            "data_source": "math_500",
            "prompt": [[{"role": "user", "content": f"What is {number} + 1?"}] for number in range(count)],
            "reward_model": [{"style": "rule", "ground_truth": str(number + 1)} for number in range(count)],
            "extra_info": [{"index": number} for number in range(count)],
        }
    )


def test_data_that_are_here_tell_epochs_and_validation(tmp_path):
    train, validation = tmp_path / "train.parquet", tmp_path / "validation.parquet"
    problems(600).to_parquet(train)
    problems(50).to_parquet(validation)
    text, refused = dry_run(
        [
            *SETTINGS,
            f"data.train_files={train}",
            f"data.val_files=[{validation},{validation}]",
            "trainer.total_training_steps=10",
            "trainer.test_freq=5",
            "actor_rollout_ref.rollout.val_kwargs.n=16",
        ]
    )
    assert refused == []
    assert "10 steps = 5.0 epochs of 600 prompts (2 steps an epoch)" in text
    assert "every 5 steps, 16 responses to each of 100 prompts, 1,600 in all" in text
    assert "data." not in text.split("Missing")[1]


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("exploration.n_low=9", "2048 is infeasible"),
        ("trainer.n_gpus_per_node=6", "multiple of 6"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=3", "does not divide the 8 workers"),
        ("exploration.allocator=greedy", "one of knapsack, homogeneous"),
        ("algorithm.adv_clip=-1", "algorithm.adv_clip=-1"),
        ("trainer.device=tpu", "trainer.device='tpu'"),
        ("data.max_response_length=3073", "4097 tokens exceed the 4096 positions"),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4095", "ppo_max_token_len_per_gpu=4095 is less"),
        (
            "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=4095",
            "log_prob_max_token_len_per_gpu=4095 is less",
        ),
        ("actor_rollout_ref.rollout.max_num_batched_tokens=4095", "max_num_batched_tokens=4095 is less"),
        ("actor_rollout_ref.rollout.max_model_len=4095", "max_model_len=4095 is less"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=8", "28 attention heads"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=512", "ppo_mini_batch_size=512 exceeds"),
        ("actor_rollout_ref.rollout.name=vlm", "one of vllm, sglang, hf"),
        ("actor_rollout_ref.actor.strategy=fsdp3", "one of fsdp, fsdp2, megatron"),
        ("reward_model.reward_manager=math", "Unknown reward manager: math"),
        ("custom_reward_function.path=/nowhere/reward.py", "/nowhere/reward.py does not exist"),
    ],
)
def test_what_would_fail_on_the_gpus_is_refused_here(override, said):
    refused = errors(override)
    assert refused and any(said in error for error in refused), refused


def test_limits_are_met_exactly():
    exact = (
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
        "actor_rollout_ref.rollout.max_num_batched_tokens=4096",
        "actor_rollout_ref.rollout.max_model_len=4096",
    )
    assert errors(*exact) == []


def test_all_broken_limits_are_told_at_once():
    assert len(errors("reward_model.reward_manager=math", "data.max_response_length=20000")) == 4


def test_a_file_that_is_here_is_checked(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    assert "not a readable parquet file" in errors(f"data.train_files={tmp_path / 'train.parquet'}")[0]
    pd.DataFrame({"prompt": ["?"] * 255}).to_parquet(tmp_path / "few.parquet")
    assert "holds 255 prompts" in errors(f"data.train_files={tmp_path / 'few.parquet'}")[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("exploration.n_upp=64", "exploration.n_upp is not a known key: did you mean exploration.n_up?"),
        ("no override", "no override"),
    ],
)
def test_an_override_that_is_none_ends_with_status_2(override, said, capsys):
    assert main([*SETTINGS, override]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and said in captured.err and captured.out == ""


def test_errors_end_with_status_2_and_without_a_plan(capsys):
    assert main([*SETTINGS, "exploration.n_low=9"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.out == ""


@pytest.mark.parametrize("value", ["-1", "0", "many", "nan"])
def test_a_gpu_memory_that_is_no_size_is_refused(value, monkeypatch, capsys):
    monkeypatch.setenv("GPU_MEMORY_GB", value)
    assert main(SETTINGS) == 2
    assert f"GPU_MEMORY_GB={value}" in capsys.readouterr().err
    monkeypatch.setenv("GPU_MEMORY_GB", "141")
    assert gpu_memory_from_environment() == 141.0


# --- What nothing reads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "unknown"),
    [
        ("+actor_rollout_ref.actor.bogus_key=1", "actor_rollout_ref.actor.bogus_key"),
        ("+actor_rollout_ref.actor.optim.clip_grad=0.5", "actor_rollout_ref.actor.optim.clip_grad"),
        ("+actor_rollout_ref.actor.fsdp_config.modeldtype=bf16", "actor_rollout_ref.actor.fsdp_config.modeldtype"),
        ("+actor_rollout_ref.rollout.repetition=1.1", "actor_rollout_ref.rollout.repetition"),
        ("+actor_rollout_ref.rollout.engine_kwargs.vlm.seed=1", "actor_rollout_ref.rollout.engine_kwargs.vlm"),
        ("+trainer.min_p=1", "trainer.min_p"),
        ("+bogus={a: 1, b: 2}", "bogus"),
    ],
)
def test_an_added_key_that_nothing_reads_is_warned_of_and_no_error(override, unknown):
    text, refused = dry_run([*SETTINGS, override])
    assert refused == []
    warnings = [line for line in text.splitlines() if line.startswith("WARNING")]
    assert warnings == [f"WARNING: {unknown} is not known to verl 0.5.0: nothing reads it unless your own code does"]
    assert "The configuration is accepted" in text


def test_added_keys_that_verl_reads_are_not_warned_of():
    read = (
        "+data.gen_batch_size=512",
        "+data.seed=3",
        "+data.sampler.my_setting=1",
        "+trainer.remove_previous_ckpt_in_save=true",
        "+custom_reward_function.reward_kwargs.weight=2",
        "+reward_model.reward_kwargs={time_limit: 2}",
        "+actor_rollout_ref.model.override_config.attn_implementation=eager",
        "+actor_rollout_ref.actor.fsdp_config.model_dtype=bf16",
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype=fp32",
        "+critic.model.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Layer]",
        "+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_dtype=fp8",
        "+actor_rollout_ref.rollout.repetition_penalty=1.1",
    )
    assert find_unknown_keys(*compose([*SETTINGS, *read])) == []


def test_the_keys_of_megatron_are_known_where_it_trains():
    megatron = ("actor@actor_rollout_ref.actor=megatron_actor", "ref@actor_rollout_ref.ref=megatron_ref")
    added = ("+actor_rollout_ref.actor.megatron.bogus=1", "+actor_rollout_ref.actor.megatron.override_ddp_config.x=1")
    settings = [setting for setting in SETTINGS if "strategy" not in setting]
    assert find_unknown_keys(*compose([*settings, *megatron, *added])) == ["actor_rollout_ref.actor.megatron.bogus"]


# --- What is missing --------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named_with_how_to_get_it_and_is_no_error(capsys):
    assert main(SETTINGS) == 0
    out = capsys.readouterr().out
    assert "data.train_files=/nowhere/dapo_math_17k/train.parquet (make it: python3 examples/data_preprocess/" in out
    assert "huggingface-cli download Qwen/Qwen2.5-Math-7B --local-dir /nowhere/Qwen2.5-Math-7B" in out
    assert "The configuration is accepted" in out


def test_what_the_data_hints_name_exists():
    for missing in find_missing(compose(SETTINGS)[0])[:2]:
        script = next(word for word in missing.remedy.split() if word.endswith(".py"))
        assert os.path.exists(os.path.join(os.path.dirname(__file__), "../../../..", script))


def test_remote_paths_and_hub_names_are_not_missing():
    config, _ = compose(
        [
            *SETTINGS,
            "data.train_files=hdfs://cluster/train.parquet",
            "data.val_files=[s3://bucket/validation.parquet]",
            "actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-7B",
        ]
    )
    assert find_missing(config) == []


def test_a_model_of_unknown_size_is_planned_without_memory():
    text, refused = dry_run([*SETTINGS, "actor_rollout_ref.model.path=/nowhere/Some-Model"])
    assert refused == []
    assert "size unknown" in text and "Memory per GPU: unknown" in text


def test_a_login_to_wandb_is_missing_only_where_there_is_none(monkeypatch, tmp_path):
    config, _ = compose([*SETTINGS, "trainer.logger=[console,wandb]"])
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def is_missing():
        return any("wandb" in missing.value for missing in find_missing(config))

    assert is_missing()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not is_missing()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert is_missing()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not is_missing()


def test_the_dry_run_leaves_configuration_and_environment_as_they_were(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    config, defaults = compose(SETTINGS)
    dry_run(SETTINGS)
    assert dict(os.environ) == before
    assert compose(SETTINGS)[0] == config
    with pytest.raises(Exception, match="does not exist|needs a GPU"):
        check_config(config, defaults)
