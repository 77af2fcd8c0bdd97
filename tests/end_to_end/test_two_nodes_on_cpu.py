"""A Ray cluster of two nodes of which only one can read the checkout: the overlay travels to the other through Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster

from knapsack_rl.history import read_history
from knapsack_rl.metrics_file import read_metrics

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

REPORT_WORKER = Path(__file__).parent / "report_worker.py"

# Python runs this at start-up where it is on the path. To the processes of such a node the checkout looks absent, but
# not a virtual environment in it (`make env` puts it there): every node has the packages installed.
HIDE_CHECKOUT = """
import os
import sys


def is_inside(path, folder):
    return os.path.commonpath([path, folder]) == folder


def refuse(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if is_inside(path, {checkout!r}) and not is_inside(path, os.path.realpath(sys.prefix)):
            raise FileNotFoundError(2, "not on this node", path)


sys.addaudithook(refuse)
"""


@pytest.fixture
def environment_without_checkout(repository: Path, tmp_path: Path) -> dict[str, str]:
    """Environment of a node whose processes cannot read the checkout."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE_CHECKOUT.format(checkout=str(repository.resolve())))
    (folder / REPORT_WORKER.name).write_text(REPORT_WORKER.read_text())
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def two_nodes(workers, repository: Path, environment_without_checkout: dict[str, str]) -> Iterator[Cluster]:
    """Two nodes: room for one worker on the head, for the trainer and one worker where the driver will be."""
    with_checkout = {"PYTHONPATH": os.pathsep.join([str(repository), str(REPORT_WORKER.parent)])}
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1, env_vars=environment_without_checkout)
        # A driver joins through the last node that this machine started, and tells nodes apart by their addresses.
        cluster.add_node(num_cpus=2, env_vars=with_checkout, node_ip_address="127.0.0.2")
        cluster.wait_for_nodes()
        reset_ray_address()  # only the run that is given the address may join, not whatever starts Ray at the same time
        yield cluster
    finally:
        cluster.shutdown()


def test_nodes_with_and_without_the_checkout_train_together(
    train, two_nodes, workers, repository, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    run = train(
        tmp_path / "run",
        "trainer.nnodes=2",
        "trainer.n_gpus_per_node=1",
        "trainer.total_training_steps=3",
        f"actor_rollout_ref.model.external_lib={REPORT_WORKER.stem}",
    )
    first, second = workers()
    assert first["node"] != second["node"]
    remote = first if first["node"] == two_nodes.head_node.node_id else second
    assert not Path(remote["verl"]).is_relative_to(repository)
    history = read_history(run.run_folder / "history").to_pandas()
    assert history.groupby("step")["budget"].sum().tolist() == [64] * 3
    assert all(step["training/rollout_probs_diff_max"] < 1e-4 for step in read_metrics(run.run_folder))
