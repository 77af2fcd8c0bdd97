"""Rollout engines that could not run are refused before Ray starts, by the device and by vLLM's version."""

from __future__ import annotations

import hydra
import pytest
from packaging.version import Version

from verl.trainer.config.checks import ConfigError, Facts, engine
from verl.trainer.config.checks.engine import check_rollout_engine

NAME, MODE = "actor_rollout_ref.rollout.name", "actor_rollout_ref.rollout.mode"
ASLEEP = "actor_rollout_ref.rollout.free_cache_engine"
LOG_PROBS = "actor_rollout_ref.rollout.calculate_log_probs"
ASYNC = (f"{MODE}=async", "data.return_raw_chat=true")
LORA = "actor_rollout_ref.model.lora_rank"
FORMAT = "actor_rollout_ref.rollout.load_format"
WHOLE = f"{FORMAT}=safetensors"
ON_CPU = ("trainer.device=cpu", "trainer.n_gpus_per_node=2")


def compose(*overrides: str):
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose("knapsack_trainer", overrides=list(overrides))


def with_vllm(version: str | None, has_plugin: bool = False) -> Facts:
    """The facts of a machine that has this vLLM, built for CPUs where it ends in +cpu, with a plug-in or not."""
    if version is None:
        return Facts()
    return Facts(vllm=Version(version), vllm_runs_on_cpu=has_plugin or version.endswith("+cpu"))


@pytest.fixture(autouse=True)
def _no_platform_that_sleeps(monkeypatch):
    """Whatever platform the tests with a vLLM have put on the path of this process."""
    monkeypatch.setattr(engine, "engine_can_sleep_on_cpu", lambda: False)


@pytest.mark.parametrize(
    ("version", "overrides"),
    [
        (None, ["trainer.device=cpu", f"{NAME}=hf"]),
        (None, [f"{NAME}=vllm"]),
        (None, [f"{NAME}=vllm", *ASYNC]),
        (None, [f"{NAME}=vllm", *ASYNC, "algorithm.adv_estimator=remax"]),
        ("0.10.2", [f"{NAME}=vllm", *ASYNC, f"{LORA}=8"]),
        ("0.10.2", [f"{NAME}=vllm", *ASYNC, "exploration.rollout_is_cap=2", f"{LOG_PROBS}=true"]),
        (None, [f"{NAME}=vllm", f"{LOG_PROBS}=true"]),
        ("0.8.5", [f"{NAME}=vllm", f"{LOG_PROBS}=false"]),
        ("0.8.5", [f"{NAME}=hf", f"{LOG_PROBS}=true"]),
        ("0.10.2rc1", [f"{NAME}=vllm", f"{LOG_PROBS}=true"]),
        ("0.10.2", [f"{NAME}=vllm", f"{LOG_PROBS}=true"]),
        ("0.10.2", [f"{NAME}=vllm", f"{LORA}=8", WHOLE]),
        ("0.11.2", [f"{NAME}=vllm", f"{LORA}=8", WHOLE]),
        ("0.28.0", [f"{NAME}=vllm"]),
        ("0.28.0+cpu", ["trainer.device=cpu", f"{NAME}=vllm", f"{ASLEEP}=false"]),
    ],
)
def test_what_runs_is_accepted(version, overrides):
    check_rollout_engine(compose(*overrides), with_vllm(version))


@pytest.mark.parametrize(
    ("version", "overrides", "said"),
    [
        (None, [f"{NAME}=vllm", f"{MODE}=asynchronous"], [f"{MODE}='asynchronous'", "sync or async"]),
        (None, [f"{NAME}=hf", *ASYNC], [f"{MODE}=async", f"{NAME}=hf", "mode=sync"]),
        (None, [f"{NAME}=vllm", *ASYNC, f"{ASLEEP}=false"], [f"{ASLEEP}=false", "weights", "mode=sync"]),
        (None, [f"{NAME}=sglang", *ASYNC, "exploration.rollout_is_cap=2"], ["rollout_is_cap=2", "mode=sync"]),
        (None, [f"{NAME}=vllm", f"{MODE}=async"], ["data.return_raw_chat=true", "mode=sync"]),
        ("0.28.0", [f"{NAME}=vllm", *ASYNC], [f"{MODE}=async", "0.28.0", "mode=sync", "0.10.2"]),
        (None, [f"{NAME}=vllm", "trainer.device=cpu"], ["not installed", "make_vllm_environment.sh", f"{NAME}=hf"]),
        ("0.28.0+cpu", [f"{NAME}=vllm", "trainer.device=cpu"], [f"{ASLEEP}=true", "0.28.0+cpu", "set it to false"]),
        (
            "0.10.2",
            [f"{NAME}=vllm", "trainer.device=cpu", f"{ASLEEP}=false"],
            ["0.10.2 is built for GPUs", f"{NAME}=hf"],
        ),
        ("0.10.2", [f"{NAME}=vllm", f"{LORA}=8"], [f"{FORMAT}=dummy_dtensor", f"{LORA}=8", "load_format=safetensors"]),
        (None, [f"{NAME}=vllm", f"{LORA}=8", f"{FORMAT}=dummy_hf"], [f"{FORMAT}=dummy_hf", "load_format=safetensors"]),
        (
            "0.8.5",
            [f"{NAME}=vllm", f"{LOG_PROBS}=true"],
            [f"{LOG_PROBS}=true", "0.10.2", "0.8.5 is installed", "Set it to false", "requirements/vllm.txt"],
        ),
        ("0.10.1.1", [f"{NAME}=vllm", f"{LOG_PROBS}=true"], [f"{LOG_PROBS}=true", "0.10.1.1 is installed"]),
        ("0.12.0", [f"{NAME}=vllm", f"{LORA}=8", WHOLE], [f"{LORA}=8", "0.12.0", "0.10.2"]),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_do(version, overrides, said):
    with pytest.raises(ConfigError) as refusal:
        check_rollout_engine(compose(*overrides), with_vllm(version))
    assert all(part in str(refusal.value) for part in said)
    assert "\n" not in str(refusal.value)


def test_asynchronous_rollouts_on_a_cpu_need_a_platform_that_sleeps(monkeypatch):
    run = compose(f"{NAME}=vllm", *ON_CPU, *ASYNC)
    monkeypatch.setattr(engine, "engine_can_sleep_on_cpu", lambda: True)
    check_rollout_engine(run, with_vllm("0.10.2", has_plugin=True))
    monkeypatch.setattr(engine, "engine_can_sleep_on_cpu", lambda: False)
    with pytest.raises(ConfigError, match=f"{ASLEEP}=true needs"):
        check_rollout_engine(run, with_vllm("0.10.2", has_plugin=True))
