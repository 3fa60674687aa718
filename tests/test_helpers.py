"""The checks that the suite shares can fail: each is shown something wrong that it has to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from helpers import check_gradients, decay, normal, rng_for
from matrix import Member, NumPy

from scanlib.overlap import shares_memory


class Misplaced(NumPy):
    """Computes what is right, and leaves the gradient number `which` on another device."""

    def __init__(self, which: int) -> None:
        super().__init__(Backend.NUMPY)
        self.which, self.elsewhere = which, None

    def gradients(self, *given: Any, **options: Any) -> tuple[Any, Any, Any]:
        found = super().gradients(*given, **options)
        self.elsewhere = found[self.which]
        return found

    def device(self, array: Any) -> str:
        return "elsewhere" if array is self.elsewhere else "here"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_gradient_on_another_device_is_seen(which: int) -> None:
    rng = rng_for("elsewhere")
    a, x, h0 = decay(rng, (5, 3), "float64"), normal(rng, (5, 3), "float64"), np.ones(3)
    check_gradients(NumPy(Backend.NUMPY), a, x, h0)
    with pytest.raises(AssertionError, match="on elsewhere"):
        check_gradients(Misplaced(which), a, x, h0)


def test_shared_memory_is_seen_where_it_lies(lib: Member) -> None:
    """On the device: copies on the host, which is what a GPU's arrays become there, share nothing."""
    one, other = (lib.array(np.ones((3, 2))) for _ in range(2))
    assert shares_memory(lib.memory(one), lib.memory(one))
    assert not shares_memory(lib.memory(one), lib.memory(other))
