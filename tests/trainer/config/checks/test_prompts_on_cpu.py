"""Prompts that are too long are found without tokenising all of them; equal prompts with other answers are counted."""

from __future__ import annotations

import os
import shutil

import pytest
from transformers import AutoTokenizer
from verl_rows import row

from verl.trainer.config.checks import prompts
from verl.trainer.config.checks.prompts import check_prompt_lengths, prompt_notices, read_prompts

TRAIN, VAL = "data.train_files", "data.val_files"


@pytest.fixture
def settings(warm_start, write):
    """Settings for a training file whose prompts have as many tokens as these numbers say."""

    def make(*lengths: int, **further):
        file = str(write([row(number, prompt=_message("1" * length)) for number, length in enumerate(lengths)]))
        return {
            TRAIN: file,
            VAL: file,
            "data.max_prompt_length": 8,
            "data.train_batch_size": 2,
            "actor_rollout_ref.model.path": str(warm_start / "model"),
            **further,
        }

    return make


def _message(content):
    return [{"role": "user", "content": content}]


def test_one_overlong_prompt_is_refused_and_named(refusal, settings):
    assert refusal(check_prompt_lengths, settings(3, 8, 8)) == ""
    said = refusal(check_prompt_lengths, settings(3, 8, 11, 9))
    assert "data.train_files has 2 of 4 prompts" in said
    assert "data.max_prompt_length=8 tokens (row 2: 11)" in said and "raise data.max_prompt_length to 11" in said


def test_an_overlong_validation_prompt_is_refused_where_there_is_validation(refusal, settings, write):
    long = str(write([row(0, prompt=_message("1" * 12))], "val.parquet"))
    never = {"trainer.test_freq": -1, "trainer.val_before_train": False}
    assert "data.val_files has 1 of 1 prompts" in refusal(check_prompt_lengths, settings(3, 3, **{VAL: long}))
    assert refusal(check_prompt_lengths, settings(3, 3, **{VAL: long, **never})) == ""


@pytest.mark.parametrize("truncation", ["left", "right", "middle"])
def test_prompts_that_are_cut_may_be_long(refusal, settings, truncation):
    assert refusal(check_prompt_lengths, settings(3, 80, **{"data.truncation": truncation})) == ""


def test_a_filter_that_leaves_too_few_prompts_is_refused(refusal, settings):
    filtered = {"data.filter_overlong_prompts": True}
    assert refusal(check_prompt_lengths, settings(3, 80, 8, **filtered)) == ""
    said = refusal(check_prompt_lengths, settings(3, 80, 9, **filtered))
    assert "leaves 1 of the 3 prompts of data.train_files" in said and "data.train_batch_size=2" in said


def test_a_filter_that_leaves_no_validation_prompt_is_refused(refusal, settings, write):
    long = str(write([row(0, prompt=_message("1" * 12))], "val.parquet"))
    said = refusal(check_prompt_lengths, settings(3, 3, **{VAL: long, "data.filter_overlong_prompts": True}))
    assert "leaves 0 of the 1 prompts of data.val_files, fewer than one prompt" in said


def test_lengths_are_what_the_tokenizer_says(config_with, settings, warm_start):
    tokenizer = AutoTokenizer.from_pretrained(warm_start / "model")
    config = config_with(settings(3, 30, 17, 5))
    data = read_prompts(config, "train_files")
    rows = prompts._rows_in_doubt(config, data, tokenizer)
    assert rows[0] == 1 and set(rows) >= {1, 2}
    expected = [
        len(tokenizer.apply_chat_template(data.take([number])[0], add_generation_prompt=True)) for number in rows
    ]
    assert prompts._tokens(data, rows, tokenizer).tolist() == expected


