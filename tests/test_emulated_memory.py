"""How the CUDA kernels reach operands in memory, on the CPU: widths of accesses, alignment, strides, many axes."""

from __future__ import annotations

from typing import Any

import emulated
import numpy as np
import pytest
from emulated import SMALL
from helpers import arrays, check_forward, check_gradients, decay, normal, rng_for, same_bits
from matrix import Member

import scanlib


@pytest.mark.parametrize(("shape", "axis"), [((3, 512), 1), ((301, 16), 0), ((70, 150), 0)])
@pytest.mark.parametrize("dtype_name", ["float16", "float32", "complex64"])
def test_words_and_elements_give_the_same_bits(
    shape: tuple[int, ...], axis: int, dtype_name: str, member: Member
) -> None:
    """Operands that can be moved 16 bytes at a time, and those that cannot: too far in, or strided, or only `a`."""
    a, x, h0 = arrays(shape, axis, dtype_name)

    def moved(array: Any) -> Any:
        memory = np.empty(array.size + 17, array.dtype)
        start = -memory.ctypes.data % 16 // array.itemsize + 1
        view = memory[start : start + array.size].reshape(array.shape)
        view[...] = array
        return view

    def strided(array: Any) -> Any:
        memory = np.empty((*array.shape, 2), array.dtype)
        memory[..., 0] = array
        return memory[..., 0]

    def aligned(array: Any) -> Any:
        memory = np.empty(array.size + 16, array.dtype)
        start = -memory.ctypes.data % 16 // array.itemsize
        memory[start : start + array.size] = array.reshape(-1)
        return memory[start : start + array.size].reshape(array.shape)

    found: list[Any] = []
    with emulated.tuned(**SMALL, many_lanes=100):
        for way_of_a, way in (
            (aligned, aligned),
            (moved, moved),
            (strided, strided),
            (strided, aligned),
        ):
            ways = (way_of_a(a), way(x), way(x))
            given = [member.array(h0), *(each.view(emulated.EmulatedArray) for each in ways)]
            for reverse in (False, True):
                out = way(np.zeros_like(x)).view(emulated.EmulatedArray)
                options = {"axis": axis, "reverse": reverse}
                scanlib.linear_recurrence(given[1], given[2], given[0], out=out, **options)
                grads = scanlib.linear_recurrence_vjp(given[3], given[1], out, given[0], **options)
                found.append([np.ascontiguousarray(v) for v in (out, *grads)])
    for number, other in enumerate(found[2:]):
        assert all(map(same_bits, other, found[number % 2]))


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 301), 1), ((301, 8), 0), ((200, 3), 1), ((3, 200), 0)]
)
@pytest.mark.parametrize(("dtype", "number"), [("f4", -0.0), ("c8", complex(np.inf, -0.0))])
def test_steps_that_fill_up_a_tile_change_no_state(
    shape: tuple[int, ...], axis: int, dtype: str, number: complex, member: Member
) -> None:
    """The last tile ends before its threads' runs do; what is left of them leaves zeros and infinities as they are."""
    state = tuple(n for d, n in enumerate(shape) if d != axis)
    h0 = np.full(state, number, dtype)
    a, x = np.ones(shape, dtype), np.full(shape, -0.0, dtype)
    if dtype == "c8":
        a.imag = x.imag = -0.0
    with emulated.tuned(**SMALL):
        h, final = scanlib.linear_recurrence(
            *(member.array(v) for v in (a, x, h0)), axis=axis, return_final=True
        )
    last = np.ascontiguousarray(np.take(h, -1, axis=axis))
    assert same_bits(np.ascontiguousarray(final), last)
    # Of one thread's run; where runs are joined, -0 may become 0.
    if dtype == "f4" and shape[axis] == 3:
        assert np.all(np.signbit(final))
        assert not np.any(final)


