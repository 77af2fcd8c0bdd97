"""Stand-ins for the trainer's workers, which answer by a rule: a step then needs neither Ray nor a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from recipe.knapsack.tiny.tiny_task import make_tokenizer
from verl import DataProto

M, TOTAL_BUDGET = 16, 64
RESPONSE_LENGTH = 8
WRONG_ANSWER = "9"


@dataclasses.dataclass
class StandInWorkers:
    """Answers prompts by a rule instead of a model, and keeps what it is sent.

    Attributes:
        answers: the right answer to each prompt.
        succeeds: whether the given copy (0, 1, ...) of a prompt in a batch is answered rightly.
        old_log_prob, rollout_log_prob: what the training and the rollout policy say of every token.
        profiled: what was called to profile, and how much had been generated and updated by then.
    """

    answers: dict[str, str]
    succeeds: Callable[[str, int], bool]
    world_size: int = 2
    old_log_prob: float = -1.0
    rollout_log_prob: float = -1.0
    generated: list[DataProto] = dataclasses.field(default_factory=list)
    updates: list[DataProto] = dataclasses.field(default_factory=list)
    loaded: list[Path] = dataclasses.field(default_factory=list)
    profiled: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        tokenizer = make_tokenizer()
        texts = tokenizer.batch_decode(prompts.batch["input_ids"], skip_special_tokens=True)
        responses = torch.full((len(texts), RESPONSE_LENGTH), tokenizer.eos_token_id)
        copies: dict[str, int] = {}
        for row, text in enumerate(texts):
            copy = copies[text] = copies.get(text, -1) + 1
            answer = self.answers[text] if self.succeeds(text, copy) else WRONG_ANSWER
            tokens = tokenizer(f".{answer}")["input_ids"]
            responses[row, : len(tokens)] = torch.tensor(tokens)
        response_mask = (responses != tokenizer.eos_token_id).long()
        response_mask[torch.arange(len(texts)), response_mask.sum(dim=-1)] = 1
        mask = torch.cat([prompts.batch["attention_mask"], response_mask], dim=-1)
        output = DataProto.from_single_dict(
            {
                "prompts": prompts.batch["input_ids"],
                "responses": responses,
                "input_ids": torch.cat([prompts.batch["input_ids"], responses], dim=-1),
                "attention_mask": mask,
                "position_ids": (mask.cumsum(dim=-1) - 1).clamp(min=0),
                "rollout_log_probs": torch.full(responses.shape, self.rollout_log_prob),
            }
        )
        self.generated.append(output)
        return output

    def compute_log_prob(self, batch: DataProto) -> DataProto:
        shape = batch.batch["responses"].shape
        return DataProto.from_single_dict(
            {"old_log_probs": torch.full(shape, self.old_log_prob), "entropys": torch.ones(shape)}
        )

    def compute_rm_score(self, batch: DataProto) -> DataProto:
        """As a model that likes what the rule-based reward does not: 0.75 for the wrong answer, -0.25 for others."""
        texts = make_tokenizer().batch_decode(batch.batch["responses"], skip_special_tokens=True)
        scores = torch.zeros(batch.batch["responses"].shape)
        scores[:, 0] = torch.tensor([0.75 if text == f".{WRONG_ANSWER}" else -0.25 for text in texts])
        return DataProto.from_single_dict({"rm_scores": scores})

    def update_actor(self, batch: DataProto) -> DataProto:
        self.updates.append(batch)
        return DataProto(meta_info={"metrics": {}})

    def start_profile(self, **_: Any) -> None:
        self.profiled.append(("start", len(self.generated), len(self.updates)))

    def stop_profile(self) -> None:
        self.profiled.append(("stop", len(self.generated), len(self.updates)))

    def save_checkpoint(self, folder: str, *_: Any, **__: Any) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def load_checkpoint(self, folder: str, **_: Any) -> None:
        self.loaded.append(Path(folder))


@dataclasses.dataclass
class StandInAgentLoop:
    """Generates as verl's agent loop does: in as many equal parts as it has workers, without log-probs."""

    workers: StandInWorkers
    num_workers: int

    def generate_sequences(self, prompts: DataProto) -> DataProto:
        assert "raw_prompt" in prompts.non_tensor_batch
        parts = [self.workers.generate_sequences(part) for part in prompts.chunk(self.num_workers)]
        output = DataProto.concat(parts)
        output.pop(batch_keys=["rollout_log_probs"])
        output.meta_info["timing"] = {"agent_loop/slowest": 1.0}
        return output


def half_of_the_copies(prompt: str, copy: int) -> bool:
    return copy % 2 == 0


def by_family(prompt: str, copy: int) -> bool:
    """Families differ in how often they are solved: never, one copy in two, three in four, always."""
    return copy % 4 < (0, 2, 3, 4)[ord(prompt[0]) % 4]


def never(prompt: str, copy: int) -> bool:
    return False


def rows_of(batch: DataProto) -> pd.DataFrame:
    """What every row of an update says of its prompt, from each of the places that say it."""
    tokenizer = make_tokenizer()
    columns = batch.non_tensor_batch
    return pd.DataFrame(
        {
            "prompt": tokenizer.batch_decode(batch.batch["prompts"], skip_special_tokens=True),
            "input": tokenizer.batch_decode(
                batch.batch["input_ids"][:, : batch.batch["prompts"].shape[1]], skip_special_tokens=True
            ),
            "response": tokenizer.batch_decode(batch.batch["responses"], skip_special_tokens=True),
            "ground_truth": [reward_model["ground_truth"] for reward_model in columns["reward_model"]],
            "uid": columns["uid"],
            "prompt_id": columns["prompt_id"],
            "score": batch.batch["token_level_scores"].sum(dim=-1).numpy(),
            "advantage": batch.batch["advantages"][:, 0].numpy(),
        }
    )
