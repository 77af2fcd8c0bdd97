"""Training on a small task in a plain torch loop: the project's explorer, decoder and advantages, no Ray, no workers.

A step does what the trainer's does with one worker and one mini-batch: plan, sample, score, advantages, one update by
AdamW on the mean over tokens. It takes a fraction of the time, so that methods can be compared over many worlds. The
update leaves out rollouts without a gradient, which verl computes: seconds flatter methods that have many of those.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from knapsack_rl import ExplorationConfig, Explorer, Outcomes, Plan, prompt_id
from knapsack_rl.outcomes import choose_rows
from recipe.knapsack.worlds.tasks import ComputeScore, Task
from verl.trainer.ppo.advantages import clip_advantages, weigh_prompts, without_single_rollouts
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.workers.rollout.decoding import Decoder
from verl.workers.rollout.sampling import SamplingParams, TokenSampler, make_generator

__all__ = ["PROMPTS_PER_STEP", "PlainTraining", "Settings", "Validation"]

PROMPTS_PER_STEP = 128
ADV_CLIP = 5.0
RESPONSES_PER_HELD_OUT_PROMPT = 4
_LARGEST_DECODED_BATCH = 4096
_ORDER, _VALIDATION = 1, 2
"""Streams of randomness besides sampling."""


@dataclass(frozen=True)
class Settings:
    """What a training depends on besides its warm start.

    Attributes:
        exploration: how rollouts are allocated, and whether groups are filtered.
        prompt_weight: ``algorithm.prompt_weight``.
        learning_rate: of AdamW, constant.
        rollouts_per_prompt: N.
        seed: of the order of the prompts and of the sampling.
    """

    exploration: ExplorationConfig
    prompt_weight: str = "rows"
    learning_rate: float = 4e-4
    rollouts_per_prompt: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """Where a training stood: after how many steps, rollouts, response tokens and seconds of CPU time (validation not
    counted), its held-out accuracy (avg@4), and the mean share of rollouts with a gradient since the one before."""

    step: int
    rollouts: int
    tokens: int
    seconds: float
    accuracy: float
    effective_ratio: float


class Prompts:
    """The prompts of a split, encoded.

    Args:
        file: parquet in verl's schema.
        tokenizer: pads on the left.
        compute_score: verl's reward function.
    """

    def __init__(self, file: Path, tokenizer: PreTrainedTokenizerBase, compute_score: ComputeScore) -> None:
        self.tokenizer, self.compute_score = tokenizer, compute_score
        self.rows = pd.read_parquet(file)
        texts = ["".join(message["content"] for message in messages) for messages in self.rows["prompt"]]
        encoded = tokenizer(texts, return_tensors="pt", padding=True)
        self.input_ids, self.attention_mask = encoded["input_ids"], encoded["attention_mask"]
        self.ids = [
            prompt_id(source, messages) for source, messages in zip(self.rows["data_source"], self.rows["prompt"])
        ]
        self._scores: dict[tuple[int, str], float] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def scores(self, index: np.ndarray, token_ids: torch.Tensor) -> np.ndarray:
        """(B,) float scores of responses (B, response_length) to the prompts ``index`` (B,)."""
        responses = self.tokenizer.batch_decode(token_ids, skip_special_tokens=True)
        return np.array([self._score(*each) for each in zip(index.tolist(), responses, strict=True)])

    def _score(self, prompt: int, response: str) -> float:
        """The score of a response; a verifier is asked once for each."""
        if (prompt, response) not in self._scores:
            row = self.rows.iloc[prompt]
            scored = self.compute_score(
                row["data_source"], response, row["reward_model"]["ground_truth"], row["extra_info"]
            )
            self._scores[prompt, response] = float(scored["score"])
        return self._scores[prompt, response]


@dataclass(frozen=True)
class Rollouts:
    """B rollouts of one or several plans.

    Attributes:
        prompts: (B,) int64, row of each rollout's prompt in the data.
        groups: (B,) int64, the group that each rollout is compared in.
        token_ids: (B, response_length) int64.
        scores, effective: (B,) float and bool.
    """

    prompts: np.ndarray
    groups: np.ndarray
    token_ids: torch.Tensor
    scores: np.ndarray
    effective: np.ndarray

    def take(self, rows: np.ndarray) -> Rollouts:
        """The named rows."""
        return Rollouts(
            self.prompts[rows], self.groups[rows], self.token_ids[rows], self.scores[rows], self.effective[rows]
        )

    @classmethod
    def joined(cls, parts: list[Rollouts]) -> Rollouts:
        """Several batches as one, with groups that stay apart."""
        offsets = np.cumsum([0, *(part.groups.max() + 1 for part in parts[:-1])])
        return cls(
            np.concatenate([part.prompts for part in parts]),
            np.concatenate([part.groups + offset for part, offset in zip(parts, offsets, strict=True)]),
            torch.cat([part.token_ids for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.effective for part in parts]),
        )


class PlainTraining:
    """One training.

    Args:
        warm_start: folder that the task prepared: model, training and held-out prompts.
        task: what is trained on.
        settings: see `Settings`.
    """

    def __init__(self, warm_start: Path, task: Task, settings: Settings) -> None:
        self.settings, self.task = settings, task
        self.explorer = Explorer(settings.exploration, rollouts_per_prompt=settings.rollouts_per_prompt)
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(warm_start / "model").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(warm_start / "model", padding_side="left")
        self.train_prompts, self.test_prompts = (
            Prompts(warm_start / f"{name}.parquet", self.tokenizer, task.compute_score) for name in ("train", "test")
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.steps = self.rollouts = self.tokens = 0
        self.seconds = 0.0
        self.ever_solved = np.zeros(len(self.train_prompts), dtype=bool)
        self._batches = self._epochs()
        self._effective_ratios: list[float] = []

    @property
    def never_solved(self) -> int:
        """Number of training prompts of which no rollout was a success."""
        return int((~self.ever_solved).sum())

    def run(self, total_rollouts: int, validate_every: int, on_step: Callable[[int], None]) -> list[Validation]:
        """Train until ``total_rollouts`` are spent; validate each time that ``validate_every`` more are.

        Args:
            on_step: is told the rollouts spent so far.
        """
        validations = [self.validate()]
        while self.rollouts < total_rollouts:
            self.step()
            if self.rollouts // validate_every > validations[-1].rollouts // validate_every:
                validations.append(self.validate())
            on_step(min(self.rollouts, total_rollouts))
        if validations[-1].rollouts < self.rollouts:
            validations.append(self.validate())
        return validations

    def step(self) -> None:
        """One step: a planned batch of rollouts, or as many batches as dynamic sampling draws, and one update."""
        start = time.process_time()
        self.steps += 1
        rollouts = self._explore()
        self._update(rollouts)
        self.seconds += time.process_time() - start

    def validate(self) -> Validation:
        """Sample the held-out prompts at temperature 1."""
        index = np.repeat(np.arange(len(self.test_prompts)), RESPONSES_PER_HELD_OUT_PROMPT)
        token_ids = self._generate(self.test_prompts, index, make_generator(_CPU, self.settings.seed, _VALIDATION))
        ratios, self._effective_ratios = self._effective_ratios, []
        return Validation(
            step=self.steps,
            rollouts=self.rollouts,
            tokens=self.tokens,
            seconds=self.seconds,
            accuracy=float(self.test_prompts.scores(index, token_ids).mean()),
            effective_ratio=float(np.mean(ratios)) if ratios else 0.0,
        )

    def _epochs(self) -> Iterator[tuple[int, np.ndarray]]:
        """Batches of prompts with their epoch, each prompt once an epoch."""
        epoch = 0
        while True:
            order = np.random.default_rng([self.settings.seed, _ORDER, epoch]).permutation(len(self.train_prompts))
            for first in range(0, len(order) - PROMPTS_PER_STEP + 1, PROMPTS_PER_STEP):
                yield epoch, order[first : first + PROMPTS_PER_STEP]
            epoch += 1

    def _explore(self) -> Rollouts:
        dynamic = self.explorer.config.dynamic_sampling
        generated: list[Rollouts] = []
        num_rows = self.explorer.total_budget(PROMPTS_PER_STEP, self.steps)
        for generation in range(dynamic.max_generations if dynamic.enable else 1):
            generated.append(self._roll_out(generation))
            if sum(int(part.effective.sum()) for part in generated) >= num_rows:
                break
        rollouts = Rollouts.joined(generated)
        self._effective_ratios.append(float(rollouts.effective.mean()))
        if not dynamic.enable:
            return rollouts
        return rollouts.take(choose_rows(rollouts.effective, rollouts.groups, num_rows))

    def _roll_out(self, generation: int) -> Rollouts:
        epoch, batch = next(self._batches)
        ids = [self.train_prompts.ids[prompt] for prompt in batch]
        plan: Plan = self.explorer.plan(ids, epoch=epoch, step=self.steps)
        index = batch[plan.order]
        generator = make_generator(_CPU, self.settings.seed, 0, self.steps, generation)
        token_ids = self._generate(self.train_prompts, index, generator)
        scores = self.train_prompts.scores(index, token_ids)
        effective = self.explorer.adv_estimator.effective_rollouts(scores, plan.order)
        tokens = _response_mask(token_ids).sum(dim=-1).numpy()
        self.explorer.observe(plan, Outcomes(plan.order, scores, scores > 0, effective, tokens))
        self.ever_solved[index[scores > 0]] = True
        self.rollouts += len(index)
        self.tokens += int(tokens.sum())
        return Rollouts(index, plan.order, token_ids, scores, effective)

    def _generate(self, prompts: Prompts, index: np.ndarray, generator: torch.Generator) -> torch.Tensor:
        decoder = Decoder(
            self.model,
            TokenSampler(SamplingParams(), generator),
            eos_token_ids=[self.tokenizer.eos_token_id],
            pad_token_id=self.tokenizer.pad_token_id,
            response_length=self.task.response_length,
            max_rows=_LARGEST_DECODED_BATCH,
        )
        return decoder.generate(prompts.input_ids[index], prompts.attention_mask[index]).token_ids

    def _update(self, rollouts: Rollouts) -> None:
        mask = _response_mask(rollouts.token_ids)
        advantages = self._advantages(rollouts, mask) * mask
        # Rows without an advantage add nothing to the gradient; one row stays where all are such.
        rows = advantages.any(dim=-1).nonzero().squeeze(-1).numpy() if advantages.any() else np.array([0])
        log_probs = self._log_probs(rollouts.take(rows))
        # On policy, the ratio of PPO is 1, which no clip touches; its gradient is that of the log-probability.
        loss = -((log_probs - log_probs.detach()).exp() * advantages[rows]).sum() / mask.sum()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def _advantages(self, rollouts: Rollouts, mask: torch.Tensor) -> torch.Tensor:
        rewards = torch.zeros(mask.shape)
        rewards[:, 0] = torch.from_numpy(rollouts.scores)
        advantages, _ = compute_grpo_outcome_advantage(rewards, mask, rollouts.groups)
        advantages = without_single_rollouts(advantages, rollouts.groups)
        return weigh_prompts(clip_advantages(advantages, ADV_CLIP), rollouts.groups, self.settings.prompt_weight)

    def _log_probs(self, rollouts: Rollouts) -> torch.Tensor:
        """(B, response_length) log-probability of each response token."""
        prompts, responses = self.train_prompts, rollouts.token_ids
        input_ids = torch.cat([prompts.input_ids[rollouts.prompts], responses], dim=1)
        attention_mask = torch.cat([prompts.attention_mask[rollouts.prompts], torch.ones_like(responses)], dim=1)
        position_ids = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids).logits
        of_responses = logits[:, -responses.shape[1] - 1 : -1].log_softmax(dim=-1)
        return of_responses.gather(-1, responses.unsqueeze(-1)).squeeze(-1)


_CPU = torch.device("cpu")


def _response_mask(token_ids: torch.Tensor) -> torch.Tensor:
    """(B, response_length) float, 1 up to and including the end of sequence (token 0, which also pads)."""
    is_end = token_ids == 0
    return ((is_end.cumsum(dim=-1) - is_end.long()) == 0).float()
