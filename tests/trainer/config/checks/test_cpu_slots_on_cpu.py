"""A cluster with fewer CPU slots than the run occupies is refused: the run would wait for one for ever."""

from __future__ import annotations

import pytest

from verl.trainer.config.checks.cpu_slots import check_cpu_slots, cpu_slots

ROLLOUT = "actor_rollout_ref.rollout"
ON_CPU = {"trainer.device": "cpu", "trainer.n_gpus_per_node": 2}
ASYNC = {f"{ROLLOUT}.mode": "async"}
TP = f"{ROLLOUT}.tensor_model_parallel_size"


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({TP: 1}, 4),
        ({"trainer.nnodes": 2, TP: 1}, 6),
        ({**ASYNC, TP: 1}, 6),
        ({**ASYNC, TP: 2}, 5),
    ],
)
def test_workers_servers_runner_and_reward_need_a_slot_each(config_with, refusal, settings, needed):
    run = {**ON_CPU, **settings}
    assert cpu_slots(config_with(run)) == needed
    assert refusal(check_cpu_slots, run) == ""  # null: as many as needed
    assert refusal(check_cpu_slots, {**run, "ray_init.num_cpus": needed}) == ""
    message = refusal(check_cpu_slots, {**run, "ray_init.num_cpus": needed - 1})
    assert all(part in message for part in (f"ray_init.num_cpus={needed - 1}", f"need {needed}", "Raise it"))


def test_on_gpus_the_slots_are_the_machines_matter(refusal):
    assert refusal(check_cpu_slots, {"trainer.device": "cuda", "ray_init.num_cpus": 1}) == ""
