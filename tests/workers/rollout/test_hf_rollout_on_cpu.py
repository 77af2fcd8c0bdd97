"""The transformers rollout against teacher forcing, alone and under FSDP, and its sampling against what was asked."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
import torch.multiprocessing
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from verl import DataProto
from verl.workers.rollout import HFRollout
from verl.workers.rollout.decoding import Decoder, pack_prompts
from verl.workers.rollout.replica import ModelReplica
from verl.workers.rollout.sampling import SamplingParams, TokenSampler, make_generator, resolve_sampling_params

CPU = torch.device("cpu")
VOCABULARY = 50
PAD = 0
ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
}


def make_model(architecture="qwen2", **overrides):
    config_class, model_class, extra = ARCHITECTURES[architecture]
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
    }
    torch.manual_seed(0)
    return model_class(config_class(**{**settings, **extra, **overrides}))


def make_prompts(*rows, width=None, padding=PAD, **meta_info):
    """Left-padded prompts, as verl's dataset makes them."""
    width = width or max(map(len, rows))
    input_ids = torch.tensor([[padding] * (width - len(row)) + list(row) for row in rows])
    attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    batch = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(dim=-1) - 1).clamp(min=0),
    }
    return DataProto.from_dict(batch, meta_info={"eos_token_id": 1, "pad_token_id": PAD, **meta_info})


def random_prompts(count=12, distinct=7, width=11, seed=0, **meta_info):
    """Prompts of different lengths, some of them several times."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(2, VOCABULARY, size=rng.integers(1, width - 1)).tolist() for _ in range(distinct)]
    return make_prompts(*(rows[index % distinct] for index in rng.permutation(count)), width=width, **meta_info)


def make_rollout(model, **config):
    defaults = {
        "response_length": 12,
        "dtype": "float32",
        "do_sample": True,
        "temperature": 1.0,
        "top_k": -1,
        "top_p": 1.0,
        "n": 1,
        "val_kwargs": {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "do_sample": True},
    }
    return HFRollout(model, OmegaConf.create({**defaults, **config}))


@torch.no_grad()
def teacher_forcing(model, output, temperature=1.0):
    """The model's own logits (rows, response_length, vocabulary) for each response token, in one full forward pass."""
    response_length = output.batch["responses"].shape[1]
    was_training = model.training
    logits = model.eval()(
        input_ids=output.batch["input_ids"],
        attention_mask=output.batch["attention_mask"],
        position_ids=output.batch["position_ids"],
        use_cache=False,
    ).logits
    model.train(was_training)
    return logits[:, -response_length - 1 : -1].float() / temperature


def response_mask(output):
    return output.batch["attention_mask"][:, output.batch["prompts"].shape[1] :].bool()


def assert_agrees_with_teacher_forcing(model, output, temperature=1.0, tolerance=1e-4):
    expected = teacher_forcing(model, output, temperature).log_softmax(dim=-1)
    expected = expected.gather(-1, output.batch["responses"].unsqueeze(-1)).squeeze(-1)
    mask = response_mask(output)
    assert mask[:, 0].all()
    difference = (output.batch["rollout_log_probs"] - expected)[mask].abs().max()
    assert difference < tolerance


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_the_models_argmax(architecture, attention):
    model = make_model(architecture, attn_implementation=attention)
    output = make_rollout(model).generate_sequences(random_prompts(do_sample=False, eos_token_id=[1, 2, 3]))
    mask = response_mask(output)
    assert (output.batch["responses"] == teacher_forcing(model, output).argmax(dim=-1))[mask].all()
    assert_agrees_with_teacher_forcing(model, output)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_of_sampled_tokens_are_those_the_actor_recomputes(architecture, temperature):
    model = make_model(architecture)
    rollout = make_rollout(model, temperature=temperature, top_k=20, top_p=0.9)
    output = rollout.generate_sequences(random_prompts(count=64, eos_token_id=[1, 2, 3]))
    assert_agrees_with_teacher_forcing(model, output, temperature)


def test_each_row_yields_one_sequence_whatever_n_is():
    prompts = random_prompts(count=5)
    output = make_rollout(make_model(), n=8).generate_sequences(prompts)
    assert len(output) == 5
    assert output.batch["prompts"].equal(prompts.batch["input_ids"])


def test_output_holds_prompt_and_response_with_running_positions():
    output = make_rollout(make_model(), response_length=3).generate_sequences(make_prompts([5], [6, 7, 8]))
    batch = output.batch
    assert batch["input_ids"].equal(torch.cat([batch["prompts"], batch["responses"]], dim=1))
    assert batch["attention_mask"][:, :3].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert batch["rollout_log_probs"].shape == (2, 3)
    assert batch["rollout_log_probs"].dtype == torch.float32


def test_responses_end_at_the_first_of_several_end_tokens():
    ends = [1, 7, 9, 11, 13, 15]
    output = make_rollout(make_model(), temperature=5.0).generate_sequences(
        random_prompts(count=200, eos_token_id=ends)
    )
    lengths = response_mask(output).sum(dim=-1).tolist()
    assert {1, 2, 3, 12} <= set(lengths)
    last_tokens = set()
    for row, length in enumerate(lengths):
        tokens = output.batch["responses"][row].tolist()
        assert not set(ends) & set(tokens[: length - 1])
        assert tokens[length - 1] in ends or length == 12
        assert tokens[length:] == [PAD] * (12 - length)
        assert output.batch["rollout_log_probs"][row, length:].eq(0).all()
        assert output.batch["rollout_log_probs"][row, :length].lt(0).all()
        last_tokens |= {tokens[length - 1]}
    assert set(ends) <= last_tokens


def test_the_end_of_sequence_pads_where_the_model_names_no_padding():
    prompts = random_prompts(count=200, eos_token_id=[3, 4], pad_token_id=None)
    output = make_rollout(make_model(), temperature=5.0).generate_sequences(prompts)
    assert (output.batch["responses"][~response_mask(output)] == 3).all()
    assert not response_mask(output).all()


def test_ignore_eos_generates_to_the_limit():
    prompts = random_prompts(count=200, eos_token_id=[2, 3, 4, 5])
    output = make_rollout(make_model(), temperature=5.0, ignore_eos=True).generate_sequences(prompts)
    assert (output.batch["rollout_log_probs"] < 0).all()


def test_a_prompt_is_answered_alike_alone_in_a_batch_and_with_other_padding():
    model = make_model()
    rows = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [8]]
    greedy = {"do_sample": False}
    together = make_rollout(model).generate_sequences(make_prompts(*rows, width=20, padding=33, **greedy))
    for index, row in enumerate(rows):
        alone = make_rollout(model).generate_sequences(make_prompts(row, **greedy))
        assert alone.batch["responses"][0].equal(together.batch["responses"][index])
        torch.testing.assert_close(
            alone.batch["rollout_log_probs"][0], together.batch["rollout_log_probs"][index], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("micro_batch_size", [1, 3, 5, 1000])
def test_micro_batches_change_nothing(micro_batch_size):
    model = make_model()
    prompts = random_prompts(count=23, distinct=5, do_sample=False)
    expected = make_rollout(model).generate_sequences(prompts)
    output = make_rollout(model, micro_batch_size=micro_batch_size).generate_sequences(prompts)
    assert output.batch["responses"].equal(expected.batch["responses"])
    torch.testing.assert_close(
        output.batch["rollout_log_probs"], expected.batch["rollout_log_probs"], atol=1e-5, rtol=0
    )


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=30), max_rows=st.integers(1, 12))
def test_packing_keeps_every_prompt_once_in_order_within_the_limit(rows, max_rows):
    runs = list(pack_prompts(rows, max_rows))
    assert [prompt for run in runs for prompt in run] == list(range(len(rows)))
    assert all(len(run) == 1 or sum(rows[prompt] for prompt in run) <= max_rows for run in runs)
    assert all(len(run) >= 1 for run in runs)
    assert all(sum(rows[prompt] for prompt in run) + rows[run.stop] > max_rows for run in runs if run.stop < len(rows))


def record_forward_shapes(model):
    shapes = []
    model.register_forward_pre_hook(lambda _, __, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True)
    return shapes


@pytest.mark.parametrize("max_rows", [1000, 7])
def test_each_distinct_prompt_is_prefilled_once(max_rows):
    model = make_model().eval()
    shapes = record_forward_shapes(model)
    prompts = random_prompts(count=60, distinct=6)
    sampler = TokenSampler(SamplingParams(), make_generator(CPU, 0))
    decoder = Decoder(model, sampler, eos_token_ids=[], pad_token_id=PAD, response_length=4, max_rows=max_rows)
    decoder.generate(prompts.batch["input_ids"], prompts.batch["attention_mask"])
    assert sum(rows for rows, tokens in shapes if tokens > 1) == 6
    assert max(rows for rows, _ in shapes) <= max_rows
    assert sum(rows for rows, tokens in shapes if tokens == 1) == 60 * 3


