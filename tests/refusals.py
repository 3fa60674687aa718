"""What the tests of wrong calls share: the error expected, and arrays to make a call with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matrix import Member


def refused(error: type[Exception], *words: str) -> Any:
    """Expect `error` with all of `words` in its message."""
    pattern = "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(error, match=f"(?s){pattern}")


def ones(lib: Member, *shape: int) -> Any:
    return lib.array(np.ones(shape, np.float32))
