"""What prompts that were seen tell of others: the mean success rate of prompts that are alike in columns of the data.

Data sets say where a prompt comes from (``data_source``) and often how hard it is (``extra_info.level``). Prompts with
the same values are similar, and their mean is a first estimate for one that was never sampled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["SimilarPrompts"]

_NO_LABEL = -1


class SimilarPrompts:
    """Labels of prompts; those with the same label are similar.

    Saved labels say what the prompts that were seen are. They act on a prompt that is asked for only if this run labels
    it too (`add`): where a run compares nothing, they are kept and do nothing.

    >>> similar = SimilarPrompts()
    >>> similar.add(["a", "b", "new"], ["easy", "hard", "easy"])
    >>> similar.means(["new"], {"a": 1, "b": 2}, np.array([1.0, 0.0]), common_mean=0.5)
    array([0.75])
    """

    def __init__(self) -> None:
        self._code_of_label: dict[str, int] = {}
        self._code_of: dict[str, int] = {}
        self._labelled_now: set[str] = set()
        self._seen_codes: list[int] = []  # of the seen prompts in their order, as far as they were asked for

    def __bool__(self) -> bool:
        return bool(self._labelled_now)

    def add(self, prompt_ids: Sequence[str], labels: Sequence[str | None]) -> None:
        """Label prompts; one that had a label gets the new one, None leaves it without.

        Raises:
            ValueError: there is not one label for each prompt, or it is no text.
        """
        if isinstance(labels, str) or len(labels) != len(prompt_ids):
            raise ValueError(f"similar must hold a label for each of {len(prompt_ids)} prompts, got {labels!r:.100}")
        wrong = [label for label in labels if not (label is None or isinstance(label, str))]
        if wrong:
            raise ValueError(
                f"a label of similar prompts must be text, or None for a prompt like no other: {wrong[0]!r}"
            )
        for identity, label in zip(prompt_ids, labels, strict=True):
            code = _NO_LABEL if label is None else self._code_of_label.setdefault(label, len(self._code_of_label))
            if self._code_of.get(identity) != code:
                self._code_of[identity] = code
                self._seen_codes = []
        self._labelled_now.update(prompt_ids)

    def means(self, prompt_ids: Sequence[str], seen: Mapping[str, int], rates: Array, common_mean: float) -> Array:
        """Mean success rate of the seen prompts that are similar to each prompt, and of one with the common mean.

        Args:
            prompt_ids: M ids.
            seen: the S prompts that were observed, in an order to which later ones are only added.
            rates: (S,) their success rates.
            common_mean: in (0, 1), to which a mean of few prompts is drawn.

        Returns:
            (M,) float64 in (0, 1); NaN for a prompt without a label or without a similar one that was seen.
        """
        known = len(self._seen_codes)
        self._seen_codes += [self._code_of.get(identity, _NO_LABEL) for identity in islice(seen, known, None)]
        codes = np.array(self._seen_codes, dtype=np.int64)
        is_labelled = codes != _NO_LABEL
        num_labels = len(self._code_of_label)
        counts = np.bincount(codes[is_labelled], minlength=num_labels)
        sums = np.bincount(codes[is_labelled], weights=rates[is_labelled], minlength=num_labels)
        means = np.append(np.where(counts > 0, (sums + common_mean) / (counts + 1), np.nan), np.nan)
        asked = [self._code_of[prompt] if prompt in self._labelled_now else _NO_LABEL for prompt in prompt_ids]
        return means[np.array(asked, dtype=np.int64)]

    def state_dict(self) -> dict[str, Array]:
        """The labels of all prompts, as the bytes of a JSON text; empty where no prompt has a label."""
        if not self._code_of_label:
            return {}
        state = {"labels": list(self._code_of_label), "prompts": self._code_of}
        return {"similar": np.frombuffer(json.dumps(state).encode(), dtype=np.uint8).copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SimilarPrompts:
        """What `state_dict` held; no labels where it held none.

        Raises:
            ValueError: it is no state of labels.
        """
        similar = cls()
        if "similar" not in state:
            return similar
        try:
            saved = json.loads(np.asarray(state["similar"], dtype=np.uint8).tobytes())
            codes = range(_NO_LABEL, len(saved["labels"]))
            if not all(code in codes for code in saved["prompts"].values()):
                raise ValueError("a prompt has a label that is not there")
            similar._code_of_label = {str(label): code for code, label in enumerate(saved["labels"])}
            similar._code_of = {str(identity): int(code) for identity, code in saved["prompts"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"its labels of similar prompts cannot be read: {error}") from error
        return similar
