"""Overlay of ``verl.utils.dataset.rl_dataset``: a prompt without media is a text prompt, in any data set."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from verl.upstream import keep_upstream_names
from verl.upstream.utils.dataset.rl_dataset import RLHFDataset as UpstreamRLHFDataset
from verl.upstream.utils.dataset.rl_dataset import collate_fn

__all__ = ["RLHFDataset", "collate_fn"]


class RLHFDataset(UpstreamRLHFDataset):
    """Upstream's data set, which reads an empty image or video column of a row as none.

    Upstream rewrites the text of every message into a list of parts where the data merely have such a column. Chat
    templates of text models print that list, and a null column ends the filtering of long prompts.
    """

    def _build_messages(self, example: MutableMapping[str, Any]) -> list[dict[str, Any]]:
        """Return the messages of a row, whose prompt column is taken out."""
        empty = {
            key: example[key]
            for key in (self.image_key, self.video_key)
            if key in example and not _has_media(example[key])
        }
        for key in empty:
            del example[key]
        messages = super()._build_messages(example)
        if self.processor is None:  # all rows of a batch need the same columns; a processor takes out those with media
            example.update(empty)
        return messages


def _has_media(column: Any) -> bool:
    """Whether a row's image or video column holds anything: it may be null, empty, or a list of nulls."""
    return column is not None and any(entry is not None for entry in column)


keep_upstream_names(globals())
