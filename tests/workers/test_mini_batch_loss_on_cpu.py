"""The gradient of a mini-batch does not depend on how it is cut into micro-batches and dealt to workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mini_batch_updates import (
    LOSS_AGG_MODES,
    ROWS,
    make_rows,
    section,
    uneven_lengths,
    update,
    update_on_workers,
)
from omegaconf import OmegaConf

from knapsack_rl.dispatch import packed_order
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_policy_loss
from verl.workers.mini_batch_loss import BatchSize, global_mini_batch_sizes, loss_scale_by, micro_batch_weight

CUTS = {
    "fixed-32": ["ppo_micro_batch_size_per_gpu=32"],
    "fixed-8": ["ppo_micro_batch_size_per_gpu=8"],
    "fixed-48": ["ppo_micro_batch_size_per_gpu=48"],  # does not divide the mini-batch
    "dynamic-300": ["use_dynamic_bsz=true", "ppo_max_token_len_per_gpu=300"],
    "dynamic-40": ["use_dynamic_bsz=true", "ppo_max_token_len_per_gpu=40"],
}
ROLES = ("actor", "critic")


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def uncut(role: str, rows: int, mode: str, *overrides: str):
    return section(role, rows, f"ppo_micro_batch_size_per_gpu={rows}", f"loss_agg_mode={mode}", *overrides)


def assert_same_gradients(ours, expected):
    assert len(ours) == len(expected) > 0
    for our, other in zip(ours, expected, strict=True):
        assert torch.linalg.norm(our - other) <= 1e-5 * torch.linalg.norm(other)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
@pytest.mark.parametrize("role", ROLES)
def test_gradient_and_loss_of_an_uncut_mini_batch_for_every_cut(role, mode, cut):
    data = make_rows(uneven_lengths())
    whole = update(role, data, uncut(role, ROWS, mode))
    in_parts = update(role, data, section(role, ROWS, f"loss_agg_mode={mode}", *CUTS[cut]))
    assert_same_gradients(in_parts["gradients"], whole["gradients"])
    assert in_parts["metrics"].keys() == whole["metrics"].keys()
    for name, values in whole["metrics"].items():
        if name != "actor/kl_coef":  # a constant, told once for each micro-batch
            assert in_parts["metrics"][name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("role", ROLES)
def test_an_uncut_mini_batch_has_upstreams_gradient_and_metrics_to_the_last_bit(role):
    data = make_rows(uneven_lengths())
    for mode in LOSS_AGG_MODES:
        ours = update(role, data, uncut(role, ROWS, mode))
        upstreams = update(role, data, uncut(role, ROWS, mode, "loss_scale_by=micro_batch"))
        assert torch.equal(ours["gradients"][0], upstreams["gradients"][0])
        assert ours["metrics"] == upstreams["metrics"]


def test_loss_scale_by_micro_batch_keeps_upstreams_dependence_on_the_cut():
    data = make_rows(uneven_lengths())
    cuts = [
        update("actor", data, section("actor", ROWS, f"loss_agg_mode={mode}", "loss_scale_by=micro_batch", size))
        for mode in ("seq-mean-token-sum-norm", "token-mean")
        for size in ("ppo_micro_batch_size_per_gpu=128", "ppo_micro_batch_size_per_gpu=8")
    ]
    norm_whole, norm_cut, tokens_whole, tokens_cut = (cut["gradients"][0] for cut in cuts)
    torch.testing.assert_close(norm_whole, 16 * norm_cut, rtol=1e-3, atol=1e-5)
    assert torch.linalg.norm(tokens_whole - tokens_cut) > 0.05 * torch.linalg.norm(tokens_whole)


@pytest.mark.parametrize("cut", ["fixed-8", "dynamic-40"])
def test_every_mini_batch_of_every_epoch_has_its_own_gradient(cut):
    data = make_rows(uneven_lengths())
    ours = update("actor", data, section("actor", 32, "ppo_epochs=2", *CUTS[cut]))
    alone = [update("actor", part, uncut("actor", 32, "token-mean"))["gradients"][0] for part in data.split(32)]
    assert_same_gradients(ours["gradients"], alone * 2)
    assert len(ours["metrics"]["actor/pg_loss"]) == len(ours["metrics"]["actor/grad_norm"]) == 8


def test_a_last_mini_batch_of_fewer_rows_is_no_smaller():
    data = make_rows(uneven_lengths())
    for size in ("ppo_micro_batch_size_per_gpu=24", "ppo_micro_batch_size_per_gpu=12"):
        ours = update("actor", data, section("actor", 48, size, "loss_agg_mode=seq-mean-token-mean"))
        rest = update("actor", data[96:], uncut("actor", 32, "seq-mean-token-mean"))
        assert_same_gradients(ours["gradients"][2:], rest["gradients"])


@pytest.mark.parametrize("loss_mode", ["gpg", "of_a_user"])
def test_other_policy_losses_do_not_depend_on_the_cut(loss_mode, monkeypatch):
    monkeypatch.setattr("verl.trainer.ppo.core_algos.POLICY_LOSS_REGISTRY", POLICY_LOSS_REGISTRY)
    monkeypatch.delitem(POLICY_LOSS_REGISTRY, "of_a_user", raising=False)

    @register_policy_loss("of_a_user")
    def of_a_user(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config):
        """Aggregates by itself, without the function that upstream's losses use."""
        assert loss_agg_mode == "token-mean"
        loss = -(advantages * (log_prob - old_log_prob) * response_mask).sum() / response_mask.sum()
        return loss, torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)

    data = make_rows(uneven_lengths())
    whole = update("actor", data, uncut("actor", ROWS, "token-mean", f"policy_loss.loss_mode={loss_mode}"))
    for cut in CUTS.values():
        in_parts = update("actor", data, section("actor", ROWS, f"policy_loss.loss_mode={loss_mode}", *cut))
        assert_same_gradients(in_parts["gradients"], whole["gradients"])


