"""Uneven budgets through verl's agent loop with a tool: a conversation is one rollout, of the model's own tokens."""

from __future__ import annotations

import signal
from pathlib import Path

import pandas as pd
import pytest
from run_checks import TOTAL_BUDGET, assert_identities_agree, dumped_rollouts, history_of, steps_of
from test_training_as_on_gpus_on_cpu import ASYNC, ONE_LOOP, ROLLOUT

from knapsack_rl.metrics_file import read_metrics

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.slow,
    pytest.mark.needs_gpu_pins,
    pytest.mark.xdist_group("several_turns"),
]

STEPS, FIRST_UNEVEN = 5, 3


@pytest.fixture(scope="module")
def conversations(copying_task, start_run, tmp_path_factory) -> Path:
    """A run of five steps, of which the first two are the first epoch, ended by Ctrl-C; its rollouts are dumped."""
    from lookup_tool import AGENT, write_configuration

    folder = tmp_path_factory.mktemp("conversations")
    agents, tools = write_configuration(folder)
    prompts = pd.read_parquet(copying_task / "train.parquet")
    prompts["agent_name"] = AGENT
    prompts.to_parquet(folder / "train.parquet")
    training = start_run(
        folder,
        *ASYNC,
        ONE_LOOP,
        f"{ROLLOUT}.free_cache_engine=true",
        "trainer.total_training_steps=1000",
        # The history of steps is written with a checkpoint.
        f"trainer.save_freq={STEPS}",
        f"trainer.rollout_data_dir={folder}/rollouts",
        f"data.train_files={folder}/train.parquet",
        "data.max_response_length=16",
        "actor_rollout_ref.actor.optim.lr=0",
        f"{ROLLOUT}.agent.agent_loop_config_path={agents}",
        f"{ROLLOUT}.multi_turn.enable=true",
        f"{ROLLOUT}.multi_turn.max_assistant_turns=2",
        f"{ROLLOUT}.multi_turn.tool_config_path={tools}",
        f"custom_reward_function.path={Path(__file__).parent}/lookup_tool.py",
    )
    training.wait_until(lambda: steps_of(folder) >= STEPS, f"step {STEPS}")
    training.process.send_signal(signal.SIGINT)
    training.assert_it_ends_and_nothing_is_left()
    return folder


def first_steps(run: Path) -> pd.DataFrame:
    history = history_of(run)
    return history[history["step"] <= STEPS]


def tool_calls_by_step(run: Path) -> pd.Series:
    from lookup_tool import SAID_BY_TOOL

    rollouts = dumped_rollouts(run / "rollouts", STEPS)
    return rollouts["output"].str.count(SAID_BY_TOOL).groupby(rollouts["step"]).sum()


def test_the_status_counts_a_conversation_as_one_rollout(conversations, copying_task):
    rollouts, history = dumped_rollouts(conversations / "rollouts", STEPS), first_steps(conversations)
    assert (tool_calls_by_step(conversations) > TOTAL_BUDGET / 2).all()
    assert_identities_agree(rollouts, history, pd.read_parquet(copying_task / "train.parquet"))
    assert history.groupby("step")["budget"].sum().tolist() == [TOTAL_BUDGET] * STEPS
    assert history["successes"].sum() > 0
    assert history[history["step"] >= FIRST_UNEVEN]["budget"].nunique() > 1


def test_lengths_count_the_models_tokens(conversations):
    from lookup_tool import TOOL_TOKENS

    of_model = first_steps(conversations).groupby("step")["response_tokens"].sum()
    of_all = {
        record["step"]: round(record["response_length/mean"] * TOTAL_BUDGET)
        for record in read_metrics(conversations)[:STEPS]
    }
    assert (of_model + TOOL_TOKENS * tool_calls_by_step(conversations)).to_dict() == of_all


def test_log_probs_stand_at_the_models_tokens_of_every_turn(conversations):
    differences = [record["training/rollout_probs_diff_max"] for record in read_metrics(conversations)[:STEPS]]
    assert len(differences) == STEPS and max(differences) < 1e-4
