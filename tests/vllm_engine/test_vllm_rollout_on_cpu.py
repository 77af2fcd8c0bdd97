"""What vLLM generates is what the actor's weights say: after every weight sync, for every row, at every temperature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from recipe.knapsack.tiny.tiny_task import END_OF_SEQUENCE, VOCABULARY, make_tokenizer
from verl import DataProto

# They share two engines.
pytestmark = pytest.mark.xdist_group("vllm_rollout")

LONG, SHORT = 300, 5
PADDED_LENGTH = 320
EOS = VOCABULARY.index(END_OF_SEQUENCE)
AGREEMENT = 1e-4


def random_prompts(count: int, length: int, seed: int = 0) -> list[list[int]]:
    """``count`` different prompts of ``length`` tokens."""
    random = np.random.default_rng(seed)
    return random.integers(1, len(VOCABULARY), (count, length)).tolist()


def batch_of(prompts: list[list[int]], **meta_info: Any) -> DataProto:
    """The batch that the trainer would send for these prompts, one row each."""
    input_ids = torch.zeros(len(prompts), PADDED_LENGTH, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, -len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, -len(prompt) :] = 1
    columns = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
        "raw_prompt_ids": np.fromiter((list(prompt) for prompt in prompts), dtype=object, count=len(prompts)),
    }
    return DataProto.from_single_dict(columns, meta_info={"seed": 0, "global_steps": 1, **meta_info})


def response_mask(output: DataProto) -> torch.Tensor:
    return output.batch["attention_mask"][:, -output.batch["responses"].shape[1] :].bool()


def actor_log_probs(worker: Any, output: DataProto) -> torch.Tensor:
    return worker.compute_log_prob(output).batch["old_log_probs"]


def largest_difference(worker: Any, output: DataProto) -> float:
    """Largest difference, in nats, between vLLM's log-probs and those that the actor computes for the same tokens."""
    difference = actor_log_probs(worker, output) - output.batch["rollout_log_probs"]
    return difference[response_mask(output)].abs().max().item()


def greedy_tokens(worker: Any, prompt: list[int], count: int) -> list[int]:
    """What the actor's own model answers, token by token, by its forward pass on the whole sequence."""
    sequence = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            logits = worker.actor_module_fsdp(input_ids=torch.tensor([sequence])).logits
            sequence.append(int(logits[0, -1].argmax()))
            if sequence[-1] == EOS:
                break
    return sequence[len(prompt) :]


def responses(output: DataProto) -> list[list[int]]:
    return [row[mask].tolist() for row, mask in zip(output.batch["responses"], response_mask(output), strict=True)]


@contextmanager
def changed_weights(worker: Any, seed: int = 0) -> Iterator[None]:
    """Within the context every weight of the actor is another, as after an optimizer's step (a large one)."""
    parameters = [parameter.to_local() for parameter in worker.actor_module_fsdp.parameters()]
    originals = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_greedy_tokens_are_those_of_the_actor_after_every_weight_sync(worker, length):
    prompts = random_prompts(4, length)
    before = responses(worker.generate_sequences(batch_of(prompts, do_sample=False)))
    with changed_weights(worker):
        after = responses(worker.generate_sequences(batch_of(prompts, do_sample=False)))
        assert after == [greedy_tokens(worker, prompt, 8) for prompt in prompts]
    assert before == [greedy_tokens(worker, prompt, 8) for prompt in prompts]
    assert before != after


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_log_probs_agree_with_the_actor_for_repeated_prompts_after_weight_syncs(worker, length):
    prompts = [prompt for prompt in random_prompts(4, length) for _ in range(4)]
    for seed in range(3):
        with changed_weights(worker, seed):
            assert largest_difference(worker, worker.generate_sequences(batch_of(prompts))) < AGREEMENT
    assert largest_difference(worker, worker.generate_sequences(batch_of(prompts))) < AGREEMENT


def test_a_prefix_cache_that_outlives_a_weight_sync_would_be_seen(worker):
    prompts = [prompt for prompt in random_prompts(4, LONG) for _ in range(4)]
    engine = worker.rollout.inference_engine
    # An engine that sleeps drops its prefix cache by itself as well.
    with (
        patch.object(worker.rollout_sharding_manager, "_reset_prefix_cache"),
        patch.object(engine, "reset_prefix_cache"),
    ):
        worker.generate_sequences(batch_of(prompts))
        with changed_weights(worker):
            assert not largest_difference(worker, worker.generate_sequences(batch_of(prompts))) < 0.01
    engine.reset_prefix_cache()


def test_weights_that_sleep_or_were_not_given_to_the_engine_would_be_seen(worker):
    with patch.object(worker.rollout_sharding_manager, "update_params"), changed_weights(worker, seed=7):
        prompts = random_prompts(4, SHORT)
        assert not largest_difference(worker, worker.generate_sequences(batch_of(prompts))) < 0.01


