"""What training has learned about each prompt so far: success rate, belief, response length.

`TaskStatus` turns the rollouts of earlier steps into one success-rate estimate per prompt, which the knapsack
allocation needs (paper, section 4.2).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from knapsack_rl import status_records
from knapsack_rl.arrays import Array
from knapsack_rl.evidence import Evidence, counted_evidence, with_priors
from knapsack_rl.identity import prompt_id
from knapsack_rl.observations import (
    as_lengths,
    as_list,
    as_outcomes,
    as_rates,
    check_not_before,
)
from knapsack_rl.similar_prompts import SimilarPrompts
from knapsack_rl.status_file import TaskStatusError, checked_contents, read_status, write_status
from knapsack_rl.status_options import ESTIMATORS, STATUS_OPTIONS
from knapsack_rl.training_state import TrainingState, training_state

__all__ = ["ESTIMATORS", "STATUS_OPTIONS", "TaskStatus", "TaskStatusError", "prompt_id"]

logger = logging.getLogger(__name__)

_UNSEEN = 0  # the row that unknown prompts resolve to; it never receives a rollout


class TaskStatus:
    """Success rates and beliefs per prompt, estimated from the rollouts of earlier steps.

    Every estimator reads from the same counts, which are all kept whichever is chosen, so a run can be resumed with
    another estimator. Outcomes are Bernoulli: a rollout succeeds or it does not (paper, definition 1).

    * `previous_epoch` (paper, section 4.2): share of successes in the last epoch before the current one in which the
      prompt was observed. Rollouts of the current epoch do not enter it.
    * `window`: share of successes among the prompt's last `window` rollouts, across epochs.
    * `beta`: mean of a Beta posterior over discounted counts, `(S + k*mu) / (S + F + k)`. S and F are successes and
      failures, multiplied by `discount` at each new visit, and halved every `half_life` steps; mu is the mean success
      rate of all prompts in the last complete epoch (before there is one: in the current epoch so far, else 0.5), or of
      similar ones (`add_similar`); k is `prior_strength`.

    Args:
        estimator: one of `ESTIMATORS`.
        window: number of rollouts the window estimator remembers per prompt, at least 1.
        min_rollouts: a prompt counts as unseen while fewer rollouts than this entered its estimate, at least 1.
        discount: weight of a prompt's earlier visits at each new visit, in [0, 1], for `beta` and the mean length.
        half_life: steps in which the weight of `beta`'s counts halves besides, greater than 0; None = it does not.
        prior_strength: k above, in rollouts, greater than 0.
        prior_weight: rollouts that a prompt's own prior (`add_priors`) counts as, greater than 0.

    Raises:
        ValueError: an option is unknown or out of range.

    >>> status = TaskStatus("previous_epoch")
    >>> status.observe(["a", "a", "b", "b"], [True, False, True, True], epoch=0, step=1)
    >>> status.success_rates(["a", "b", "c"], epoch=0)
    array([nan, nan, nan])
    >>> status.success_rates(["a", "b", "c"], epoch=1)
    array([0.5, 1. , nan])
    """

    def __init__(
        self,
        estimator: str = "previous_epoch",
        *,
        window: int = 16,
        min_rollouts: int = 1,
        discount: float = 0.5,
        half_life: float | None = None,
        prior_strength: float = 1.0,
        prior_weight: float = 4.0,
    ) -> None:
        self.estimator, self.window, self.min_rollouts, self.half_life = estimator, window, min_rollouts, half_life
        self.discount, self.prior_strength, self.prior_weight = discount, prior_strength, prior_weight
        for name, option in STATUS_OPTIONS.items():
            if not option.accepts(getattr(self, name)):
                raise ValueError(f"{name} must be {option.accepted}, got {getattr(self, name)!r}")
        if self.estimator == "window" and self.min_rollouts > self.window:
            raise ValueError(
                f"min_rollouts={self.min_rollouts} can never be reached by a window of {self.window} rollouts; "
                "lower min_rollouts or widen the window"
            )
        self._epoch = status_records.NO_EPOCH
        self._step = -1
        self._row_of: dict[str, int] = {}
        self._records = status_records.empty_records(1, self.window)
        self._priors: dict[str, float] = {}
        self._similar = SimilarPrompts()
        self._prior_means: dict[int, float] = {}  # by epoch: fixed while that epoch runs, and costly for many prompts

    def __len__(self) -> int:
        """Number of distinct prompts observed."""
        return len(self._row_of)

    def __contains__(self, prompt: object) -> bool:
        return prompt in self._row_of

    @property
    def prompt_ids(self) -> list[str]:
        """Ids of all observed prompts, in the order in which they were first observed."""
        return list(self._row_of)

    @property
    def epoch(self) -> int:
        """Epoch of the latest observation, -1 before the first."""
        return self._epoch

    @property
    def step(self) -> int:
        """Step of the latest observation, -1 before the first."""
        return self._step

    def add_priors(self, prompt_ids: Iterable[str], rates: Array | Sequence[float]) -> None:
        """Take success rates that were known before training for a visit of `prior_weight` rollouts before the first.

        `beta` counts it as an earlier visit, discounted like any other. `previous_epoch` and `window` use it until they
        have counts of their own. A prompt that was observed already keeps what it has. Priors are options, nothing
        learned: `state_dict` does not hold them.

        Args:
            prompt_ids: K ids.
            rates: (K,) in [0, 1].

        Raises:
            TypeError: an id is not a string.
            ValueError: a rate is no number in [0, 1].
        """
        prompt_ids = as_list(prompt_ids)
        self._priors.update(zip(prompt_ids, as_rates(rates, len(prompt_ids), "priors").tolist(), strict=True))

    def add_similar(self, prompt_ids: Iterable[str], labels: Sequence[str | None]) -> None:
        """Take prompts with the same label for similar: what was seen of them is the prior mean mu of each.

        It is the mean of their rates in the last epoch of each, the running one included, and of one prompt with the
        mean of all. One without rollouts that count takes it for its estimate.
        """
        self._similar.add(as_list(prompt_ids), labels)

    def success_rates(self, prompt_ids: Iterable[str], *, epoch: int, step: int | None = None) -> Array:
        """Estimate the success rates of prompts that are about to be sampled in `epoch`.

        Args:
            prompt_ids: M ids; repeats are allowed.
            epoch: the current epoch, counted from 0; not below the epoch of the latest observation.
            step: the training step, up to which counts age; None, or one before it = that of the latest observation.

        Returns:
            (M,) float64 in [0, 1]; NaN for a prompt with fewer than `min_rollouts` rollouts, without a prior of its
            own, and with no similar prompt that was seen.

        Raises:
            ValueError: `epoch` lies before the latest observation.
        """
        prompt_ids = as_list(prompt_ids)
        successes, failures, is_seen = self._evidence(prompt_ids, epoch, step)
        prior_means, is_similar = self._prior_means_of(prompt_ids, epoch)
        if self.estimator == "beta":
            successes = successes + self.prior_strength * prior_means
            failures = failures + self.prior_strength * (1.0 - prior_means)
        rates = np.where(is_similar, prior_means, np.nan)
        np.divide(successes, successes + failures, out=rates, where=is_seen)
        return rates

    def beliefs(self, prompt_ids: Iterable[str], *, epoch: int, step: int | None = None) -> tuple[Array, Array]:
        """Parameters of a Beta belief about each prompt's success rate.

        The prior Beta(k*mu, k*(1-mu)) plus the successes and failures that the chosen estimator counts. The mean of
        the `beta` estimator's belief is its success rate; `previous_epoch` and `window` add the same prior to their
        own counts here.

        Args and raises: as `success_rates`.

        Returns:
            `(alpha, beta)`, (M,) float64 each, all greater than 0; the prior where `success_rates` is NaN.
        """
        prompt_ids = as_list(prompt_ids)
        successes, failures, is_seen = self._evidence(prompt_ids, epoch, step)
        prior_means, _ = self._prior_means_of(prompt_ids, epoch)
        successes, failures = np.where(is_seen, successes, 0.0), np.where(is_seen, failures, 0.0)
        return self.prior_strength * prior_means + successes, self.prior_strength * (1.0 - prior_means) + failures

    def greedy_match_rates(self, prompt_ids: Iterable[str], *, epoch: int, step: int | None = None) -> Array:
        """Probability that a sampled rollout earns what the greedy rollout earned (ReMax; paper, appendix B).

        The success rate p where the prompt's latest greedy rollout succeeded, 1 - p where it failed.

        Args and raises: as `success_rates`.

        Returns:
            (M,) float64 in [0, 1]; NaN where the success rate or the greedy outcome is unknown.
        """
        prompt_ids = as_list(prompt_ids)
        rates = self.success_rates(prompt_ids, epoch=epoch, step=step)
        greedy = self._records_of(prompt_ids)["greedy_success"]
        return np.select([greedy == 1, greedy == 0], [rates, 1.0 - rates], default=np.nan)

    def training_state(self, *, epoch: int, step: int) -> TrainingState:
        """How far training has come when a step is planned; see `TrainingState`."""
        return training_state(self._records[1 : 1 + len(self)], step=step, epoch=epoch)

    def steps_since_review(self, prompt_ids: Iterable[str], *, step: int) -> Array:
        """(M,) float64, steps since each prompt's last visit with mixed outcomes or enough rollouts; NaN = unseen."""
        return status_records.steps_since_review(self._records_of(prompt_ids), step)

    def mean_response_lengths(self, prompt_ids: Iterable[str]) -> Array:
        """Mean number of tokens of each prompt's responses, earlier visits weighted down by `discount` per visit.

        Returns:
            (M,) float64 in tokens; NaN where no length was ever observed.
        """
        return status_records.mean_lengths(self._records_of(prompt_ids))

    def expected_response_lengths(self, prompt_ids: Iterable[str]) -> Array:
        """As `mean_response_lengths`, with the mean of all prompts for a prompt whose lengths were never observed.

        Returns:
            (M,) float64 in tokens; NaN only while no length of any prompt was observed.
        """
        own = self.mean_response_lengths(prompt_ids)
        is_unknown = np.isnan(own)
        return np.where(is_unknown, status_records.mean_length(self._records), own) if is_unknown.any() else own

    def observe(
        self,
        prompt_ids: Iterable[str],
        successes: Array | Sequence[bool],
        *,
        epoch: int,
        step: int,
        response_lengths: Array | Sequence[float] | None = None,
        greedy_successes: Array | Sequence[bool] | None = None,
        enough_rollouts: int = 8,
    ) -> None:
        """Record the outcomes of rollouts. Either all of them are recorded or, on an error, none.

        Args:
            prompt_ids: id of each rollout's prompt, B entries in any order.
            successes: (B,) bool or {0, 1}: did the rollout succeed?
            epoch: epoch in which the rollouts were sampled; never decreases from call to call.
            step: training step that sampled them; never decreases. A step may be observed in several calls.
            response_lengths: (B,) response tokens of each rollout, or None if unknown.
            greedy_successes: (B,) bool or {0, 1}: did the greedy rollout of this rollout's prompt succeed? None if
                there was none. Where the entries of one prompt disagree, the majority counts.
            enough_rollouts: a visit with so many rollouts counts as a review, whatever they earned.

        Raises:
            TypeError: a prompt id is not a string.
            ValueError: lengths differ, an outcome is neither 0 nor 1, a length is negative or not finite, or `epoch`
                or `step` lies before the latest observation.
        """
        prompt_ids = as_list(prompt_ids)
        num_rollouts = len(prompt_ids)
        outcomes = as_outcomes(successes, num_rollouts, "successes")
        lengths = None if response_lengths is None else as_lengths(response_lengths, num_rollouts)
        greedy = None if greedy_successes is None else as_outcomes(greedy_successes, num_rollouts, "greedy_successes")
        check_not_before(epoch, self._epoch, "epoch")
        check_not_before(step, self._step, "step")

        self._epoch, self._step = int(epoch), int(step)
        if num_rollouts == 0:
            return
        rows, prompt_index = np.unique(self._add_rows(prompt_ids), return_inverse=True)
        records = self._records[rows]
        status_records.count_in_epoch(records, prompt_index, outcomes, self._epoch)
        remembered = self.discount * status_records.share_remembered(records, self._step, self.half_life)
        status_records.count_discounted(records, prompt_index, outcomes, remembered)
        status_records.slide_window(records, prompt_index, outcomes)
        status_records.count_visit(records, prompt_index, outcomes, step=self._step, enough_rollouts=enough_rollouts)
        if lengths is not None:
            status_records.count_lengths(records, prompt_index, lengths, self.discount)
        if greedy is not None:
            status_records.count_greedy(records, prompt_index, greedy)
        self._records[rows] = records
        if self._epoch not in self._prior_means:
            self._prior_means = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything known and every option, as NumPy arrays and scalars that own their memory."""
        return {
            **{name: option for name in STATUS_OPTIONS if (option := getattr(self, name)) is not None},
            "epoch": self._epoch,
            "step": self._step,
            "prompt_ids": np.array([identity.encode() for identity in self._row_of], dtype=np.bytes_),
            "records": self._records[1 : 1 + len(self)].copy(),
            **self._similar.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what is known by `state`; the options of this object stay as they are.

        A state of another estimator is used in full: all share their counts. A wider window fills up as rollouts come.

        Raises:
            TaskStatusError: an entry is missing or inconsistent; this object is unchanged then.
        """
        row_of, records, similar = checked_contents(state)
        if str(state["estimator"]) != self.estimator:
            logger.info("task status saved with estimator %s continues with %s", state["estimator"], self.estimator)
        self._records = status_records.with_window(records, self.window)
        self._row_of, self._similar, self._prior_means = row_of, similar, {}
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the status to one `.npz` file, atomically: afterwards the file is complete or as it was before.

        The same status always gives the same bytes. The file holds a format version, the options and a checksum over
        its content; nothing in it is pickled.
        """
        write_status(Path(path), self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> TaskStatus:
        """Read a status that `save` wrote.

        Args:
            path: the file.
            **options: constructor arguments that replace the saved ones, such as `estimator="beta"`.

        Raises:
            FileNotFoundError: there is no such file.
            TaskStatusError: the file is truncated, damaged, of a newer format, or not a task status; names the path.
        """
        state = read_status(Path(path))
        saved = {name: np.asarray(state[name]).item() for name in STATUS_OPTIONS if name in state}
        status = cls(**{**saved, **options})
        try:
            status.load_state_dict(state)
        except TaskStatusError as error:
            raise TaskStatusError(f"{path}: {error}") from error
        return status

    def _records_of(self, prompt_ids: Iterable[str]) -> Array:
        row_of = self._row_of
        rows = [row_of.get(identity, _UNSEEN) for identity in as_list(prompt_ids)]
        return self._records[np.array(rows, dtype=np.int64)]

    def _add_rows(self, prompt_ids: list[str]) -> Array:
        """Row of each id; ids never seen before get the next free rows."""
        row_of, num_known = self._row_of, len(self._row_of)
        rows = np.array([row_of.setdefault(identity, len(row_of) + 1) for identity in prompt_ids], dtype=np.int64)
        num_before, num_rows = num_known + 1, len(row_of) + 1
        if num_rows > len(self._records):
            grown = status_records.empty_records(max(num_rows, 2 * len(self._records)), self.window)
            grown[: len(self._records)] = self._records
            self._records = grown
        if self._priors and num_rows > num_before:
            new = list(islice(row_of, num_known, None))
            status_records.count_prior(self._records[num_before:num_rows], self._priors_of(new), self.prior_weight)
        return rows

    def _priors_of(self, prompt_ids: list[str]) -> Array:
        """(M,) prior of each prompt; NaN where there is none."""
        return np.array([self._priors.get(identity, np.nan) for identity in prompt_ids])

    def _evidence(self, prompt_ids: list[str], epoch: int, step: int | None) -> Evidence:
        """What the estimator counts for each prompt, and for those without counts their prior."""
        check_not_before(epoch, self._epoch, "epoch")
        records = self._records_of(prompt_ids)
        now = self._step if step is None else max(step, self._step)
        remembered = status_records.share_remembered(records, now, self.half_life)
        evidence = counted_evidence(records, self.estimator, epoch, self.min_rollouts, remembered)
        if not self._priors:
            return evidence
        has_counts = records["total_rollouts"] > 0 if self.estimator == "beta" else evidence.is_seen
        return with_priors(evidence, has_counts, self._priors_of(prompt_ids), self.prior_weight)

    def _prior_means_of(self, prompt_ids: list[str], epoch: int) -> tuple[Array, Array]:
        """(M,) mean of each prompt's prior, and (M,) bool, whether it is that of similar prompts."""
        common = self._prior_mean(epoch)
        if not self._similar or len(self) == 0:
            return np.full(len(prompt_ids), common), np.zeros(len(prompt_ids), dtype=bool)
        rates = status_records.latest_rates(self._records[1 : 1 + len(self)])
        means = self._similar.means(prompt_ids, self._row_of, rates, common)
        is_similar = ~np.isnan(means)
        return np.where(is_similar, means, common), is_similar

    def _prior_mean(self, epoch: int) -> float:
        """Mean over prompts of the success rate in the last epoch before `epoch`; see the class docstring."""
        if epoch in self._prior_means:
            return self._prior_means[epoch]
        if len(self) == 0:
            return 0.5
        mean, is_final = status_records.mean_before(self._records[1 : 1 + len(self)], epoch)
        if is_final:
            self._prior_means = {epoch: mean}
        return mean
