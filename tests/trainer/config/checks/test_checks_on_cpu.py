"""Start-up checks on whole configurations, composed by Hydra as the command line composes them."""

from __future__ import annotations

import hydra
import pandas as pd
import pytest
from training_process import ROOT

from verl.trainer.config.checks import ConfigError, Facts, check_config
from verl.trainer.config.checks.budgets import check_micro_batches_divide
from verl.trainer.config.checks.facts import RayCluster


def compose(overrides: list[str]):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=overrides)


@pytest.fixture(scope="module")
def defaults():
    return compose([])


@pytest.fixture
def runnable(warm_start) -> list[str]:
    """Overrides with which the tiny task would train."""
    return [
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=1",
        f"data.train_files={warm_start / 'train.parquet'}",
        f"data.val_files={warm_start / 'test.parquet'}",
        "data.train_batch_size=128",
        f"actor_rollout_ref.model.path={warm_start / 'model'}",
        "actor_rollout_ref.actor.strategy=fsdp2",
        "actor_rollout_ref.actor.ppo_mini_batch_size=64",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32",
        "actor_rollout_ref.rollout.name=hf",
        "actor_rollout_ref.rollout.n=8",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=32",
        "critic.strategy=fsdp2",
        "trainer.logger=[]",
        f"custom_reward_function.path={ROOT}/recipe/knapsack/tiny/tiny_task.py",
    ]


def test_what_can_run_is_accepted(runnable, defaults):
    check_config(compose(runnable), defaults)
    check_config(compose([*runnable, "exploration.n_up=64", "exploration.total_budget=[[1,2048],[50,512]]"]), defaults)
    check_config(compose([*runnable, "exploration.allocator=homogeneous", "exploration.n_low=1"]), defaults)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.nnodes=two", ["trainer.nnodes='two'", "a number"]),
        ("trainer.balance_batch=3", ["trainer.balance_batch=3", "true or false"]),
        ("trainer.device=tpu", ["trainer.device='tpu'", "cuda, npu or cpu"]),
        ("trainer.n_gpus_per_node=0", ["trainer.n_gpus_per_node=0", "at least 1"]),
        (
            "exploration.total_budget=1000",
            ["exploration.total_budget=1000", "multiple of 512", "nearest legal: 512 or 1024"],
        ),
        ("exploration.total_budget=[[1,1024],[9,700]]", ["exploration.total_budget=700", "512 or 1024"]),
        ("exploration.total_budget=128", ["infeasible for 128 prompts", "256 to 16384"]),
        ("exploration.n_low=9", ["n_low=9", "infeasible", "1152 to"]),
        ("exploration.n_low=1", ["exploration.n_low=1", "at least 2", "no advantage"]),
        ("exploration.max_expected_tokens=many", ["exploration.max_expected_tokens='many'", "1.0x"]),
        ("exploration.max_expected_tokens=-1x", ["exploration.max_expected_tokens='-1x'", "1.0x"]),
        ("exploration.max_expected_tokens=nanx", ["exploration.max_expected_tokens='nanx'"]),
        ("exploration.max_expected_tokens=0", ["exploration.max_expected_tokens=0", "above 0"]),
        ("exploration.max_expected_tokens=10", ["max_expected_tokens=10 cannot be met", "the least possible is 1024"]),
        ("exploration.max_expected_tokens=0.2x", ["max_expected_tokens=0.2x", "the least possible is 0.25x"]),
        ("exploration.max_expected_tokens=1x exploration.solver=dp", ["exploration.solver=auto or greedy"]),
        (
            "exploration.max_expected_tokens=1x exploration.allocator=homogeneous",
            ["max_expected_tokens=1x", "exploration.allocator=knapsack"],
        ),
        ("exploration.value=rank", ["exploration.value='rank'", "grpo"]),
        ("exploration.value=no.such:function", ["exploration.value='no.such:function'"]),
        ("exploration.value=expected", ["exploration.success_rate.estimator=beta"]),
        ("exploration.value=remax", ["algorithm.adv_estimator=remax"]),
        ("algorithm.adv_estimator=gae", ["algorithm.adv_estimator='gae'", "no value function", "rloo"]),
        (
            "actor_rollout_ref.rollout.name=vllm exploration.rollout_is_cap=2.0",
            ["rollout_is_cap=2.0", "calculate_log_probs"],
        ),
        ("algorithm.adv_clip=-1", ["algorithm.adv_clip=-1", "above 0"]),
        ("algorithm.prompt_weight=prompt", ["algorithm.prompt_weight='prompt'", "rows, sqrt, equal"]),
        ("algorithm.prompt_weight=Equal", ["algorithm.prompt_weight='Equal'", "rows, sqrt, equal"]),
        ("algorithm.prompt_weight=0.5", ["algorithm.prompt_weight=0.5", "expected"]),
        ("algorithm.prompt_weight=null", ["algorithm.prompt_weight=None", "rows, sqrt, equal"]),
        ("algorithm.adv_clip=five", ["algorithm.adv_clip='five'"]),
        ("actor_rollout_ref.actor.strategy=fsdp", ["actor_rollout_ref.actor.strategy='fsdp'", "fsdp2"]),
        ("actor_rollout_ref.model.use_remove_padding=true", ["use_remove_padding=true", "set it to false"]),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", ["tensor_model_parallel_size=2", "divisor"]),
        ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=100", ["ppo_micro_batch_size_per_gpu=100", "512 rows"]),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=256", ["train_batch_size=128", "ppo_mini_batch_size=256"]),
        ("actor_rollout_ref.actor.loss_agg_mode=sum", ["loss_agg_mode"]),
        ("actor_rollout_ref.model.path=/no/model", ["actor_rollout_ref.model.path=/no/model", "does not exist"]),
        ("data.train_files=/no/file.parquet", ["data.train_files=/no/file.parquet", "does not exist"]),
        ("data.train_batch_size=2048", ["1024 prompts", "data.train_batch_size=2048"]),
        ("custom_reward_function.path=/no/reward.py", ["custom_reward_function.path=/no/reward.py", "does not exist"]),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(runnable, defaults, override, said):
    with pytest.raises(ConfigError) as refusal:
        check_config(compose([*runnable, *override.split()]), defaults)
    for part in said:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_data_file_without_a_prompt_column_is_refused(runnable, defaults, tmp_path):
    file = tmp_path / "questions.parquet"
    pd.DataFrame({"question": ["1+1="], "answer": ["2"]}).to_parquet(file)
    with pytest.raises(ConfigError, match="no column 'prompt'.*question, answer"):
        check_config(compose([*runnable, f"data.val_files={file}"]), defaults)


