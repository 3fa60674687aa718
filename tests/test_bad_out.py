"""An `out` that cannot be, or beside a wrong operand: the right exception, and nothing half-written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matrix import Member
from refusals import ones, refused

import scanlib
from scanlib import DTypeError, OutputError, ScanlibError, ShapeError

pytestmark = pytest.mark.thorough  # torch.compile wraps every exception in one of its own


@pytest.mark.needs("out")
def test_out_of_the_wrong_kind(lib: Member) -> None:
    """What does not fit is refused, and left as it was."""
    a, x = ones(lib, 3, 4), ones(lib, 3, 4)
    wrong = [
        (np.full((3, 5), 7, np.float32), ShapeError, "out has shape"),
        (np.full((1, 4), 7, np.float32), ShapeError, "out has shape"),
        (np.full((3, 4, 1), 7, np.float32), ShapeError, "out has shape"),
        (np.full((12,), 7, np.float32), ShapeError, "out has shape"),
        (np.full((3, 4), 7, np.float64), DTypeError, "out has dtype"),
        (np.full((3, 4), 7, np.int32), DTypeError, "out has dtype"),
        (np.full((3, 4), 7, np.complex64), DTypeError, "out has dtype"),
    ]
    for values, error, words in wrong:
        out = lib.array(values.copy())
        with refused(error, words):
            scanlib.linear_recurrence(a, x, axis=1, out=out)
        assert np.array_equal(lib.numpy(out), values)
    for thing in ([1.0], "out", 1.0, object()):
        with pytest.raises(ScanlibError):
            scanlib.linear_recurrence(a, x, axis=1, out=thing)


@pytest.mark.needs("out")
def test_errors_leave_out_alone(lib: Member) -> None:
    """Whatever is wrong with the call, `out` keeps its values."""
    x = ones(lib, 3, 4)
    out = lib.array(np.full((3, 4), 7, np.float32))
    calls: list[tuple[tuple[Any, ...], Any]] = [
        ((ones(lib, 2, 4), x), 1),
        ((x, x, ones(lib, 4)), 1),
        ((x, x), 2),
        ((x, x), None),
        ((x, lib.array(np.ones((3, 4), np.int32))), 1),
        ((x, lib.array(np.ones((3, 4), np.float64))), 1),
        ((x, [1.0]), 1),
        ((out, x), 1),
        ((x, x, 1j), 1),
    ]
    for operands, axis in calls:
        with pytest.raises(ScanlibError):
            scanlib.linear_recurrence(*operands, axis=axis, out=out)
        assert np.array_equal(lib.numpy(out), np.full((3, 4), 7))


def test_out_that_overlaps() -> None:
    """NumPy arrays on shared memory: only x itself may be written over."""
    memory = np.arange(60, dtype=np.float32)
    before = memory.copy()
    ok = np.ones(20, np.float32)
    refusals: list[tuple[tuple[Any, ...], Any, str]] = [
        ((memory[:20], ok), memory[:20], "overlaps a"),
        ((memory[10:30], ok), memory[:20], "overlaps a"),
        ((memory[0:1], ok), memory[:20], "overlaps a"),
        ((memory[:40:2], ok), memory[:40:2][::-1], "overlaps a"),
        ((ok, memory[1:21]), memory[:20], "overlaps x"),
        ((ok, memory[:20][::-1]), memory[:20], "overlaps x"),
        ((ok, memory[:40:2]), memory[:20], "overlaps x"),
        ((ok, memory[19:20]), memory[:20], "overlaps x"),
        ((ok, ok, memory[5:6].reshape(())), memory[:20], "overlaps h0"),
    ]
    for operands, out, words in refusals:
        with refused(OutputError, words):
            scanlib.linear_recurrence(*operands, out=out)
        assert np.array_equal(memory, before)
    interleaved = scanlib.linear_recurrence(memory[1:41:2], memory[:40:2], out=memory[:40:2])
    assert np.array_equal(memory[1::2], before[1::2])
    assert interleaved.base is memory


def test_out_that_cannot_be_written() -> None:
    x = np.ones((3, 4))
    readonly = np.full((3, 4), 7.0)
    readonly.flags.writeable = False
    with refused(OutputError, "read-only"):
        scanlib.linear_recurrence(0.5, x, axis=1, out=readonly)
    base = np.full(4, 7.0)
    repeated = np.lib.stride_tricks.as_strided(base, (3, 4), (0, 8), writeable=True)
    with refused(OutputError, "one place"):
        scanlib.linear_recurrence(0.5, x, axis=1, out=repeated)
    assert base.tolist() == [7, 7, 7, 7]
    windows = np.lib.stride_tricks.as_strided(np.zeros(6), (3, 4), (8, 8), writeable=True)
    with refused(OutputError, "one place"):
        scanlib.linear_recurrence(0.5, x, axis=1, out=windows)


def test_out_of_an_immutable_library() -> None:
    x = pytest.importorskip("jax.numpy").ones(4)
    with refused(TypeError, "donat"):
        scanlib.linear_recurrence(0.5, x, out=x)