def test_finished_rows_leave_the_running_batch_and_the_last_one_ends_it():
    model = make_model().eval()
    shapes = record_forward_shapes(model)
    prompts = random_prompts(count=64)
    step = iter(range(100))

    def half_of_the_rows_end(logits):
        tokens = torch.full((len(logits),), 5)
        tokens[::2] = 1
        next(step)
        return tokens, torch.full((len(logits),), -1.0)

    decoder = Decoder(model, half_of_the_rows_end, eos_token_ids=[1], pad_token_id=PAD, response_length=50, max_rows=64)
    responses = decoder.generate(prompts.batch["input_ids"], prompts.batch["attention_mask"])
    assert [rows for rows, tokens in shapes if tokens == 1] == [32, 16, 8, 4, 2, 1]
    lengths = responses.log_probs.ne(0).sum(dim=-1).tolist()
    assert Counter(lengths) == {1: 32, 2: 16, 3: 8, 4: 4, 5: 2, 6: 1, 7: 1}


def test_a_call_repeats_exactly_and_every_seed_matters():
    rollout = make_rollout(make_model())

    def responses(**meta_info):
        return rollout.generate_sequences(random_prompts(**meta_info)).batch["responses"]

    first = responses(seed=3, global_steps=7)
    assert first.equal(responses(seed=3, global_steps=7))
    assert not first.equal(responses(seed=4, global_steps=7))
    assert not first.equal(responses(seed=3, global_steps=8))
    assert not first.equal(responses(seed=3, global_steps=7, validate=True))
    torch.rand(5)
    assert first.equal(responses(seed=3, global_steps=7))


def test_copies_of_a_prompt_get_different_samples():
    output = make_rollout(make_model()).generate_sequences(make_prompts(*[[5, 6, 7]] * 16))
    assert len({tuple(row) for row in output.batch["responses"].tolist()}) > 12


def test_sampling_leaves_the_global_random_state_alone():
    rollout = make_rollout(make_model())
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rollout.generate_sequences(random_prompts())
    assert torch.rand(3).equal(expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_at_the_temperature(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])
    sampler = TokenSampler(SamplingParams(temperature=temperature), make_generator(CPU, 1))
    tokens, log_probs = sampler(logits.expand(40_000, -1))
    probabilities = (logits / temperature).softmax(dim=-1)
    counts = tokens.bincount(minlength=5).numpy()
    assert (
        chisquare(counts, probabilities.double().numpy() / probabilities.double().sum().item() * 40_000).pvalue > 0.01
    )
    torch.testing.assert_close(log_probs.exp(), probabilities[tokens])


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        (SamplingParams(top_k=2), {0, 1}),
        (SamplingParams(top_k=1), {0}),
        (SamplingParams(top_p=0.6), {0, 1}),
        (SamplingParams(top_p=0.3), {0}),
        (SamplingParams(top_k=3, top_p=0.999), {0, 1, 2}),
        (SamplingParams(top_k=-1), {0, 1, 2, 3, 4}),
        (SamplingParams(top_k=100), {0, 1, 2, 3, 4}),
    ],
)
def test_top_k_and_top_p_sample_exactly_the_allowed_tokens(params, allowed):
    logits = torch.tensor([0.4, 0.25, 0.15, 0.12, 0.08]).log()
    tokens, log_probs = TokenSampler(params, make_generator(CPU, 2))(logits.expand(20_000, -1))
    assert set(tokens.tolist()) == allowed
    torch.testing.assert_close(log_probs, logits[tokens])


def test_filtered_tokens_keep_their_relative_probabilities():
    probabilities = torch.tensor([0.4, 0.25, 0.15, 0.12, 0.08])
    tokens, _ = TokenSampler(SamplingParams(top_k=3), make_generator(CPU, 3))(probabilities.log().expand(20_000, -1))
    expected = (probabilities[:3] / probabilities[:3].sum()).double().numpy()
    assert chisquare(tokens.bincount(minlength=3).numpy(), expected / expected.sum() * 20_000).pvalue > 0.01