@contextmanager
def unfinished_request(worker: Any) -> Iterator[None]:
    """Within the context, the engine has begun to answer a request that holds blocks of its cache."""
    from vllm import SamplingParams

    engine = worker.rollout.inference_engine.llm_engine
    with patch.object(worker.rollout.inference_engine, "sleep"):  # which would be of an engine at work
        with worker.rollout_sharding_manager:
            prompt = {"prompt_token_ids": random_prompts(1, LONG)[0]}
            engine.add_request("unfinished", prompt, SamplingParams(max_tokens=8))
            engine.step()
    yield
    engine.abort_request(["unfinished"])


def test_an_engine_that_keeps_its_prefix_cache_is_an_error(worker):
    with unfinished_request(worker), pytest.raises(RuntimeError, match="did not drop its prefix cache"):
        worker.generate_sequences(batch_of(random_prompts(1, SHORT)))
    assert largest_difference(worker, worker.generate_sequences(batch_of(random_prompts(2, LONG)))) < AGREEMENT


@pytest.mark.needs_gpu_pins
def test_the_scheduler_of_an_asynchronous_engine_does_not_keep_its_prefix_cache_in_silence(worker, monkeypatch):
    from verl.workers.rollout.vllm_rollout.engine_core import StrictScheduler

    scheduler = worker.rollout.inference_engine.llm_engine.engine_core.engine_core.scheduler
    monkeypatch.setattr(scheduler, "__class__", StrictScheduler)
    with unfinished_request(worker), pytest.raises(RuntimeError, match=r"prefix cache .*\(1 requests still running"):
        scheduler.reset_prefix_cache()
    assert scheduler.reset_prefix_cache()


def test_log_probs_are_those_of_the_distribution_sampled_from(worker):
    prompts = random_prompts(8, SHORT)
    with worker.rollout_sharding_manager:
        output = worker.rollout.generate_sequences(batch_of(prompts, eos_token_id=EOS), temperature=1.7)
    assert largest_difference(worker, output) > 0.01
    worker.config.rollout.temperature = 1.7
    try:
        assert largest_difference(worker, output) < AGREEMENT
    finally:
        worker.config.rollout.temperature = 1.0


def test_padding_has_log_prob_zero(worker):
    output = worker.generate_sequences(batch_of(random_prompts(16, SHORT)))
    padding = ~response_mask(output)
    assert padding.any()
    assert (output.batch["rollout_log_probs"][padding] == 0).all()
    assert output.batch["rollout_log_probs"].dtype == torch.float32


def test_the_same_seed_and_step_give_the_same_rollouts_whatever_came_before(worker):
    prompts = [prompt for prompt in random_prompts(4, SHORT) for _ in range(8)]
    first = responses(worker.generate_sequences(batch_of(prompts)))
    worker.generate_sequences(batch_of(random_prompts(3, LONG), global_steps=7))
    torch.rand(5), np.random.rand(5)
    assert responses(worker.generate_sequences(batch_of(prompts))) == first


@pytest.mark.parametrize("other", [{"seed": 1}, {"global_steps": 2}, {"validate": True, "do_sample": True}])
def test_another_seed_step_or_a_validation_gives_other_rollouts(worker, other):
    prompts = [prompt for prompt in random_prompts(4, SHORT) for _ in range(8)]
    first = responses(worker.generate_sequences(batch_of(prompts)))
    assert responses(worker.generate_sequences(batch_of(prompts, **other))) != first


def test_rollouts_of_one_prompt_differ(worker):
    prompt = random_prompts(1, SHORT)[0]
    sampled = responses(worker.generate_sequences(batch_of([prompt] * 16)))
    assert len({tuple(response) for response in sampled}) > 4


def test_sampling_leaves_the_random_numbers_of_others_alone(worker):
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(0)
    np.random.seed(0)
    worker.generate_sequences(batch_of(random_prompts(4, SHORT)))
    torch.testing.assert_close(torch.rand(3), expected[0], rtol=0, atol=0)
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def test_rows_come_back_in_their_order_with_uneven_repeats(worker):
    tokenizer = make_tokenizer()
    ids = ["407", "123", "998", "010", "555"]
    prompts = [tokenizer(f"k{digits}=")["input_ids"] for digits in ids]
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [1, 9, 2, 6, 3]))
    output = worker.generate_sequences(batch_of([prompts[index] for index in order], do_sample=False))
    answers = tokenizer.batch_decode(output.batch["responses"], skip_special_tokens=True)
    assert answers == [f".{ids[index]}" for index in order]
    assert [row[-SHORT:].tolist() for row in output.batch["prompts"]] == [prompts[index] for index in order]
