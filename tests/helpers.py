"""Random inputs, the tolerance table, and the comparisons every test of values shares."""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
from matrix import Member, np_dtype
from oracle import Array, gradients, recurrence, sum_to, wide

#: Largest error, relative to what the same recurrence gives for the absolute values of its inputs: a bound that holds
#: element by element, so that no large value hides the error of a small one. A few roundings for the wide dtypes;
#: one of the result, and in a gradient one of h before it, for those of 16 bits.
TOLERANCE = {
    "float16": 2e-3,
    "bfloat16": 1.6e-2,
    "float32": 4e-6,
    "float64": 8e-15,
    "complex64": 4e-6,
    "complex128": 8e-15,
}
#: What is lost where a 16-bit or 32-bit value is subnormal.
SUBNORMAL = {"float16": 6e-8, "bfloat16": 1e-40, "float32": 2e-45, "complex64": 2e-45}

LENGTHS = [1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 127, 129, 251, 255, 257, 509, 1023, 1025]


def rng_for(*key: object) -> np.random.Generator:
    """A generator that depends on the case alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    values = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        values = values + 1j * rng.standard_normal(shape)
    return np.asarray(values).astype(np_dtype(dtype))


def decay(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Coefficients in the unit disc, some of them close to its border and some zero."""
    values = 1 - rng.uniform(0, 1, shape) ** 3
    values = values * rng.choice([-1.0, 1.0, 1.0, 1.0], shape) * (rng.uniform(size=shape) > 0.02)
    if dtype.startswith("complex"):
        values = values * np.exp(2j * np.pi * rng.uniform(size=shape))
    return np.asarray(values).astype(np_dtype(dtype))


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, limit: int) -> Array:
    return np.asarray(rng.integers(-limit, limit + 1, shape)).astype(np_dtype(dtype))


def state_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(np.delete(shape, axis))


def arrays(
    shape: tuple[int, ...], axis: int, dtype: str, a_shape: tuple[int, ...] | None = None
) -> tuple[Any, Any, Any]:
    rng = rng_for(shape, axis, dtype, a_shape)
    return (
        decay(rng, a_shape or shape, dtype),
        normal(rng, shape, dtype),
        normal(rng, state_shape(shape, axis), dtype),
    )


def subsets(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every shape that broadcasts to `shape`, leading axes left out included."""
    full = list(itertools.product(*((1, n) for n in shape)))
    return full + [s[k:] for s in full for k in range(1, len(shape) + 1) if set(s[:k]) == {1}]


def assert_kind(lib: Member, array: Any, like: Any, dtype: str, shape: tuple[int, ...]) -> None:
    """Library, device, dtype and shape."""
    assert lib.owns(array), f"{type(array)} came back"
    where, wanted = lib.device(array), lib.device(like)
    assert where == wanted, f"on {where} came back what belongs on {wanted}"
    assert lib.dtype_name(array) == dtype
    assert tuple(array.shape) == shape


def assert_close(actual: Array, expected: Array, scale: Array, dtype: str, label: str = "") -> None:
    """Values within `TOLERANCE` of `expected`, times `scale`; the last ones along each axis first."""
    actual = actual.astype(wide(actual))
    bound = TOLERANCE[dtype] * np.abs(scale) + SUBNORMAL.get(dtype, 0)
    with np.errstate(invalid="ignore"):
        good = np.abs(actual - expected) <= bound
    for axis in range(actual.ndim):
        last = np.take(good, range(max(actual.shape[axis] - 3, 0), actual.shape[axis]), axis)
        assert np.all(last), f"{label}: the last elements along axis {axis} are wrong"
    if not np.all(good):
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{label}: {np.count_nonzero(~good)} of {good.size} are off, first at {where}: "
            f"{actual[where]} for {expected[where]}, bound {bound[where]}"
        )


def check_forward(
    lib: Member,
    a: Array,
    x: Array,
    h0: Array | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
) -> Any:
    """Run the member on these values and compare with the oracle; returns h in the library's kind."""
    dtype = np.result_type(*(v.dtype for v in (a, x, h0) if v is not None)).name
    given = [None if v is None else lib.array(v) for v in (a, x, h0)]
    h, final = lib.scan(*given, axis=axis, reverse=reverse, return_final=True)
    expected = recurrence(a, x, h0, axis=axis, reverse=reverse)
    absolute = (None if v is None else np.abs(v.astype(wide(v))) for v in (a, x, h0))
    scale = recurrence(*absolute, axis=axis, reverse=reverse)  # type: ignore[arg-type]
    label = f"{lib} {dtype} a{a.shape} x{x.shape} axis={axis} reverse={reverse}"
    for name, actual, want, size in (
        ("h", h, expected[0], scale[0]),
        ("final", final, expected[1], scale[1]),
    ):
        assert_kind(lib, actual, given[1], dtype, want.shape)
        assert_close(lib.numpy(actual), want, size, dtype, f"{name} of {label}")
    return h


def check_gradients(
    lib: Member,
    a: Array,
    x: Array,
    h0: Array | None = None,
    *,
    axis: int = 0,
    reverse: bool = False,
    final: bool = True,
) -> None:
    """The member's own gradients against the oracle's, for random gradients of h and of the final state."""
    rng = rng_for(a.shape, x.shape, axis, reverse)
    options = {"axis": axis, "reverse": reverse}
    h, _ = recurrence(a, x, h0, axis=axis, reverse=reverse)
    dtype = np.result_type(*(v.dtype for v in (a, x, h0) if v is not None)).name
    grad_h = normal(rng, h.shape, dtype)
    grad_final = normal(rng, state_shape(h.shape, axis), dtype) if final else None
    given = [None if v is None else lib.array(v) for v in (a, x, h0, grad_h, grad_final)]
    found = lib.gradients(*given, **options)
    expected = gradients(grad_h, a, h, h0, grad_final, **options)  # type: ignore[arg-type]
    absolute = [
        None if v is None else np.abs(v.astype(wide(v))) for v in (grad_h, a, x, h0, grad_final)
    ]
    g, abs_a, abs_x, abs_h0, gf = absolute
    abs_h, _ = recurrence(abs_a, abs_x, abs_h0, **options)  # type: ignore[arg-type]
    scale = gradients(g, abs_a, abs_h, abs_h0, gf, **options)  # type: ignore[arg-type]
    label = f"{lib} {dtype} a{a.shape} x{x.shape} {options}"
    # The vjp function returns grad_x in h's shape; a library's autodiff sums it to x's own.
    shapes = (a.shape, tuple(found[1].shape), None if h0 is None else h0.shape)
    assert shapes[1] in (x.shape, h.shape)
    for name, actual, want, size, shape, of, like in zip(
        ("grad_a", "grad_x", "grad_h0"),
        found,
        expected,
        scale,
        shapes,
        (a, x, h0),
        given[:3],
        strict=True,
    ):
        if of is None or shape is None:
            assert actual is None
            continue
        kind = np.result_type(of).name if shape == of.shape else dtype
        want, size = sum_to(want, shape), sum_to(size, shape)
        want = want.real if not kind.startswith("complex") else want
        assert_kind(lib, actual, like, kind, shape)
        assert_close(lib.numpy(actual), want, size, kind, f"{name} of {label}")


def same_bits(first: Any, second: Any) -> bool:
    """Whether two NumPy arrays are equal bit for bit, NaN payloads included."""
    first, second = np.asarray(first), np.asarray(second)
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )
