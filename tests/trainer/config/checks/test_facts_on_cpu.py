"""What is known of the machine: the Ray cluster that would be joined, and whether it answers."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from verl.trainer.config.checks import Facts, facts, look_around
from verl.trainer.config.checks.device import check_cluster, check_device
from verl.trainer.config.checks.facts import RayCluster


@pytest.fixture
def current_cluster(monkeypatch, tmp_path):
    """The file in which Ray leaves the address of this machine's cluster; it is not there."""
    file = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(facts, "CURRENT_CLUSTER_FILE", file)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return file


@pytest.fixture
def listening():
    """host:port at which something accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_an_address_no_cluster_is_joined(current_cluster, monkeypatch):
    assert look_around().cluster is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert look_around().cluster is None


def test_a_cluster_is_named_by_the_environment_or_by_rays_file(current_cluster, listening, monkeypatch):
    current_cluster.write_text(listening)
    assert look_around().cluster == RayCluster(listening, str(current_cluster), answers=True)
    for address in (listening, f"ray://{listening}"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert look_around().cluster == RayCluster(address, "RAY_ADDRESS", answers=True)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "no-port", "127.0.0.1:port"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert look_around().cluster == RayCluster(address, "RAY_ADDRESS", answers=False)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert look_around().cluster.address == listening
    current_cluster.unlink()
    assert look_around().cluster == RayCluster("auto", "RAY_ADDRESS", answers=True)


def silent(address: str, named_by: str = "RAY_ADDRESS") -> Facts:
    return Facts(has_gpu=True, cluster=RayCluster(address, named_by, answers=False))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (silent("head:6379"), ["RAY_ADDRESS=head:6379", "no Ray cluster answers", "unset RAY_ADDRESS"]),
        (silent("head"), ["RAY_ADDRESS=head is not accepted", "host:port"]),
        (silent("10.0.0.1:6379", "/tmp/ray/ray_current_cluster"), ["ray_current_cluster", "ray stop"]),
    ],
)
def test_a_cluster_that_does_not_answer_is_refused(refusal, facts, said):
    message = refusal(check_cluster, {}, facts)
    assert all(part in message for part in said), message
    assert refusal(check_cluster, {}, dataclasses.replace(facts, trains_here=False)) == ""


def test_on_a_cpu_only_a_cluster_that_is_named_counts(refusal):
    on_cpu = {"trainer.device": "cpu"}
    assert refusal(check_cluster, on_cpu, silent("head:6379", "/tmp/ray/ray_current_cluster")) == ""
    assert "RAY_ADDRESS=head:6379" in refusal(check_cluster, on_cpu, silent("head:6379"))


def test_a_dry_run_needs_no_gpu(refusal):
    assert "needs a GPU" in refusal(check_device, {}, Facts())
    assert refusal(check_device, {}, Facts(trains_here=False)) == ""


def test_looking_around_leaves_the_environment_as_it_is(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    seen = look_around(trains_here=False)
    assert seen.environment["RAY_ADDRESS"] == "127.0.0.1:9" and not seen.trains_here


@pytest.mark.parametrize("runs", [True, False])
def test_whether_the_installed_vllm_runs_on_a_cpu_is_a_fact(monkeypatch, runs):
    monkeypatch.setattr(facts, "has_cpu_platform", lambda: runs)
    assert look_around().vllm_runs_on_cpu is runs
