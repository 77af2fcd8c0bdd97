"""Evaluating checkpoints: one from a real run, on the tiny model; and what is refused before anything is started."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from training_process import ROOT

from knapsack_rl import prompt_id
from knapsack_rl.prior import read_prior
from recipe.knapsack.dry_run.step_plan import compose
from recipe.knapsack.evaluate.evaluation import main
from recipe.knapsack.evaluate.evaluation_config import EvaluationError, Subject, evaluation_config, find_subject
from recipe.knapsack.evaluate.evaluation_data import (
    check_prompt_lengths,
    read_outcomes,
    read_prompts,
    write_success_rates,
)
from recipe.knapsack.planner.population import load_population
from recipe.knapsack.tiny.tiny_task import DATA_SOURCE, STRATEGIES
from verl.trainer.config.checks import check_config

VALIDATION = "actor_rollout_ref.rollout.val_kwargs"


def write_run(folder, **overrides):
    """A run's folder with its resolved configuration and an empty checkpoint."""
    config, _ = compose([f"{key}={value}" for key, value in overrides.items()])
    OmegaConf.resolve(config)
    (folder / "global_step_4" / "actor").mkdir(parents=True)
    (folder / "global_step_4" / "complete").touch()
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def tiny_run(folder, warm_start, **overrides):
    settings = {
        "trainer.device": "cpu",
        "trainer.n_gpus_per_node": 2,
        "data.train_files": warm_start / "train.parquet",
        "data.val_files": warm_start / "test.parquet",
        "data.max_prompt_length": 8,
        "data.max_response_length": 8,
        "actor_rollout_ref.model.path": warm_start / "model",
        "actor_rollout_ref.actor.strategy": "fsdp2",
        "actor_rollout_ref.rollout.name": "hf",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.val_kwargs.do_sample": "true",
        "actor_rollout_ref.rollout.val_kwargs.temperature": 0.6,
        "critic.strategy": "fsdp2",
        "custom_reward_function.path": ROOT / "recipe/knapsack/tiny/tiny_task.py",
    }
    return write_run(folder, **{**settings, **overrides})


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_checkpoint_of_two_workers_is_evaluated_on_one(train, warm_start, tmp_path):
    run = train(tmp_path / "run", "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2", "trainer.save_freq=2")
    data = tmp_path / "data.parquet"
    # Two benchmarks, and prompts that decode to the same text: what belongs to what is told by position.
    rows = pd.read_parquet(warm_start / "test.parquet").head(12)
    rows["data_source"] = [DATA_SOURCE] * 6 + ["other"] * 6
    pd.concat([rows, rows.head(1)]).to_parquet(data)
    output = tmp_path / "evaluation"
    arguments = [run.run_folder, "--data", data, "--output", output, "--responses", 4, "--pass-at", "1,4"]
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': 0.0, 'acc': solution_str[:1] in ('.', '~', '<', '>')}\n"
    )
    overrides = ["trainer.n_gpus_per_node=1", f"custom_reward_function.path={reward}"]
    assert main([*map(str, arguments), *overrides]) == 0

    name = "run-global_step_2"
    scores = json.loads((output / "scores.json").read_text())[name]
    assert {source: score["prompts"] for source, score in scores.items()} == {DATA_SOURCE: 7, "other": 6}
    responses = pd.read_json(output / name / "responses" / "0.jsonl", lines=True)
    assert len(responses) == 13 * 4
    is_right = responses["acc"].to_numpy(dtype=bool).reshape(13, 4)
    in_first = np.array([True] * 6 + [False] * 6 + [True])
    for source, chosen in ((DATA_SOURCE, in_first), ("other", ~in_first)):
        assert scores[source]["avg"] == pytest.approx(is_right[chosen].mean())
        assert scores[source]["pass_at"]["1"] == pytest.approx(is_right[chosen].mean())
        assert scores[source]["pass_at"]["4"] == pytest.approx(is_right[chosen].any(axis=1).mean())
    assert 0 < is_right.mean() < 1
    # The warm start has learned that a response names a strategy; shards merged in the wrong way would not know.
    names_a_strategy = responses["output"].str.slice(0, 1).isin(list(STRATEGIES))
    assert names_a_strategy.mean() > 0.9
    assert not list((output / name).glob("merged-*"))


def test_the_latest_whole_checkpoint_of_a_run_is_taken(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "global_step_8" / "actor").mkdir(parents=True)  # not whole: the run was killed while it was saved
    assert find_subject(run) == Subject("run-global_step_4", run, run / "global_step_4")
    assert find_subject(run / "global_step_8").checkpoint == run / "global_step_8"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "holds no whole checkpoint"),
        ("global_step_4", "no folder actor"),
        ("bare/global_step_1", "config.yaml"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, path, said):
    (tmp_path / "bare" / "global_step_1" / "actor").mkdir(parents=True)
    with pytest.raises(EvaluationError, match=said):
        find_subject(tmp_path / path)


@pytest.mark.parametrize(
    "overrides",
    [
        {"actor_rollout_ref.actor.use_dynamic_bsz": "true"},
        {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4},
        {"exploration.total_budget": "[[1,2048],[9,4096]]", "algorithm.adv_estimator": "gae"},
        {"actor_rollout_ref.actor.use_kl_loss": "true", "exploration.dynamic_sampling.enable": "true"},
    ],
)
def test_the_configuration_of_any_run_passes_the_trainers_checks(tmp_path, warm_start, overrides):
    run = tiny_run(tmp_path / "run", warm_start, **overrides)
    subject = find_subject(run)
    config = evaluation_config(subject, ["trainer.nnodes=3"], [], 16, warm_start / "model", tmp_path / "output")
    check_config(config, config)
    assert config.trainer.val_only and config.actor_rollout_ref.rollout.val_kwargs.n == 16