CONFIG = OmegaConf.create(
    {
        "do_sample": True,
        "temperature": 0.9,
        "top_k": 30,
        "top_p": 0.8,
        "val_kwargs": {"temperature": 0.6, "top_k": 5, "top_p": 0.7},
    }
)


@pytest.mark.parametrize(
    ("meta_info", "expected"),
    [
        ({}, SamplingParams(0.9, 30, 0.8)),
        ({"temperature": 0.5, "top_k": 2, "top_p": 0.1}, SamplingParams(0.5, 2, 0.1)),
        ({"validate": True}, SamplingParams(0.6, 5, 0.7)),
        ({"validate": True, "temperature": 0.5}, SamplingParams(0.6, 5, 0.7)),
        ({"validate": True, "do_sample": False}, SamplingParams(0.0)),
        ({"do_sample": False}, SamplingParams(0.0)),
    ],
)
def test_sampling_parameters_come_from_the_call_then_the_config(meta_info, expected):
    assert resolve_sampling_params(CONFIG, meta_info) == expected


def test_temperature_zero_is_greedy():
    model = make_model()
    sampled = make_rollout(model, temperature=0.0).generate_sequences(random_prompts())
    greedy = make_rollout(model).generate_sequences(random_prompts(do_sample=False))
    assert sampled.batch["responses"].equal(greedy.batch["responses"])


def test_generates_without_dropout_and_leaves_a_training_module_training():
    model = make_model(attention_dropout=0.5).train()
    model.model.layers[0].eval()
    output = make_rollout(model).generate_sequences(random_prompts())
    assert model.training
    assert not model.model.layers[0].training
    assert model.model.layers[1].training
    assert_agrees_with_teacher_forcing(model, output)


def test_the_weights_of_the_moment_are_used_and_not_changed():
    model = make_model()
    rollout = make_rollout(model)
    before = rollout.generate_sequences(random_prompts())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    after = rollout.generate_sequences(random_prompts())
    assert_agrees_with_teacher_forcing(model, after)
    assert not after.batch["responses"].equal(before.batch["responses"])
    assert all(value.equal(weights[name]) and not value.is_meta for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_decodes_in_the_dtype_of_the_rollout():
    model = make_model()
    output = make_rollout(model, dtype="bfloat16").generate_sequences(random_prompts())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_agrees_with_teacher_forcing(make_model().to(torch.bfloat16), output, tolerance=0.15)
    with pytest.raises(AssertionError):
        assert_agrees_with_teacher_forcing(model, output, tolerance=1e-4)


def test_whole_weights_are_shared_while_decoding_and_cast_ones_freed_after():
    model = make_model()
    replica = ModelReplica(model)
    with replica.loaded(CPU, torch.float32) as shared:
        assert shared.model.norm.weight.data_ptr() == model.model.norm.weight.data_ptr()
    with replica.loaded(CPU, torch.bfloat16) as cast:
        assert {parameter.dtype for parameter in cast.parameters()} == {torch.bfloat16}
        assert cast.lm_head.weight.data_ptr() == cast.model.embed_tokens.weight.data_ptr()
    assert all(parameter.is_meta for parameter in cast.parameters())


def test_lora_adapters_take_part():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(make_model(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    output = make_rollout(model).generate_sequences(random_prompts())
    assert_agrees_with_teacher_forcing(model, output)
    with pytest.raises(AssertionError):
        assert_agrees_with_teacher_forcing(make_model(), output)


def test_non_tensor_inputs_come_back_but_those_of_inference_engines():
    prompts = make_prompts([5], [6, 7])
    prompts.non_tensor_batch["index"] = np.array([3, 4], dtype=object)
    prompts.non_tensor_batch["raw_prompt_ids"] = np.array([[5], [6, 7]], dtype=object)
    output = make_rollout(make_model()).generate_sequences(prompts)
    assert output.non_tensor_batch["index"].tolist() == [3, 4]
    assert "raw_prompt_ids" not in output.non_tensor_batch


def test_the_response_length_of_a_call_wins():
    output = make_rollout(make_model()).generate_sequences(random_prompts(response_length=3))
    assert output.batch["responses"].shape[1] == 3


def test_right_padded_prompts_are_refused():
    prompts = make_prompts([5, 6], [7])
    prompts.batch["attention_mask"][1] = torch.tensor([1, 0])
    with pytest.raises(ValueError, match="left-padded"):
        make_rollout(make_model()).generate_sequences(prompts)


def test_multi_modal_prompts_are_refused():
    prompts = make_prompts([5, 6])
    prompts.non_tensor_batch["multi_modal_data"] = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match="rollout.name=vllm"):
        make_rollout(make_model()).generate_sequences(prompts)


def test_diverged_weights_are_reported():
    model = make_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite for 12 of 12 rows"):
        make_rollout(model).generate_sequences(random_prompts())


@pytest.mark.parametrize(
    ("config", "meta_info", "message"),
    [
        ({"temperature": -1.0}, {}, "temperature is -1.0"),
        ({"top_p": 0.0}, {}, "top_p is 0.0"),
        ({"micro_batch_size": 0}, {}, "micro-batch size of the rollout is 0"),
        ({"response_length": 0}, {}, "response_length is 0"),
        ({}, {"eos_token_id": None}, "generation_config.json"),
    ],
)
def test_values_out_of_range_are_named(config, meta_info, message):
    with pytest.raises(ValueError, match=message):
        make_rollout(make_model(), **config).generate_sequences(random_prompts(**meta_info))


def test_a_module_that_is_no_transformers_model_is_refused():
    with pytest.raises(TypeError, match="Linear"):
        make_rollout(torch.nn.Linear(2, 2))


def wrap_with_fsdp1(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=CPU, use_orig_params=False)


def wrap_with_fsdp2(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.layers:
        fully_shard(layer)
    return fully_shard(model)


def wrap_with_fsdp2_over_one_rank(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicas", "shards"))["shards"])


WRAPPERS = {
    "fsdp1": wrap_with_fsdp1,
    "fsdp2": wrap_with_fsdp2,
    "fsdp2 over one rank": wrap_with_fsdp2_over_one_rank,
}


def take_a_training_step(model):
    """A step whose gradient is the same on every rank; leaves FSDP's parameters as training does."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tokens = torch.arange(2, 12).unsqueeze(0)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()


def rollouts_before_and_after_a_step(module):
    """Greedy rollouts of prompts that differ by rank; rank 0 ends at its first token, so that ranks stop apart."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else None
    return {
        (prompts_rank, moment): output
        for moment in ("before", "after")
        for prompts_rank, output in _rollouts(module, rank, train_first=moment == "after")
    }


def _rollouts(module, rank, train_first):
    if train_first:
        take_a_training_step(module)
        with torch.no_grad():
            module(input_ids=torch.arange(2, 12).unsqueeze(0))
    rollout = make_rollout(module)
    for prompts_rank in (0, 1) if rank is None else (rank,):
        ends = list(range(VOCABULARY)) if prompts_rank == 0 else 1
        prompts = random_prompts(seed=prompts_rank, do_sample=False, eos_token_id=ends)
        yield prompts_rank, dict(rollout.generate_sequences(prompts).batch.items())


def run_rank(rank, directory):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2)
    results = {name: rollouts_before_and_after_a_step(wrap(make_model())) for name, wrap in WRAPPERS.items()}
    results["sampled"] = make_rollout(make_model()).generate_sequences(random_prompts()).batch["responses"]
    torch.save(results, f"{directory}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def sharded_results(tmp_path_factory):
    directory = tmp_path_factory.mktemp("fsdp")
    torch.multiprocessing.spawn(run_rank, args=(os.fspath(directory),), nprocs=2)
    return [torch.load(directory / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", WRAPPERS)
def test_sharded_over_two_ranks_equals_unsharded(sharded_results, strategy):
    results = sharded_results[0][strategy] | sharded_results[1][strategy]
    expected = rollouts_before_and_after_a_step(make_model())
    assert results.keys() == expected.keys()
    for key, batch in expected.items():
        for name, value in batch.items():
            torch.testing.assert_close(results[key][name], value, atol=1e-4, rtol=0)
    assert not expected[1, "before"]["responses"].equal(expected[1, "after"]["responses"])
    assert expected[0, "before"]["attention_mask"][:, 11:].sum(dim=-1).eq(1).all()


@pytest.mark.slow
def test_ranks_sample_differently(sharded_results):
    assert not sharded_results[0]["sampled"].equal(sharded_results[1]["sampled"])
