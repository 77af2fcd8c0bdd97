"""The type of an array; shapes and element types stand in the docstrings, where NumPy's types cannot say them."""

from typing import Any, TypeAlias

import numpy.typing as npt

__all__ = ["Array"]

Array: TypeAlias = npt.NDArray[Any]