def test_lengths_that_are_overridden_reach_the_rollout_engine(tmp_path, warm_start):
    run = tiny_run(tmp_path / "run", warm_start)
    overrides = ["data.max_prompt_length=100", "data.max_response_length=16000"]
    config = evaluation_config(find_subject(run), overrides, [], 16, warm_start / "model", tmp_path)
    rollout = config.actor_rollout_ref.rollout
    assert (rollout.prompt_length, rollout.response_length) == (100, 16000)
    assert rollout.max_num_batched_tokens >= 16100


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"actor_rollout_ref.model.lora_rank": 8}, "lora_rank=8"),
        ({"actor_rollout_ref.actor.strategy": "megatron"}, "strategy=megatron"),
    ],
)
def test_what_the_merger_cannot_do_is_refused(tmp_path, overrides, said):
    run = write_run(tmp_path / "run", **overrides)
    with pytest.raises(EvaluationError, match=said):
        evaluation_config(find_subject(run), [], [], 16, tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("of_the_run", "overrides"),
    [
        ({"do_sample": "false"}, []),
        ({"temperature": 0}, []),
        ({}, ["do_sample=false"]),
        ({}, ["temperature=0.0"]),
        ({"do_sample": "false", "temperature": 0}, ["do_sample=true"]),
    ],
)
def test_several_greedy_responses_are_refused(tmp_path, warm_start, of_the_run, overrides):
    run = tiny_run(tmp_path / "run", warm_start, **{f"{VALIDATION}.{key}": of_the_run[key] for key in of_the_run})
    given = [f"{VALIDATION}.{override}" for override in overrides]
    with pytest.raises(EvaluationError) as error:
        evaluation_config(find_subject(run), given, [], 16, tmp_path, tmp_path)
    for way_out in (f"{VALIDATION}.do_sample=true", f"{VALIDATION}.temperature=0.6", "--responses 1"):
        assert way_out in str(error.value)
    evaluation_config(find_subject(run), given, [], 1, tmp_path, tmp_path)
    sampled = [*given, f"{VALIDATION}.do_sample=true", f"{VALIDATION}.temperature=0.6"]
    evaluation_config(find_subject(run), sampled, [], 16, tmp_path, tmp_path)


def test_prompts_that_do_not_fit_are_refused_with_lengths_that_do(tmp_path, warm_start):
    run = tiny_run(tmp_path / "run", warm_start)
    config = evaluation_config(find_subject(run), ["data.max_prompt_length=6"], [], 4, warm_start / "model", tmp_path)
    prompts = read_prompts(config)
    too_long = sum(len(row["prompt"][0]["content"]) > 6 for row in prompts)
    assert 0 < too_long < len(prompts)
    with pytest.raises(EvaluationError) as error:
        check_prompt_lengths(config, prompts, warm_start / "model")
    assert f"{too_long} of {len(prompts)} prompts" in str(error.value)
    assert "data.max_prompt_length=7, and data.max_response_length=7" in str(error.value)
    config.data.max_prompt_length = 7
    check_prompt_lengths(config, prompts, warm_start / "model")


def test_missing_data_are_named(tmp_path, warm_start, capsys):
    run = tiny_run(tmp_path / "run", warm_start)
    assert main([str(run), "--data", str(tmp_path / "none.parquet"), "--output", str(tmp_path / "output")]) == 2
    assert f"{tmp_path / 'none.parquet'} does not exist" in capsys.readouterr().err


def test_a_mistyped_override_is_named(tmp_path, warm_start, capsys):
    run = tiny_run(tmp_path / "run", warm_start)
    assert main([str(run), "trainer.n_gpu=1", "--output", str(tmp_path / "output")]) == 2
    assert "trainer.n_gpu" in capsys.readouterr().err


def write_responses(file, entries):
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


def test_a_response_is_right_by_its_acc_or_else_by_its_score(tmp_path):
    entries = [{"input": "a", "score": -1.0, "acc": 1.0}, {"input": "a", "score": 1.0, "acc": 0.0}]
    assert read_outcomes(write_responses(tmp_path / "acc", entries), 1, 2, 0.0).tolist() == [[True, False]]
    entries = [{"input": "a", "score": 0.4}, {"input": "b", "score": 0.6}]
    assert read_outcomes(write_responses(tmp_path / "score", entries), 2, 1, 0.5).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("inputs", "said"), [("aab", "holds 3 responses, expected 2 prompts times 2"), ("abab", "one after the other")]
)
def test_responses_that_do_not_fit_the_prompts_are_refused(tmp_path, inputs, said):
    file = write_responses(tmp_path / "responses", [{"input": text, "score": 1.0} for text in inputs])
    with pytest.raises(EvaluationError, match=said):
        read_outcomes(file, prompts=2, responses=2, success_threshold=0.0)


def test_the_success_rates_of_an_evaluation_are_a_prior_and_an_input_of_the_planner(tmp_path):
    texts = ("1+1=", "2+2=", "1+1=")
    prompts = [{"data_source": "sums", "prompt": [{"role": "user", "content": text}]} for text in texts]
    is_right = np.array([[True, False], [False, False], [True, True]])
    file = tmp_path / "success_rates.parquet"
    write_success_rates(file, prompts, "prompt", is_right)
    ids = [prompt_id("sums", row["prompt"]) for row in prompts[:2]]
    assert read_prior(file) == {ids[0]: 0.75, ids[1]: 0.0}
    population = load_population(file, observed_rollouts="rollouts")
    assert sorted(population.success_rates) == [0.0, 0.75]
    assert sorted(sum(population.beliefs)) == [3.0, 5.0]  # two and four rollouts, and one of the common prior
