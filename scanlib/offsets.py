"""Offsets that no array library but NumPy has made: as a user writes them down."""

from __future__ import annotations

from typing import Any

import numpy as np

from scanlib.call import dtype_code
from scanlib.errors import ArrayKindError, ShapeError
from scanlib.kinds import kind_of


def host_offsets(given: Any) -> np.ndarray[Any, Any]:
    """A list, tuple, range or NumPy array of N + 1 integers, as int64, or int32 where they are; no copy of what is one.

    Raises `DTypeError` where they are no integers, `ShapeError` where lists in it have different lengths, and
    `ArrayKindError` for anything else, a masked array among it.
    """
    if isinstance(given, np.ndarray):
        kind_of(given, "offsets")  # refuses what means more than its numbers
    elif not isinstance(given, (list, tuple, range)):
        raise ArrayKindError(
            f"offsets is a {type(given).__name__}; make it a list, a NumPy array or one of the operands' library."
        )
    try:
        array = np.asarray(given)
    except ValueError as error:
        raise ShapeError(f"offsets is a list of lists of different lengths: {error}") from None
    if not array.size and not isinstance(given, np.ndarray):
        return array.astype(np.int64)  # no numbers at all: what is wrong with that is their shape
    if array.dtype.kind not in "iu":
        dtype_code(array.dtype.name, "offsets")
    return array.astype(np.int32 if array.dtype == np.int32 else np.int64, copy=False)
