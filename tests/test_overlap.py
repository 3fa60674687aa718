"""scanlib.overlap against a count of bytes, and the checks of `out`."""

from __future__ import annotations

import numpy as np
import pytest
from matrix import numpy_memory

from scanlib.errors import DTypeError, OutputError, ShapeError
from scanlib.overlap import Memory, check_out, overlaps_itself, shares_memory

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    ndim = draw(st.integers(0, 3))
    shape = draw(st.tuples(*[st.integers(0, 4)] * ndim))
    strides = draw(st.tuples(*[st.integers(-12, 12)] * ndim))
    return Memory(
        10_000 + draw(st.integers(0, 30)), shape, strides, draw(st.sampled_from([1, 2, 4]))
    )


def covered(memory: Memory) -> list[int]:
    starts = (
        memory.address + sum(i * stride for i, stride in zip(index, memory.strides, strict=True))
        for index in np.ndindex(*memory.shape)
    )
    return [byte for start in starts for byte in range(start, start + memory.itemsize)]


@given(memories(), memories())
def test_shared_bytes_are_counted_right(first: Memory, second: Memory) -> None:
    assert shares_memory(first, second) == bool(set(covered(first)) & set(covered(second)))


@given(memories())
def test_internal_overlap_is_counted_right(memory: Memory) -> None:
    bytes_ = covered(memory)
    assert overlaps_itself(memory) == (len(set(bytes_)) < len(bytes_))


def test_a_question_too_hard_counts_as_overlap() -> None:
    # A Diophantine equation in twenty unknowns, far past the work allowed.
    strides = tuple(10**7 + 2 * i**3 + 1 for i in range(10))
    first = Memory(10**6, (12,) * 10, strides, 1)
    assert shares_memory(first, first._replace(address=10**6 + 1))


def interleaved() -> tuple[np.ndarray, np.ndarray]:
    base = np.zeros((4, 2))
    return base[:, 0], base[:, 1]


def check(out: np.ndarray, x: np.ndarray, a: np.ndarray | None = None) -> None:
    given = {"x": x} | ({} if a is None else {"a": a})
    memory = {role: numpy_memory(array) for role, array in given.items()}
    check_out(numpy_memory(out), (4,), "float64", memory)


def test_out_may_be_x_or_lie_beside_it() -> None:
    even, odd = interleaved()
    check(even, even, a=odd)
    check(odd, even)
    check(even[None, :, None][0, :, 0], even)


def test_out_is_refused() -> None:
    even, odd = interleaved()
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    with pytest.raises(OutputError, match="read-only"):
        check(frozen, even)
    with pytest.raises(OutputError, match="several elements in one place"):
        check(np.lib.stride_tricks.as_strided(np.zeros(1), (4,), (0,)), even)
    with pytest.raises(OutputError, match="overlaps a in memory"):
        check(odd, even, a=odd)
    with pytest.raises(OutputError, match="without being x itself"):
        check(even[::-1], even)
    with pytest.raises(OutputError, match="without being x itself"):
        check(even.view(np.int64).view(np.float64), even.view(np.int64))
    with pytest.raises(ShapeError, match=r"out has shape \(3,\)"):
        check(even[:3], even)
    with pytest.raises(DTypeError, match="out has dtype float32"):
        check(np.zeros(4, np.float32), even)
