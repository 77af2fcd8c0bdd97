"""What training has learned about each prompt so far: identity, success rate, belief, persistence.

`TaskStatus` turns the rollouts of earlier steps into one success-rate estimate per prompt, which the knapsack
allocation needs (paper, section 4.2). Arrays in, arrays out; nothing but NumPy and the standard library, so that any
trainer can use this file.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ESTIMATORS", "TaskStatus", "TaskStatusError", "prompt_id"]

logger = logging.getLogger(__name__)

ESTIMATORS = ("previous_epoch", "window", "beta")

_FORMAT = "knapsack-rl task status"
_FORMAT_VERSION = 1
_UNSEEN = 0  # the row that unknown prompts resolve to; it never receives a rollout
_NO_EPOCH = -1
_NO_OUTCOME = -1
_UNKNOWN_GREEDY = -1
# A prior mean of exactly 0 or 1 has no Beta distribution, so the prior stays this far away from both.
_PRIOR_MEAN_MARGIN = 1e-3


class TaskStatusError(ValueError):
    """A saved task status is damaged, incomplete, or not a task status at all."""


def prompt_id(data_source: str, prompt: str | Sequence[Mapping[str, Any]] | np.ndarray, *, media: Any = None) -> str:
    """Identify a prompt by its content.

    The id depends on the data source, the messages and the media and on nothing else: not on the order of keys in a
    message, on NumPy wrappers, on keys that a parquet reader filled with None, on the position in the data set, or on
    the process that computes it.

    Args:
        data_source: name of the data set the prompt comes from.
        prompt: the prompt's text, or its messages (`{"role": ..., "content": ...}`; content may be a list of parts).
        media: images, videos or audio that the messages refer to by placeholder only, in any nesting of lists and
            dicts. Without them, two questions that differ only in the picture share an id. Accepts bytes and
            everything that NumPy can read as an array (PIL images, tensors).

    Returns:
        32 hexadecimal characters (BLAKE2b, 128 bits).

    Raises:
        TypeError: `data_source` is not a string, or the content holds an object that has no canonical form.

    >>> prompt_id("math", [{"role": "user", "content": "1 + 1 ="}])
    '46212d7341adc99cfa60e1170ae8efd0'
    >>> prompt_id("math", np.array([{"content": "1 + 1 =", "role": "user"}]))
    '46212d7341adc99cfa60e1170ae8efd0'
    """
    if not isinstance(data_source, str):
        raise TypeError(f"data_source must be a string, got {type(data_source).__name__}: {data_source!r}")
    content = [str(data_source), _canonical(prompt)]
    if media is not None:
        content.append(_canonical(media))
    serialized = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(serialized.encode(), digest_size=16).hexdigest()


def _canonical(value: Any) -> Any:
    """Reduce a message or media value to what JSON writes in one way only."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return _canonical(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": hashlib.blake2b(value, digest_size=16).hexdigest()}
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        array = np.ascontiguousarray(np.asarray(value))
        digest = hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()
        return {"array": digest, "dtype": array.dtype.str, "shape": list(array.shape)}
    raise TypeError(
        f"a prompt may hold strings, numbers, lists, dicts, bytes and array-like media, got {type(value).__name__}"
    )


