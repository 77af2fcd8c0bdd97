"""The data set of prompts: media columns that are empty or null leave a text prompt as it is."""

from __future__ import annotations

import copy
import sys
from types import ModuleType

import pandas as pd
import pytest
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from recipe.knapsack.tiny.tiny_task import make_tokenizer
from verl.trainer.main_ppo import create_rl_dataset
from verl.upstream.utils.dataset.rl_dataset import RLHFDataset as UpstreamRLHFDataset
from verl.utils.dataset import RLHFDataset as ExportedRLHFDataset
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

TEXTS = ["k40=", "k41=<image>", "k42="]


class Processor:
    """As a vision-language model's processor, of which it keeps what it was asked to process."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.image_processor = None
        self.processed = []

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        content = messages[0]["content"]
        if isinstance(content, list):
            content = "".join(part.get("text", "I") for part in content)
        return content.replace("<image>", "?")

    def __call__(self, text, images, videos, return_tensors=None):
        self.processed.append((text[0], images, videos))
        return self.tokenizer(text, return_tensors=return_tensors, add_special_tokens=False)


def make_dataset(folder, processor=None, dataset_class=RLHFDataset, **columns):
    rows = len(TEXTS)
    table = {
        "prompt": [[{"role": "user", "content": text}] for text in TEXTS],
        "data_source": ["test"] * rows,
        "extra_info": [{"index": row} for row in range(rows)],
        **columns,
    }
    file = folder / "data.parquet"
    pd.DataFrame(table).to_parquet(file)
    config = OmegaConf.create(
        {
            "max_prompt_length": 32,
            "return_raw_chat": True,
            "cache_dir": str(folder),
            "filter_overlong_prompts_workers": 1,
        }
    )
    return dataset_class(str(file), make_tokenizer(), config, processor=processor)


@pytest.fixture
def vision_utils(monkeypatch):
    """Upstream's module of that name, which needs a package for vision models, as far as it is used here."""
    module = ModuleType("verl.utils.dataset.vision_utils")
    module.process_image = lambda image: f"processed {image}"
    module.process_video = lambda video: f"processed {video}"
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("column", ["images", "videos"])
@pytest.mark.parametrize("empty", [None, [], [None]], ids=repr)
def test_without_media_the_text_stays_as_it_is(tmp_path, column, empty):
    rows = [dataset_row for dataset_row in make_dataset(tmp_path, **{column: [empty] * 3})]
    assert [row["raw_prompt"] for row in rows] == [[{"role": "user", "content": text}] for text in TEXTS]
    plain = make_dataset(tmp_path)
    assert [row["raw_prompt_ids"] for row in rows] == [row["raw_prompt_ids"] for row in plain]


def test_upstreams_data_set_rewrites_it(tmp_path):
    dataset = make_dataset(tmp_path, dataset_class=UpstreamRLHFDataset, images=[None] * 3)
    messages = dataset._build_messages(dict(dataset.dataframe[0]))
    assert messages[0]["content"] == [{"type": "text", "text": "k40="}]


@pytest.mark.parametrize("empty", [None, []], ids=repr)
def test_with_a_processor_only_rows_that_have_media_are_rewritten(tmp_path, vision_utils, empty):
    processor = Processor(make_tokenizer())
    dataset = make_dataset(tmp_path, processor, images=[empty, ["picture"], empty], videos=[empty] * 3)
    processor.processed.clear()  # of the filter of long prompts
    rows = [dataset[row] for row in range(3)]
    assert [row["raw_prompt"][0]["content"] for row in rows] == [
        "k40=",
        [{"type": "text", "text": "k41="}, {"type": "image"}],
        "k42=",
    ]
    assert [(images, videos) for _, images, videos in processor.processed] == [
        (None, None),
        (["processed picture"], None),
        (None, None),
    ]
    assert [row["multi_modal_data"] for row in rows] == [{}, {"image": ["processed picture"]}, {}]


@pytest.mark.parametrize("has_processor", [False, True])
def test_rows_of_a_batch_have_the_same_columns(tmp_path, vision_utils, has_processor):
    images = [None, ["picture"], []] if has_processor else [None, [], None]
    dataset = make_dataset(tmp_path, Processor(make_tokenizer()) if has_processor else None, images=images)
    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=collate_fn)))
    assert {len(column) for column in batch.values()} == {3}


def test_the_trainer_and_the_package_use_it(tmp_path):
    assert ExportedRLHFDataset is RLHFDataset
    dataset = make_dataset(tmp_path)
    config = copy.deepcopy(dataset.config)
    config.update({"custom_cls": {"path": None}})
    assert type(create_rl_dataset(dataset.data_files, config, dataset.tokenizer, None)) is RLHFDataset
