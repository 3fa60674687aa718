"""Views of every kind: the same numbers as from contiguous copies, and no full copy where none is needed."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import check_forward, check_gradients, decay, normal, rng_for, same_bits
from matrix import Member, np_dtype
from oracle import Array

import scanlib

#: Ways to see a large array, as (name, function of the array and its namespace).
VIEWS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("first half of a projection", lambda v, xp: v[..., : v.shape[-1] // 2]),
    ("second half of a projection", lambda v, xp: v[..., v.shape[-1] // 2 :]),
    ("every second step", lambda v, xp: v[:, ::2, ...]),
    ("every third channel", lambda v, xp: v[..., 1::3]),
    ("time last", lambda v, xp: xp.permute_dims(v, (0, 2, 1))),
    ("time first", lambda v, xp: xp.permute_dims(v, (1, 0, 2))),
    ("reversed axes", lambda v, xp: xp.permute_dims(v, (2, 1, 0))),
    ("flipped time", lambda v, xp: xp.flip(v, axis=1)),
    ("flipped channels", lambda v, xp: xp.flip(v, axis=2)),
    ("one channel", lambda v, xp: v[..., 3:4]),
    ("one sequence, many rows", lambda v, xp: v[:1, ...]),
    ("repeated", lambda v, xp: xp.broadcast_to(v[:, :1, ...], v.shape)),
]


@pytest.mark.thorough
def test_views(lib: Member) -> None:
    """x and a as views of different kinds, along every axis, both directions."""
    cases = [
        (n, m, axis)
        for n, m in itertools.product(range(len(VIEWS)), (0, 5, 7))
        for axis in range(3)
    ]
    for n, m, axis in lib.pick(cases):
        rng = rng_for(n, m, axis)
        big = lib.array(normal(rng, (6, 40, 34), "float32"))
        x = VIEWS[n][1](big, lib.namespace(big))
        coefficients = decay(rng, (6, 40, 34), "float32")
        other = lib.array(coefficients)
        a = VIEWS[m][1](other, lib.namespace(other))
        if tuple(a.shape) != tuple(x.shape):
            a = lib.array(decay(rng, tuple(x.shape), "float32"))
        reverse = bool((n + axis) % 2)
        h = lib.numpy(lib.scan(a, x, axis=axis, reverse=reverse))
        contiguous = (lib.array(np.array(lib.numpy(v), order="C")) for v in (a, x))
        expected = lib.numpy(lib.scan(*contiguous, axis=axis, reverse=reverse))
        # Kernels differ with the layout, and with them the last bits.
        assert np.allclose(h, expected, rtol=2e-5, atol=2e-5), f"x: {VIEWS[n][0]}, a: {VIEWS[m][0]}"


def numpy_variants(values: Array) -> list[tuple[str, Array]]:
    """The same numbers in all the ways NumPy can hold them."""
    n, dtype = values.size, values.dtype
    readonly = values.copy()
    readonly.flags.writeable = False
    # An odd address: no element is where its size wants it.
    odd = np.zeros(n * dtype.itemsize + 1, np.uint8)[1:].view(dtype).reshape(values.shape)
    odd[...] = values
    # A field of a packed record: strides that are no multiple of the element size.
    packed = np.zeros(values.shape, np.dtype([("flag", np.uint8), ("value", dtype)]))["value"]
    packed[...] = values
    negative = values[..., ::-1].copy()[..., ::-1]
    variants = [
        ("read-only", readonly),
        ("unaligned", odd),
        ("packed record", packed),
        ("Fortran order", np.asfortranarray(values)),
        ("negative strides", np.flip(np.flip(values).copy())),
        ("negative last stride", negative),
        ("subclass", values.view(type("Subclass", (np.ndarray,), {}))),
    ]
    if dtype.kind in "fc":
        swapped = values.astype(dtype.newbyteorder())
        variants.append(("other byte order", swapped))
    return variants


@pytest.mark.parametrize("dtype_name", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_numpy_memory(dtype_name: str) -> None:
    """Every way of holding a, x and h0 gives what plain arrays give; inputs stay as they are."""
    shape = (4, 33, 5)
    rng = rng_for(dtype_name)
    a, x = decay(rng, shape, dtype_name), normal(rng, shape, dtype_name)
    h0, g = normal(rng, (4, 5), dtype_name), normal(rng, shape, dtype_name)
    tolerance = (
        {"rtol": 0.02, "atol": 0.02} if dtype_name.endswith("16") else {"rtol": 1e-5, "atol": 1e-5}
    )

    def close(actual: Array, expected: Array, name: str) -> None:
        assert actual.dtype == np_dtype(dtype_name), name
        assert type(actual) is np.ndarray, name
        assert np.allclose(actual.astype(complex), expected.astype(complex), **tolerance), name

    h, final = scanlib.linear_recurrence(a, x, h0, axis=1, return_final=True)
    grads = scanlib.linear_recurrence_vjp(g, a, h, h0, axis=1, grad_final=h0)
    for variants in zip(*map(numpy_variants, (a, x, h0, g, h)), strict=True):
        name = variants[0][0]
        va, vx, vh0, vg, vh = (variant[1] for variant in variants)
        before = [v.tobytes() for v in (va, vx, vh0, vg, vh)]
        for operands in ((va, x, h0), (a, vx, h0), (a, x, vh0), (va, vx, vh0)):
            found = scanlib.linear_recurrence(*operands, axis=1, return_final=True)
            close(found[0], h, name)
            close(found[1], final, name)
        found = scanlib.linear_recurrence_vjp(vg, va, vh, vh0, axis=1, grad_final=vh0)
        for actual, expected in zip(found, grads, strict=True):
            close(actual, expected, name)
        assert before == [v.tobytes() for v in (va, vx, vh0, vg, vh)], name


def test_numpy_out_of_any_layout() -> None:
    """`out` may be a strided, unaligned or byte-swapped view; what lies between its elements stays."""
    rng = rng_for("out")
    a, x = decay(rng, (4, 33, 5), "float32"), normal(rng, (4, 33, 5), "float32")
    expected = scanlib.linear_recurrence(a, x, axis=1)
    for name, out in numpy_variants(np.full((4, 33, 5), np.nan, np.float32)):
        if name == "read-only":
            continue
        try:
            result = scanlib.linear_recurrence(a, x, axis=1, out=out)
        except scanlib.DTypeError:
            assert name == "other byte order"
            continue
        assert result is out
        assert np.allclose(out, expected, rtol=1e-5, atol=1e-5), name
    frame = np.full((4, 33, 12), -7.0, np.float32)
    scanlib.linear_recurrence(a, x, axis=1, out=frame[..., 1:11:2])
    assert np.allclose(frame[..., 1:11:2], expected, rtol=1e-5, atol=1e-5)
    assert np.all(frame[..., ::2] == -7)
    assert np.all(frame[..., 11] == -7)


def test_views_are_not_copied() -> None:
    """Halves of a projection, flips and repeats cost no memory beyond the result's."""
    big = normal(rng_for("memory"), (64, 512, 64), "float32")
    size = big.nbytes // 2
    views = {
        "half": (big[..., :32], big[..., 32:]),
        "flipped": (big[:, ::-1, :32], big[:, ::-1, 32:]),
        "repeated": (np.float32(0.5), np.broadcast_to(big[:, :, :1], (64, 512, 32))),
        "per channel": (big[0, 0, :32], big[..., 32:]),
        "mixed dtypes": (big[..., :32], big[..., 32:].astype(np.float16)),
    }
    for name, (a, x) in views.items():
        scanlib.linear_recurrence(a, x, axis=1)
        tracemalloc.start()
        h = scanlib.linear_recurrence(a, x, axis=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert h.nbytes == size
        assert peak < 1.1 * size, f"{name}: {peak / size:.2f} times the result's memory"


def test_unaligned_memory_is_not_copied() -> None:
    """Fields of packed records, arrays at odd addresses and axes that do not merge are read where they lie."""
    shape = (64, 512, 32)
    x = normal(rng_for("unaligned"), shape, "float32")
    for name, value in numpy_variants(x):
        if name == "other byte order":
            continue
        scanlib.linear_recurrence(0.5, value, axis=1)
        tracemalloc.start()
        scanlib.linear_recurrence(0.5, value, axis=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.1 * x.nbytes, f"{name}: {peak / x.nbytes:.2f} times the result's memory"


@pytest.mark.parametrize("dtype", ["c8", "c16"])
@pytest.mark.parametrize("axis", [0, 1])
def test_strides_of_half_an_element(dtype: str, axis: int) -> None:
    """A complex number and half of one side by side: aligned as numbers, and no whole elements apart."""
    half = np.dtype(dtype).str.replace("c16", "f8").replace("c8", "f4")
    for fields in ([("z", dtype), ("pad", half)], [("z", dtype, (6,)), ("pad", half)]):
        records = np.zeros((40, 5) if len(fields[0]) == 2 else 40, np.dtype(fields))
        records["z"] = normal(
            rng_for(dtype, axis), records["z"].shape, f"complex{8 * int(dtype[1:])}"
        )
        records["pad"] = 7
        x = records["z"]
        expected = scanlib.linear_recurrence(0.5j, x.copy(), axis=axis)
        assert np.allclose(scanlib.linear_recurrence(0.5j, x, axis=axis), expected)
        grads = scanlib.linear_recurrence_vjp(x, x, expected, axis=axis)
        wanted = scanlib.linear_recurrence_vjp(x.copy(), x.copy(), expected, axis=axis)
        assert all(np.allclose(m, n) for m, n in zip(grads[:2], wanted, strict=False))
        assert scanlib.linear_recurrence(0.5j, x.copy(), axis=axis, out=x) is x
        assert np.allclose(x, expected)
        assert (records["pad"] == 7).all()


def test_pages_that_hold_more_than_the_result() -> None:
    """A byte at the start of a page of 2 MiB that belongs to no element stays, though threads fetch pages ahead."""
    page, T = 2 << 20, (1 << 20) - 1 + (1 << 18)
    record = np.dtype([("h", np.float32, (T,)), ("flag", np.uint8)])
    memory = np.zeros(3 * record.itemsize + 2 * page, np.uint8)
    start = -(memory.ctypes.data + 4 * T) % page
    while (memory.ctypes.data + start) % 4:
        start += page
    records = np.frombuffer(memory.data, record, 3, start)
    records["flag"] = [7, 8, 9]
    out = records["h"]
    assert (out.ctypes.data + 4 * T) % page == 0
    x = np.ones((3, T), np.float32)
    scanlib.linear_recurrence(0.5, x, axis=1, out=out)
    assert records["flag"].tolist() == [7, 8, 9]
    assert np.array_equal(out, scanlib.linear_recurrence(0.5, x, axis=1))


def test_nine_axes_that_do_not_merge() -> None:
    shape = (2, 3, 2, 3, 2, 3, 2, 3, 2)
    rng = rng_for(shape)
    big = rng.standard_normal(tuple(n + 1 for n in shape))
    x = big[tuple(slice(0, n) for n in shape)]
    a = decay(rng, shape, "float64").transpose()[::-1].transpose()
    for axis in (0, 4, 8):
        h = scanlib.linear_recurrence(a, x, axis=axis)
        again = scanlib.linear_recurrence(a.copy(), x.copy(), axis=axis)
        assert np.allclose(h, again, rtol=1e-13, atol=1e-13)
        g = rng.standard_normal(h.shape)
        found = scanlib.linear_recurrence_vjp(g, a, h, axis=axis)
        again = scanlib.linear_recurrence_vjp(g, a.copy(), h, axis=axis)
        assert all(
            np.allclose(m, n, rtol=1e-12, atol=1e-12)
            for m, n in zip(found[:2], again, strict=False)
        )


@pytest.mark.thorough
def test_repeated_a_per_head(lib: Member) -> None:
    """a of shape (H, 1) in (B, T, H, D), one of a's usual shapes in state-space models."""
    rng = rng_for("heads")
    a, x = decay(rng, (4, 1), "float32"), normal(rng, (2, 65, 4, 8), "float32")
    for reverse in (False, True):
        check_forward(lib, a, x, axis=1, reverse=reverse)
        check_gradients(lib, a, x, axis=1, reverse=reverse)


@pytest.mark.parametrize("repeated", [(3, 1), (1, 1)])
def test_repeated_operands_of_long_rows(repeated: tuple[int, int], numpy: Member) -> None:
    """One number for each row, or for all, over more steps than are copied at a time."""
    rng = rng_for(repeated)
    for a_shape, x_shape in ((repeated, (3, 5000)), ((3, 5000), repeated)):
        a, x = decay(rng, a_shape, "float32"), normal(rng, x_shape, "float32")
        for reverse in (False, True):
            check_forward(numpy, a, x, axis=1, reverse=reverse)
            check_gradients(numpy, a, x, axis=1, reverse=reverse)


def test_order_in_memory_is_kept() -> None:
    """The result lies in memory as x does, so that it is written as fast as x is read."""
    x = np.zeros((4, 100, 8)).transpose(1, 2, 0)
    h = scanlib.linear_recurrence(0.5, x, axis=0)
    assert h.strides == x.strides
    assert same_bits(h, np.zeros(x.shape))