def test_a_data_file_that_is_no_parquet_is_refused(runnable, defaults, tmp_path):
    file = tmp_path / "train.parquet"
    file.write_text("prompt,answer\n")
    with pytest.raises(ConfigError, match="not a readable parquet file"):
        check_config(compose([*runnable, f"data.train_files={file}"]), defaults)


@pytest.mark.parametrize(
    "override",
    [
        "data.train_files='~/warm_start/train.parquet'",
        "data.val_files=['~/warm_start/test.parquet']",
        "actor_rollout_ref.model.path='~/warm_start/model'",
        "trainer.default_local_dir='~/run'",
        "trainer.rollout_data_dir='~/rollouts'",
        "trainer.resume_mode=resume_path trainer.resume_from_path='~/run/global_step_2'",
    ],
)
def test_a_path_in_the_home_folder_is_to_be_written_out(runnable, defaults, warm_start, monkeypatch, override):
    """verl, transformers and datasets take ~ for a folder of that name."""
    monkeypatch.setenv("HOME", str(warm_start.parent))
    with pytest.raises(ConfigError, match=f"begins with ~, which verl does not expand: write {warm_start.parent}/"):
        check_config(compose([*runnable, *override.split()]), defaults)


def test_a_reward_function_that_cannot_be_imported_or_is_missing_is_refused(runnable, defaults, tmp_path):
    file = tmp_path / "reward.py"
    file.write_text("import no_such_module\n")
    with pytest.raises(ConfigError, match="cannot be imported.*no_such_module"):
        check_config(compose([*runnable, f"custom_reward_function.path={file}"]), defaults)
    file.write_text("def score():\n    return 1\n")
    with pytest.raises(ConfigError, match="custom_reward_function.name=compute_score"):
        check_config(compose([*runnable, f"custom_reward_function.path={file}"]), defaults)


def test_a_data_set_class_of_the_users_own_reads_what_it_likes(runnable, defaults, tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("{}\n")
    check_config(compose([*runnable, f"data.train_files={file}", "data.custom_cls.path=data.py"]), defaults)


def test_gpus_that_share_a_sequence_have_the_same_rows_of_a_mini_batch(runnable, defaults):
    """64 prompts with 8 rollouts over 4 GPUs: 128 rows each, or 256 where two of them share a sequence."""
    micro_batch = "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=256"
    config = compose(
        [*runnable, "trainer.n_gpus_per_node=4", "actor_rollout_ref.model.use_remove_padding=true", micro_batch]
    )
    with pytest.raises(ConfigError, match="128 rows"):
        check_micro_batches_divide(config, Facts())
    config.actor_rollout_ref.actor.ulysses_sequence_parallel_size = 2
    check_micro_batches_divide(config, Facts())


def test_a_gpu_run_without_a_gpu_names_the_quickstart(runnable, defaults):
    config = compose([*runnable, "trainer.device=cuda"])
    with pytest.raises(ConfigError, match="make quickstart"):
        check_config(config, defaults, Facts())
    for facts in (
        Facts(has_gpu=True),
        Facts(cluster=RayCluster("head:6379", "RAY_ADDRESS", answers=True)),
        Facts(trains_here=False),
    ):
        check_config(config, defaults, facts)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(n, p): return p[:-1]", ["returned shape (8,)"]),
        ("def f(n, p): return p * float('nan')", ["gave nan for p=0.001"]),
        ("def f(n, p, tokens): return p", ["depends on tokens, not offered"]),
        ("def f(n, alpha, beta): return alpha", ["depends on beliefs", "exploration.success_rate.estimator=beta"]),
        ("def f(n, p, state): return p * state.kl", ["no attribute 'kl'"]),
        ("def f(n, p): raise RuntimeError('one\\ntwo')", ["failed for n=2", "one two"]),
        ("def f(n p): return p", ["cannot be imported", "invalid syntax"]),
    ],
)
def test_a_value_function_that_cannot_be_used_is_refused_before_anything_starts(
    runnable, defaults, tmp_path, monkeypatch, source, said
):
    module = f"values_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        check_config(compose([*runnable, f"exploration.value='{module}:f'"]), defaults)
    for part in ["exploration.value", *said]:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