@pytest.mark.parametrize(
    ("shape", "a_dtype", "dtype"), [((32, 16), "f8", "f2"), ((32, 8), "c16", "f4")]
)
def test_operands_narrower_than_what_is_computed_in(
    shape: tuple[int, ...], a_dtype: str, dtype: str, member: Member
) -> None:
    """Runs that do not fill a word of a narrow operand, whose rows do: nothing may be moved unaligned."""
    rng = rng_for(shape)
    a = (0.5 + 0.5 * rng.random(shape)).astype(a_dtype)
    g, h = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    given = [member.array(v) for v in (g, a[:, :1], h)]
    found = scanlib.linear_recurrence_vjp(*given, axis=1)[:2]
    expected = scanlib.linear_recurrence_vjp(g, a[:, :1], h, axis=1)[:2]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.allclose(one, other, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("a_dtype", "dtype"), [("f2", "c16"), ("c16", "f2")])
def test_results_of_2_and_of_16_bytes(axis: int, a_dtype: str, dtype: str, member: Member) -> None:
    """What is stored at a time fills a word of the larger ones, and less than a register of the others."""
    rng = rng_for((40, 16, axis))
    a = (0.5 + 0.5 * rng.random((40, 16))).astype(a_dtype)
    g, h = (rng.standard_normal((40, 16)).astype(dtype) for _ in range(2))
    with emulated.tuned(**SMALL):
        found = scanlib.linear_recurrence_vjp(*map(member.array, (g, a, h)), axis=axis)[:2]
    for one, other in zip(
        found, scanlib.linear_recurrence_vjp(g, a, h, axis=axis)[:2], strict=True
    ):
        assert one.dtype == other.dtype
        assert np.allclose(one, other, rtol=0.01, atol=0.01)


def test_strides(member: Member) -> None:
    """Views of all kinds, written to and read from where they lie."""
    rng = rng_for("strides")
    with emulated.tuned(**SMALL):
        for view in (
            lambda v: v[:, ::2, ::-1],
            lambda v: v[::-1, :, 3:20],
            lambda v: v.transpose(2, 0, 1),
            lambda v: v.transpose(1, 2, 0)[5:, ::3],
        ):
            a, x = (view(make(rng, (6, 40, 34), "float32")) for make in (decay, normal))
            for axis in range(3):
                out = np.full((*x.shape, 2), np.nan, "f4")
                member.scan(
                    member.array(a), member.array(x), axis=axis, out=member.array(out)[..., 0]
                )
                expected = scanlib.linear_recurrence(np.array(a), np.array(x), axis=axis)
                assert np.allclose(out[..., 0], expected, rtol=1e-5, atol=1e-5)
                assert np.isnan(out[..., 1]).all()


def test_addresses_past_32_bits(member: Member) -> None:
    """Neighbours that lie gigabytes apart, in time and across sequences; only the pages in between them exist."""
    try:
        memory = np.empty((3, 600_000_000), np.float32)
    except MemoryError:
        pytest.skip("no address space to reserve")
    for axis, shape in ((0, (3, 7)), (1, (3, 70))):
        x = memory[:, : shape[1]]
        x[...] = normal(rng_for(shape), shape, "float32")
        expected = scanlib.linear_recurrence(np.float32(0.5), np.array(x), axis=axis)
        with emulated.tuned(**SMALL):
            a, out = member.array(np.float32(0.5)), member.array(x)
            scanlib.linear_recurrence(a, out, axis=axis, out=out)
        assert np.allclose(x, expected, rtol=1e-5, atol=1e-5)


def test_complex_elements_across_their_alignment(member: Member) -> None:
    """The CPU core takes them; a GPU would fault, so they are refused, and copied by the adapter."""
    memory = np.zeros(2 * 41, np.float64)
    x = memory[1:-1].view(complex)[:40]
    x[...] = np.arange(40)
    h = scanlib.linear_recurrence(
        member.array(np.full(40, 0.5 + 0j)), x.view(emulated.EmulatedArray)
    )
    assert np.allclose(h, scanlib.linear_recurrence(np.full(40, 0.5 + 0j), x))