def rows_in_packed_order():
    """Rollouts of prompts with uneven budgets and lengths, in the order in which two workers are sent them."""
    budgets = np.array([2, 2, 4, 8, 16, 32, 64])
    lengths = np.array([11, 9, 7, 5, 3, 2, 1])
    order = packed_order(budgets, 2, expected_tokens=lengths.astype(float))
    return make_rows(lengths[order])


@pytest.mark.slow
def test_two_workers_have_the_gradient_of_one(tmp_path):
    """Rows sorted by length, so that one worker has the long ones, and rows packed by prompt."""
    batches = {"sorted": make_rows(np.sort(uneven_lengths())), "packed": rows_in_packed_order()}
    jobs = [
        (role, mode, cut, name)
        for role in ROLES
        for mode in LOSS_AGG_MODES
        for cut, name in (("fixed-32", "packed"), ("dynamic-300", "sorted"))
    ]
    updates = [
        (role, batches[name], section(role, ROWS // 2, f"loss_agg_mode={mode}", *CUTS[cut]))
        for role, mode, cut, name in jobs
    ]
    first, second = update_on_workers(2, tmp_path, updates)
    for (role, mode, _, name), on_first, on_second in zip(jobs, first, second, strict=True):
        whole = update(role, batches[name], uncut(role, ROWS, mode))
        assert_same_gradients(on_first["gradients"], whole["gradients"])
        for metric in set(whole["metrics"]) - {"actor/kl_coef"}:
            for metrics in (on_first["metrics"], on_second["metrics"]):
                assert metrics[metric] == pytest.approx(whole["metrics"][metric], rel=1e-4, abs=1e-6), metric


def test_a_mini_batch_without_tokens_weighs_nothing():
    assert micro_batch_weight("token-mean", BatchSize(4, 0), BatchSize(8, 0)) == 0.0
    with pytest.raises(ValueError, match="'seq-median' has no known weights"):
        micro_batch_weight("seq-median", BatchSize(4, 8), BatchSize(8, 16))


def test_an_unknown_loss_scale_is_refused_with_what_is_accepted():
    assert loss_scale_by(OmegaConf.create({})) == "mini_batch"
    with pytest.raises(
        ValueError, match="loss_scale_by='batch' is not accepted: expected one of mini_batch, micro_batch"
    ):
        loss_scale_by(OmegaConf.create({"loss_scale_by": "batch"}))


def test_rows_that_several_workers_hold_count_once():
    mask = make_rows(uneven_lengths()).batch["response_mask"]
    sizes = global_mini_batch_sizes(mask, 48)
    assert [size.rows for size in sizes] == [48, 48, 32] and sum(size.tokens for size in sizes) == mask.sum()
    doubled = torch.cat([torch.cat([part, part]) for part in mask.split(48)])
    assert global_mini_batch_sizes(doubled, 96, copies=2) == sizes
