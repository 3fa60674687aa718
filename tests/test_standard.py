"""The path for any array-API library, beyond what the matrix runs on array-api-strict."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from helpers import decay, integers, normal, rng_for
from oracle import recurrence

import scanlib
from scanlib.backends import standard


@pytest.fixture
def xp() -> Any:
    return pytest.importorskip("array_api_strict")


def test_nothing_is_forced(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value is asked for, so that a lazy library only records the work."""
    a, x, h0 = (xp.asarray(np.full(s, 0.5)) for s in ((3, 600), (3, 600), (3,)))
    cls = type(a)

    def forced(*_: Any, **__: Any) -> Any:
        raise AssertionError("a value was asked for")

    for name in (
        "__bool__",
        "__int__",
        "__float__",
        "__complex__",
        "__index__",
        "__array__",
        "__dlpack__",
    ):
        if hasattr(cls, name):
            monkeypatch.setattr(cls, name, forced)
    monkeypatch.setattr(xp, "any", forced)
    monkeypatch.setattr(xp, "all", forced)
    for reverse in (False, True):
        options: dict[str, Any] = {"axis": 1, "reverse": reverse}
        h, final = scanlib.linear_recurrence(a, x, h0, return_final=True, **options)
        grads = scanlib.linear_recurrence_vjp(x, a, h, h0, grad_final=final, **options)
        assert [grad.shape for grad in grads] == [(3, 600), (3, 600), (3,)]
        scanlib.explain(a, x, h0, **options)


@pytest.mark.parametrize("T", [255, 256, 257, 513])
@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_join_without_a_seam(xp: Any, T: int, reverse: bool) -> None:
    """Around the block length, exactly, forward and backward, with a repeated along time and not."""
    from oracle import gradients, sum_to

    rng = rng_for(T, reverse)
    for a_shape in ((T, 3), (1, 3), (T, 1), ()):
        a = rng.choice([-1.0, 1.0], a_shape)
        x, g = (integers(rng, (T, 3), "float64", 5) for _ in range(2))
        h0, gf = (integers(rng, (3,), "float64", 5) for _ in range(2))
        options: dict[str, Any] = {"axis": 0, "reverse": reverse}
        given = [xp.asarray(v) for v in (a, x, h0, g, gf)]
        h = scanlib.linear_recurrence(*given[:3], **options)
        expected, _ = recurrence(a, x, h0, **options)
        assert np.array_equal(np.from_dlpack(h), expected)
        found = scanlib.linear_recurrence_vjp(
            given[3], given[0], h, given[2], grad_final=given[4], **options
        )
        wanted = gradients(g, a, expected, h0, gf, **options)
        for actual, want, shape in zip(found, wanted, (a_shape, (T, 3), (3,)), strict=True):
            assert np.array_equal(np.from_dlpack(actual), sum_to(want, shape))


def test_sixteen_bits_accumulate_in_float32() -> None:
    """array-api-strict has no such dtype, NumPy's namespace does."""
    ones = np.ones((2, 4096), np.float16)
    h = standard.linear_recurrence(1, ones, None, 1, False, False, None)
    assert h.dtype == np.float16
    assert h[0, -1] == 4096
    grad_a, grad_x, _ = standard.linear_recurrence_vjp(ones, 1, 0 * h, None, 1, False, None)
    assert grad_x.dtype == np.float16
    assert grad_x[0, 0] == 4096
    assert grad_a.shape == ()
    a, x = decay(rng_for(1), (300, 2), "float16"), normal(rng_for(2), (300, 2), "float32")
    h = standard.linear_recurrence(a, x, None, 0, False, False, None)
    assert h.dtype == np.float32
    assert np.allclose(h, recurrence(a, x)[0], rtol=1e-4, atol=1e-4)
    assert "float32" in " ".join(standard.explain(ones, ones, None, 1, False, False).notes)


def test_memory_is_linear() -> None:
    """A long scan needs a few times its result, and a repeated operand is not stored at full size."""
    x = np.ones((4096, 256), np.float32)
    tracemalloc.start()
    standard.linear_recurrence(
        np.float32(0.5) * np.ones((1, 256), np.float32), x, None, 0, False, False, None
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * x.nbytes


def test_dtypes_that_do_not_promote() -> None:
    """Where the namespace has no common dtype, the error names both."""
    a, x = np.ones(3, np.float16), normal(rng_for(3), (3,), "bfloat16")
    with pytest.raises(scanlib.DTypeError, match="bfloat16"):
        standard.linear_recurrence(a, x, None, 0, False, False, None)


def test_shapes_that_are_not_known_yet() -> None:
    """A lazy array whose length only computing would tell is refused with that reason."""

    class Unknown:
        shape = (None, 3)
        ndim = 2
        dtype = np.dtype(np.float32)

        def __array_namespace__(self, api_version: str | None = None) -> Any:
            return Namespace

    class Namespace:
        __name__ = "lazy"
        float32 = np.dtype(np.float32)

        @staticmethod
        def asarray(value: Any, **_: Any) -> Any:
            return value

    with pytest.raises(scanlib.ScanlibError, match="every length"):
        standard.linear_recurrence(0.5, Unknown(), None, 0, False, False, None)


def test_out_that_refuses_to_be_written(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = xp.ones(4)
    out = xp.zeros(4)

    def immutable(*_: Any) -> None:
        raise TypeError("immutable")

    monkeypatch.setattr(type(out), "__setitem__", immutable)
    with pytest.raises(scanlib.OutputError, match="cannot be written"):
        scanlib.linear_recurrence(0.5, x, out=out)
    with pytest.raises(scanlib.OutputError, match="a itself"):
        scanlib.linear_recurrence(out, x, out=out)