class TaskStatus:
    """Success rates and beliefs per prompt, estimated from the rollouts of earlier steps.

    Every estimator reads from the same counts, which are all kept whichever is chosen, so a run can be resumed with
    another estimator. Outcomes are Bernoulli: a rollout succeeds or it does not (paper, definition 1).

    * `previous_epoch` (paper, section 4.2): share of successes in the last epoch before the current one in which the
      prompt was observed. Rollouts of the current epoch do not enter it.
    * `window`: share of successes among the prompt's last `window` rollouts, across epochs.
    * `beta`: mean of a Beta posterior over discounted counts, `(S + k*mu) / (S + F + k)`. S and F are successes and
      failures, multiplied by `discount` at each new visit; mu is the mean success rate of all prompts in the last
      complete epoch (before there is one: in the current epoch so far, else 0.5); k is `prior_strength`.

    Args:
        estimator: one of `ESTIMATORS`.
        window: number of rollouts the window estimator remembers per prompt, at least 1.
        min_rollouts: a prompt counts as unseen while fewer rollouts than this entered its estimate, at least 1.
        discount: weight of a prompt's earlier visits at each new visit, in [0, 1]; used for the beta estimator and
            for the mean response length.
        prior_strength: k above, in rollouts, greater than 0.

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
        prior_strength: float = 1.0,
    ) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        if not 0.0 <= discount <= 1.0:
            raise ValueError(f"discount must be in [0, 1], got {discount}")
        if not 0.0 < prior_strength < np.inf:
            raise ValueError(f"prior_strength must be a finite number greater than 0, got {prior_strength}")
        self.estimator = estimator
        self.window = _integer_at_least(1, window, "window")
        self.min_rollouts = _integer_at_least(1, min_rollouts, "min_rollouts")
        self.discount = float(discount)
        self.prior_strength = float(prior_strength)
        if self.estimator == "window" and self.min_rollouts > self.window:
            raise ValueError(
                f"min_rollouts={self.min_rollouts} can never be reached by a window of {self.window} rollouts; "
                "lower min_rollouts or widen the window"
            )
        self._epoch = _NO_EPOCH
        self._step = -1
        self._row_of: dict[str, int] = {}
        self._records = _empty_records(1, self.window)
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

    def success_rates(self, prompt_ids: Iterable[str], *, epoch: int) -> np.ndarray:
        """Estimate the success rates of prompts that are about to be sampled in `epoch`.

        Args:
            prompt_ids: M ids; repeats are allowed.
            epoch: the current epoch, counted from 0; not below the epoch of the latest observation.

        Returns:
            (M,) float64 in [0, 1]; NaN for a prompt that is unseen or has fewer than `min_rollouts` rollouts.

        Raises:
            ValueError: `epoch` lies before the latest observation.
        """
        records = self._records_of(prompt_ids)
        successes, failures, is_seen = self._evidence(records, epoch)
        if self.estimator == "beta":
            prior_mean = self._prior_mean(epoch)
            successes = successes + self.prior_strength * prior_mean
            failures = failures + self.prior_strength * (1.0 - prior_mean)
        rates = np.full(len(records), np.nan)
        np.divide(successes, successes + failures, out=rates, where=is_seen)
        return rates

    def beliefs(self, prompt_ids: Iterable[str], *, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Parameters of a Beta belief about each prompt's success rate.

        The prior Beta(k*mu, k*(1-mu)) plus the successes and failures that the chosen estimator counts. The mean of
        the `beta` estimator's belief is its success rate; `previous_epoch` and `window` add the same prior to their
        own counts here.

        Args and raises: as `success_rates`.

        Returns:
            `(alpha, beta)`, (M,) float64 each, all greater than 0; the prior where `success_rates` is NaN.
        """
        records = self._records_of(prompt_ids)
        successes, failures, is_seen = self._evidence(records, epoch)
        prior_mean = self._prior_mean(epoch)
        alpha = self.prior_strength * prior_mean + np.where(is_seen, successes, 0.0)
        beta = self.prior_strength * (1.0 - prior_mean) + np.where(is_seen, failures, 0.0)
        return alpha, beta

    def greedy_match_rates(self, prompt_ids: Iterable[str], *, epoch: int) -> np.ndarray:
        """Probability that a sampled rollout earns what the greedy rollout earned (ReMax; paper, appendix B).

        The success rate p where the prompt's latest greedy rollout succeeded, 1 - p where it failed.

        Args and raises: as `success_rates`.

        Returns:
            (M,) float64 in [0, 1]; NaN where the success rate or the greedy outcome is unknown.
        """
        prompt_ids = list(prompt_ids)
        rates = self.success_rates(prompt_ids, epoch=epoch)
        greedy = self._records_of(prompt_ids)["greedy_success"]
        return np.select([greedy == 1, greedy == 0], [rates, 1.0 - rates], default=np.nan)

    def mean_response_lengths(self, prompt_ids: Iterable[str]) -> np.ndarray:
        """Mean number of tokens of each prompt's responses, earlier visits weighted down by `discount` per visit.

        Returns:
            (M,) float64 in tokens; NaN where no length was ever observed.
        """
        records = self._records_of(prompt_ids)
        lengths = np.full(len(records), np.nan)
        count = records["discounted_lengths"]
        np.divide(records["discounted_tokens"], count, out=lengths, where=count > 0)
        return lengths

    def observe(
        self,
        prompt_ids: Iterable[str],
        successes: np.ndarray | Sequence[bool],
        *,
        epoch: int,
        step: int,
        response_lengths: np.ndarray | Sequence[float] | None = None,
        greedy_successes: np.ndarray | Sequence[bool] | None = None,
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

        Raises:
            TypeError: a prompt id is not a string.
            ValueError: lengths differ, an outcome is neither 0 nor 1, a length is negative or not finite, or `epoch`
                or `step` lies before the latest observation.
        """
        prompt_ids = _as_list(prompt_ids)
        foreign = {type(identity).__name__ for identity in prompt_ids if not isinstance(identity, str)}
        if foreign:
            raise TypeError(f"prompt ids must be strings as prompt_id makes them, got {', '.join(sorted(foreign))}")
        num_rollouts = len(prompt_ids)
        outcomes = _as_outcomes(successes, num_rollouts, "successes")
        lengths = None if response_lengths is None else _as_lengths(response_lengths, num_rollouts)
        greedy = None if greedy_successes is None else _as_outcomes(greedy_successes, num_rollouts, "greedy_successes")
        self._check_not_before(epoch, self._epoch, "epoch")
        self._check_not_before(step, self._step, "step")

        self._epoch, self._step = int(epoch), int(step)
        if num_rollouts == 0:
            return
        rows, prompt_index = np.unique(self._add_rows(prompt_ids), return_inverse=True)
        records = self._records[rows]
        _count_in_epoch(records, prompt_index, outcomes, self._epoch)
        _count_discounted(records, prompt_index, outcomes, self.discount)
        _slide_window(records, prompt_index, outcomes)
        if lengths is not None:
            _count_lengths(records, prompt_index, lengths, self.discount)
        if greedy is not None:
            share = _sum_by(prompt_index, greedy, len(records)) / np.bincount(prompt_index, minlength=len(records))
            records["greedy_success"] = share > 0.5
        self._records[rows] = records
        if self._epoch not in self._prior_means:
            self._prior_means = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything known and every option, as NumPy arrays and scalars that own their memory."""
        return {
            "estimator": self.estimator,
            "window": self.window,
            "min_rollouts": self.min_rollouts,
            "discount": self.discount,
            "prior_strength": self.prior_strength,
            "epoch": self._epoch,
            "step": self._step,
            "prompt_ids": np.array([identity.encode() for identity in self._row_of], dtype=np.bytes_),
            "records": self._records[1 : 1 + len(self)].copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what is known by `state`; the options of this object stay as they are.

        A state saved under another estimator is used in full, since all estimators share their counts. A window that
        is wider than the saved one fills up as rollouts come.

        Raises:
            TaskStatusError: an entry is missing or inconsistent; this object is unchanged then.
        """
        row_of, records = _checked_contents(state)
        if str(state["estimator"]) != self.estimator:
            logger.info("task status saved with estimator %s continues with %s", state["estimator"], self.estimator)
        resized = _empty_records(1 + len(records), self.window)
        for name in records.dtype.names:
            if name != "outcomes":
                resized[name][1:] = records[name]
        width = min(self.window, records["outcomes"].shape[1])
        resized["outcomes"][1:, self.window - width :] = records["outcomes"][:, records["outcomes"].shape[1] - width :]
        self._row_of, self._records, self._prior_means = row_of, resized, {}
        self._epoch, self._step = int(state["epoch"]), int(state["step"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the status to one `.npz` file, atomically: afterwards the file is complete or as it was before.

        The same status always gives the same bytes. The file holds a format version, the options and a checksum over
        its content; nothing in it is pickled.
        """
        content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **self.state_dict()}
        arrays = {name: np.asarray(value) for name, value in content.items()}
        arrays["checksum"] = np.asarray(_checksum(arrays))
        _replace_atomically(Path(path), arrays)

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
        state = _read(Path(path))
        saved = {
            "estimator": str(state["estimator"]),
            "window": int(state["window"]),
            "min_rollouts": int(state["min_rollouts"]),
            "discount": float(state["discount"]),
            "prior_strength": float(state["prior_strength"]),
        }
        status = cls(**{**saved, **options})
        try:
            status.load_state_dict(state)
        except TaskStatusError as error:
            raise TaskStatusError(f"{path}: {error}") from error
        return status

    def _records_of(self, prompt_ids: Iterable[str]) -> np.ndarray:
        row_of = self._row_of
        rows = [row_of.get(identity, _UNSEEN) for identity in _as_list(prompt_ids)]
        return self._records[np.array(rows, dtype=np.int64)]

    def _add_rows(self, prompt_ids: list[str]) -> np.ndarray:
        """Row of each id; ids never seen before get the next free rows."""
        row_of = self._row_of
        rows = np.array([row_of.setdefault(identity, len(row_of) + 1) for identity in prompt_ids], dtype=np.int64)
        num_rows = len(row_of) + 1
        if num_rows > len(self._records):
            grown = _empty_records(max(num_rows, 2 * len(self._records)), self.window)
            grown[: len(self._records)] = self._records
            self._records = grown
        return rows

    def _evidence(self, records: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(successes, failures, is_seen) that the estimator counts for each record."""
        self._check_not_before(epoch, self._epoch, "epoch")
        if self.estimator == "previous_epoch":
            successes, rollouts = _counts_before(records, epoch)
            return successes, rollouts - successes, rollouts >= self.min_rollouts
        if self.estimator == "window":
            successes = np.sum(records["outcomes"] == 1, axis=1).astype(np.float64)
            failures = np.sum(records["outcomes"] == 0, axis=1).astype(np.float64)
            return successes, failures, successes + failures >= self.min_rollouts
        is_seen = records["total_rollouts"] >= self.min_rollouts
        return records["discounted_successes"], records["discounted_failures"], is_seen

    def _prior_mean(self, epoch: int) -> float:
        """Mean over prompts of the success rate in the last epoch before `epoch`; see the class docstring."""
        if epoch in self._prior_means:
            return self._prior_means[epoch]
        if len(self) == 0:
            return 0.5
        records = self._records[1 : 1 + len(self)]
        last_epoch, earlier_epoch = records["last_epoch"], records["earlier_epoch"]
        observed_epoch = np.where(last_epoch < epoch, last_epoch, earlier_epoch)
        newest = observed_epoch.max()
        if newest == _NO_EPOCH:
            return _mean_rate(records["last_successes"], records["last_rollouts"])
        successes, rollouts = _counts_before(records, epoch)
        mean = _mean_rate(successes[observed_epoch == newest], rollouts[observed_epoch == newest])
        self._prior_means = {epoch: mean}
        return mean

    @staticmethod
    def _check_not_before(value: int, latest: int, name: str) -> None:
        if value < max(latest, 0):
            expected = "it is counted from 0" if value < 0 else f"{name} {latest} was already observed"
            raise ValueError(f"{name} {value} is not valid: {expected}. Was the status restored with its checkpoint?")


def _record_dtype(window: int) -> np.dtype:
    """What is kept of one prompt. Byte order is fixed so that a saved status is the same on every machine."""
    return np.dtype(
        [
            ("last_epoch", "<i8"),  # the latest epoch in which the prompt was observed, with its counts
            ("last_successes", "<i8"),
            ("last_rollouts", "<i8"),
            ("earlier_epoch", "<i8"),  # the one before it: the estimate while the latest epoch is still running
            ("earlier_successes", "<i8"),
            ("earlier_rollouts", "<i8"),
            ("total_rollouts", "<i8"),
            ("discounted_successes", "<f8"),
            ("discounted_failures", "<f8"),
            ("discounted_tokens", "<f8"),
            ("discounted_lengths", "<f8"),  # number of rollouts behind discounted_tokens
            ("greedy_success", "i1"),
            ("outcomes", "i1", (window,)),  # newest last; _NO_OUTCOME where there are fewer rollouts than the window
        ]
    )


def _empty_records(num_records: int, window: int) -> np.ndarray:
    records = np.zeros(num_records, dtype=_record_dtype(window))
    records["last_epoch"] = _NO_EPOCH
    records["earlier_epoch"] = _NO_EPOCH
    records["greedy_success"] = _UNKNOWN_GREEDY
    records["outcomes"] = _NO_OUTCOME
    return records


def _counts_before(records: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(successes, rollouts) of each record in the last epoch before `epoch` in which it was observed."""
    is_before = records["last_epoch"] < epoch
    successes = np.where(is_before, records["last_successes"], records["earlier_successes"])
    rollouts = np.where(is_before, records["last_rollouts"], records["earlier_rollouts"])
    return successes, rollouts


def _mean_rate(successes: np.ndarray, rollouts: np.ndarray) -> float:
    mean = float(np.mean(successes / rollouts))
    return min(max(mean, _PRIOR_MEAN_MARGIN), 1.0 - _PRIOR_MEAN_MARGIN)


def _sum_by(index: np.ndarray, values: np.ndarray, num_groups: int) -> np.ndarray:
    return np.bincount(index, weights=values, minlength=num_groups)


def _count_in_epoch(records: np.ndarray, prompt_index: np.ndarray, outcomes: np.ndarray, epoch: int) -> None:
    is_new_epoch = (records["last_epoch"] != epoch) & (records["last_epoch"] != _NO_EPOCH)
    for name in ("epoch", "successes", "rollouts"):
        records["earlier_" + name][is_new_epoch] = records["last_" + name][is_new_epoch]
    for name in ("successes", "rollouts"):
        records["last_" + name][is_new_epoch] = 0
    records["last_epoch"] = epoch
    rollouts = np.bincount(prompt_index, minlength=len(records))
    records["last_successes"] += _sum_by(prompt_index, outcomes, len(records)).astype(np.int64)
    records["last_rollouts"] += rollouts
    records["total_rollouts"] += rollouts


def _count_discounted(records: np.ndarray, prompt_index: np.ndarray, outcomes: np.ndarray, discount: float) -> None:
    successes = _sum_by(prompt_index, outcomes, len(records))
    failures = _sum_by(prompt_index, 1 - outcomes, len(records))
    records["discounted_successes"] = discount * records["discounted_successes"] + successes
    records["discounted_failures"] = discount * records["discounted_failures"] + failures


def _count_lengths(records: np.ndarray, prompt_index: np.ndarray, lengths: np.ndarray, discount: float) -> None:
    tokens = _sum_by(prompt_index, lengths, len(records))
    rollouts = np.bincount(prompt_index, minlength=len(records))
    records["discounted_tokens"] = discount * records["discounted_tokens"] + tokens
    records["discounted_lengths"] = discount * records["discounted_lengths"] + rollouts


def _slide_window(records: np.ndarray, prompt_index: np.ndarray, outcomes: np.ndarray) -> None:
    """Append each prompt's outcomes, in their order, to its window and let the oldest fall out."""
    window = records["outcomes"].shape[1]
    rollouts = np.bincount(prompt_index, minlength=len(records))
    kept = np.minimum(rollouts, window)
    source = np.arange(window) + kept[:, None]
    padded = np.pad(records["outcomes"], ((0, 0), (0, window)), constant_values=_NO_OUTCOME)
    slid = np.take_along_axis(padded, source, axis=1)

    by_prompt = np.argsort(prompt_index, kind="stable")
    prompt_of = prompt_index[by_prompt]
    from_end = np.cumsum(rollouts)[prompt_of] - np.arange(len(by_prompt))
    is_kept = from_end <= window
    slid[prompt_of[is_kept], window - from_end[is_kept]] = outcomes[by_prompt][is_kept]
    records["outcomes"] = slid


def _as_list(prompt_ids: Iterable[str]) -> list[str]:
    return prompt_ids.tolist() if isinstance(prompt_ids, np.ndarray) else list(prompt_ids)


def _as_column(values: Any, length: int, name: str) -> np.ndarray:
    column = np.asarray(values)
    if column.shape != (length,):
        raise ValueError(f"{name} must hold one value for each of the {length} rollouts, got shape {column.shape}")
    return column


def _as_outcomes(values: Any, length: int, name: str) -> np.ndarray:
    """(length,) int8 of 0 and 1."""
    column = _as_column(values, length, name)
    is_outcome = (column == 0) | (column == 1)
    if not np.all(is_outcome):
        position = int(np.argmin(is_outcome))
        raise ValueError(f"{name} must be True or False (1 or 0), got {column[position]!r} for rollout {position}")
    return column.astype(np.int8)


def _as_lengths(values: Any, length: int) -> np.ndarray:
    column = _as_column(values, length, "response_lengths").astype(np.float64)
    is_length = np.isfinite(column) & (column >= 0)
    if not np.all(is_length):
        position = int(np.argmin(is_length))
        raise ValueError(f"response_lengths must be token counts, got {column[position]} for rollout {position}")
    return column


def _integer_at_least(minimum: int, value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def _checked_contents(state: Mapping[str, Any]) -> tuple[dict[str, int], np.ndarray]:
    """The state's row per prompt id and its records, after checking that they fit together."""
    missing = [name for name in ("estimator", "epoch", "step", "prompt_ids", "records") if name not in state]
    if missing:
        raise TaskStatusError(f"the task status lacks {', '.join(missing)}")
    identities, records = np.asarray(state["prompt_ids"]), np.asarray(state["records"])
    outcomes = records.dtype.fields.get("outcomes") if records.dtype.fields else None
    window = outcomes[0].shape[0] if outcomes is not None and outcomes[0].shape else 0
    if records.ndim != 1 or window < 1 or records.dtype != _record_dtype(window):
        raise TaskStatusError(f"the task status has records of an unknown layout: {records.dtype}")
    if identities.shape != records.shape:
        raise TaskStatusError(f"the task status has {len(identities)} prompt ids for {len(records)} records")
    row_of = {identity.decode(): row for row, identity in enumerate(identities.tolist(), start=1)}
    if len(row_of) != len(records):
        raise TaskStatusError(f"the task status holds {len(records) - len(row_of)} prompt ids more than once")
    return row_of, records


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.descr}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _replace_atomically(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays beside `path`, force them to disk, then take the place of `path` in one operation."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Force a renamed entry to disk; without this a power cut may undo the rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The verified content of a saved status."""
    content = io.BytesIO(path.read_bytes())
    unreadable = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
    try:
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise TaskStatusError(f"its part {damaged} fails its own check")
        content.seek(0)
        with np.load(content, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except unreadable as error:
        raise TaskStatusError(f"{path} cannot be read as a task status, it is truncated or damaged: {error}") from error
    if str(arrays.get("format")) != _FORMAT:
        raise TaskStatusError(f"{path} is not a task status: it holds {sorted(arrays) or 'nothing'}")
    version = str(arrays.get("format_version"))
    if version != str(_FORMAT_VERSION):
        raise TaskStatusError(f"{path} has format version {version}, this program reads version {_FORMAT_VERSION}")
    stored = str(arrays.pop("checksum", "none"))
    computed = _checksum(arrays)
    if stored != computed:
        raise TaskStatusError(f"{path} is damaged: its checksum is {stored}, its content gives {computed}")
    return arrays
