"""What transformers answers greedily with a checkpoint's weights, to compare a run's greedy validation with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


def load_checkpoint(checkpoint: Path | None, initial_model: Path) -> PreTrainedModel:
    """Return the model of a checkpoint folder ``global_step_N``, merged with its adapter; the initial one for None."""
    adapter = None if checkpoint is None else checkpoint / "actor" / "lora_adapter"
    whole = None if checkpoint is None else checkpoint / "actor" / "huggingface"
    if adapter is not None and adapter.exists():
        base = AutoModelForCausalLM.from_pretrained(initial_model, torch_dtype=torch.float32)
        return PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    return AutoModelForCausalLM.from_pretrained(whole or initial_model, torch_dtype=torch.float32).eval()


@torch.no_grad()
def greedy_answers(
    checkpoint: Path | None, initial_model: Path, prompts: Sequence[str], max_tokens: int
) -> dict[str, str]:
    """Return the greedy answer to each prompt, by the prompt; all prompts are of one length."""
    tokenizer = AutoTokenizer.from_pretrained(initial_model)
    model = load_checkpoint(checkpoint, initial_model)
    input_ids = torch.tensor([tokenizer(prompt)["input_ids"] for prompt in prompts])
    generated = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    answers = tokenizer.batch_decode(generated[:, input_ids.shape[1] :], skip_special_tokens=True)
    return dict(zip(prompts, answers, strict=True))


def validated_answers(folder: Path, step: int) -> dict[str, str]:
    """Return the answers that a run dumped when it validated at ``step``, by the prompt."""
    rows = pd.read_json(folder / f"{step}.jsonl", lines=True, dtype=False)
    return dict(zip(rows["input"], rows["output"], strict=True))