@pytest.mark.parametrize(
    "repeated", ["every other", "the others", "all but time", "nothing", "time"]
)
@pytest.mark.parametrize(
    ("shape", "axis"), [((2,) * 8 + (3,), 8), ((5, 2, 3, 1, 2, 2, 3, 2, 2, 2), 0)]
)
def test_more_axes_than_a_kernel_counts_along(
    repeated: str, shape: tuple[int, ...], axis: int, member: Member
) -> None:
    """Its launch is repeated for each index of the others, and sums of grad_a go over them as well."""
    ndim = len(shape)
    along = {
        "every other": range(0, ndim, 2),
        "the others": range(1, ndim, 2),
        "all but time": [d for d in range(ndim) if d != axis],
        "nothing": [],
        "time": [axis],
    }[repeated]
    a, x, h0 = arrays(
        shape, axis, "float32", tuple(1 if d in along else n for d, n in enumerate(shape))
    )
    # Gaps between all elements: no two axes are one.
    spread = np.zeros(tuple(n + 1 for n in shape), np.float32)[tuple(slice(0, n) for n in shape)]
    spread[...] = x
    with emulated.tuned(**SMALL):
        kernel = scanlib.explain(member.array(a), member.array(spread), axis=axis).kernel
        assert "repeated" in kernel
        assert f"{x.size // x.shape[axis]} sequences" in kernel
        for reverse in (False, True):
            check_forward(member, a, spread, h0, axis=axis, reverse=reverse)
            check_gradients(member, a, spread, h0, axis=axis, reverse=reverse)


def test_unaligned_memory_goes_by_way_of_a_copy(member: Member) -> None:
    """Results too, and what lies around an array stays as it is."""
    a, x, h0 = (np.asarray(v) for v in arrays((41, 7), 0, "complex64"))
    expected = scanlib.linear_recurrence(a, x, h0, axis=0, return_final=True)
    gradients = scanlib.linear_recurrence_vjp(x, a, expected[0], h0, axis=0)

    def unaligned(values: Any) -> Any:
        memory = np.full(values.nbytes + 16, 7, np.uint8)
        array = memory[3 : 3 + values.nbytes].view(values.dtype).reshape(values.shape)
        array[...] = values
        return member.array(array), memory

    (ua, _), (ux, _), (uh0, _), (uh, _) = map(unaligned, (a, x, h0, expected[0]))
    found = scanlib.linear_recurrence(ua, ux, uh0, axis=0, return_final=True)
    out, memory = unaligned(np.zeros_like(x))
    assert scanlib.linear_recurrence(ua, ux, uh0, axis=0, out=out) is out
    for one, other in zip((*found, out), (*expected, expected[0]), strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-5, atol=1e-5)
    assert set(memory[:3]) | set(memory[3 + x.nbytes :]) == {7}
    for one, other in zip(
        scanlib.linear_recurrence_vjp(ux, ua, uh, uh0, axis=0), gradients, strict=True
    ):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-4, atol=1e-4)
    fields = np.zeros((41, 7), np.dtype([("flag", np.uint8), ("value", np.complex64)]))["value"]
    fields[...] = x
    explained = scanlib.explain(ua, member.array(fields), axis=0)
    assert explained.notes == (
        "a is copied: its address is not a multiple of its element size",
        "x is copied: its strides are no multiples of its element size",
    )
    assert explained.kernel == scanlib.explain(member.array(a), member.array(x), axis=0).kernel
    backward = scanlib.explain(ua, ux, uh0, axis=0, backward=True)
    assert [note.partition(" ")[0] for note in backward.notes] == ["a", "h0"]
    found = scanlib.linear_recurrence(ua, member.array(fields), axis=0)
    want = scanlib.linear_recurrence(a, x, axis=0)
    np.testing.assert_allclose(np.asarray(found), want, rtol=1e-5, atol=1e-5)