def test_what_a_template_adds_is_counted(config_with, settings, refusal, warm_start, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(warm_start / "model", model)
    (model / "chat_template.jinja").write_text("111111{% for message in messages %}{{ message.content }}{% endfor %}")
    said = refusal(check_prompt_lengths, settings(2, 3, **{"actor_rollout_ref.model.path": str(model)}))
    assert "1 of 2 prompts" in said and "(row 1: 9)" in said


def test_only_prompts_that_their_size_does_not_clear_are_tokenised(refusal, settings, monkeypatch):
    tokenised = []
    monkeypatch.setattr(
        prompts, "_tokens", lambda data, rows, tokenizer: tokenised.append(len(rows)) or prompts.np.zeros(len(rows))
    )
    assert refusal(check_prompt_lengths, settings(*[5] * 50, *[70] * 3, **{"data.max_prompt_length": 60})) == ""
    assert tokenised == [3, 3]


def test_a_model_without_a_chat_template_or_a_readable_tokenizer_is_refused(refusal, settings, warm_start, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(warm_start / "model", model)
    path = {"actor_rollout_ref.model.path": str(model)}
    (model / "chat_template.jinja").unlink()
    assert "has no chat template" in refusal(check_prompt_lengths, settings(3, 3, **path))
    (model / "tokenizer.json").write_text("{}")
    assert "tokenizer cannot be loaded" in refusal(check_prompt_lengths, settings(3, 3, **path))


def test_equal_prompts_with_different_answers_are_counted(config_with, settings, write):
    def answered(text, answer, source="sums"):
        return row(0, prompt=_message(text), reward_model={"ground_truth": answer}, data_source=source)

    agreeing = [answered("1+1=", "2"), answered("1+1=", "2"), answered("1+1=", "10", "binary"), answered("2+2=", "4")]
    file = {TRAIN: str(write(agreeing))}
    assert prompt_notices(config_with(settings(3, **file))) == []
    disagreeing = [*agreeing, answered("1+1=", "3"), answered("2+2=", "5"), answered("3+3=", "6")]
    (notice,) = prompt_notices(config_with(settings(3, **{TRAIN: str(write(disagreeing, "two.parquet"))})))
    assert "data.train_files has 2 prompts that are there with different answers" in notice


def test_data_that_are_not_looked_at_in_full_are_said_to_be(config_with, settings, refusal, monkeypatch):
    monkeypatch.setattr(prompts, "MOST_ROWS", 3)
    (notice,) = prompt_notices(config_with(settings(2, 3, 4, 80)))
    assert "only the first 3 of 4 prompts were looked at" in notice
    assert refusal(check_prompt_lengths, settings(3, 3, 3, 80, **{VAL: "hdfs://val"})) == ""
    too_long = settings(80, 80, 80, 3, 3, **{"data.filter_overlong_prompts": True})
    assert refusal(check_prompt_lengths, too_long) == ""


def test_prompts_of_several_messages_are_measured_together(refusal, settings, write):
    turns = [{"role": role, "content": "111"} for role in ("system", "user")]
    file = str(write([row(0, prompt=turns), row(1), row(2, prompt=[*turns, turns[0]])], "turns.parquet"))
    assert "(row 2: 9)" in refusal(check_prompt_lengths, settings(3, **{TRAIN: file}))


def test_prompts_that_the_tokenizer_refuses_are_said_to_be_the_cause(refusal, settings, warm_start, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(warm_start / "model", model)
    (model / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}")
    said = refusal(check_prompt_lengths, settings(3, 3, **{"actor_rollout_ref.model.path": str(model)}))
    assert "data.train_files holds prompts" in said and "no system message" in said


def test_measuring_leaves_no_trace_in_the_environment(refusal, settings, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    refusal(check_prompt_lengths, settings(3, 80))
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_several_files_are_looked_at_together(config_with, settings, refusal, write):
    files = [str(write([row(0, prompt=_message("1" * length))], f"{length}.parquet")) for length in (3, 12)]
    assert "1 of 2 prompts" in refusal(check_prompt_lengths, settings(3, **{TRAIN: files}))
    again = str(write([row(1, prompt=_message("111"))], "again.parquet"))
    assert len(prompt_notices(config_with(settings(3, **{TRAIN: [files[0], again]})))) == 1
    # Their types differ, which is refused elsewhere.
    other = str(write([row(0, prompt=[{"role": "user", "content": "1", "name": "me"}])], "other.parquet"))
    assert prompt_notices(config_with(settings(3, **{TRAIN: [files[0], other]}))) == []


def test_data_that_are_not_messages_of_text_have_no_notice(config_with, settings, write):
    images = str(write([row(0, images=[])], "images.parquet"))
    assert prompt_notices(config_with(settings(3, **{TRAIN: images}))) == []
    assert prompt_notices(config_with(settings(3, **{TRAIN: "hdfs://train.parquet"}))) == []
