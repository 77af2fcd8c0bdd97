"""Who a prompt is: a hash of its content, the same in every process, epoch and position of the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knapsack_rl.arrays import Array

__all__ = ["prompt_id"]


def prompt_id(data_source: str, prompt: str | Sequence[Mapping[str, Any]] | Array, *, media: Any = None) -> str:
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
