"""Every way the CUDA kernels have of working, on the CPU, with tiles so small that small problems are cut like large.

The matrix runs the emulated kernels with the numbers of a GPU; here the table of plans is walked through on purpose.
"""

from __future__ import annotations

from typing import Any

import emulated
import numpy as np
import pytest
from capabilities import ALL_DTYPES, CAPABILITIES, Backend
from emulated import SMALL
from helpers import check_forward, check_gradients, decay, normal, rng_for, same_bits, state_shape
from matrix import Member
from special_values import backward_agrees, forward_agrees

import scanlib

#: The table of native/cuda_cut.cpp: (what explain says, shape, axis, further numbers).
PLANS: list[tuple[str, tuple[int, ...], int, dict[str, int]]] = [
    ("look-back over rows", (5003,), 0, {}),
    ("look-back over rows", (3, 1501), 1, {}),
    ("look-back over columns", (301, 64), 0, {}),
    ("look-back over columns", (2, 401, 37), 1, {}),
    ("look-back over columns", (901, 3), 0, {}),
    ("walk over rows", (5, 1003), 1, {"enough_groups": 1}),
    ("walk over rows", (43, 50), 1, {}),
    ("walk over rows", (201, 3), 1, {}),
    ("walk over columns", (301, 64), 0, {"enough_groups": 1}),
    ("walk over columns", (71, 150), 0, {"many_lanes": 100}),
    ("walk over columns", (4, 150), 0, {}),
    ("walk over columns", (9, 3), 0, {}),
]
THOROUGH = [PLANS[0], PLANS[2], PLANS[5], PLANS[9]]
EVERYDAY = CAPABILITIES[Backend.EMULATED].everyday


def arrays(
    shape: tuple[int, ...], axis: int, dtype: str, a_shape: tuple[int, ...] | None = None
) -> tuple[Any, Any, Any]:
    rng = rng_for(shape, axis, dtype, a_shape)
    return (
        decay(rng, a_shape or shape, dtype),
        normal(rng, shape, dtype),
        normal(rng, state_shape(shape, axis), dtype),
    )


@pytest.mark.parametrize(
    ("number", "dtype_name"),
    [
        pytest.param(number, name, marks=() if name in EVERYDAY else pytest.mark.slow)
        for number, plan in enumerate(PLANS)
        for name in (ALL_DTYPES if plan in THOROUGH else EVERYDAY)
    ],
)
def test_every_plan(number: int, dtype_name: str, member: Member) -> None:
    """Forward and backward, both directions, with and without states, against the serial loop."""
    words, shape, axis, numbers = PLANS[number]
    a, x, h0 = arrays(shape, axis, dtype_name)
    with emulated.tuned(**SMALL, **numbers):
        emulated.schedule(number, 1 + number % 4)
        kernel = scanlib.explain(member.array(a), member.array(x), axis=axis).kernel
        assert words in kernel
        for reverse in (False, True):
            check_forward(member, a, x, h0 if reverse else None, axis=axis, reverse=reverse)
            check_gradients(
                member, a, x, None if reverse else h0, axis=axis, reverse=reverse, final=reverse
            )


@pytest.mark.parametrize("number", [0, 3, 4, 5, 6, 8, 9])
def test_sums_for_a_repeated_a(number: int, member: Member) -> None:
    """Along time, along sequences, along both: two stages, in every plan."""
    _, shape, axis, numbers = PLANS[number]
    along_time = tuple(1 if d == axis else n for d, n in enumerate(shape))
    along_others = tuple(n if d == axis else 1 for d, n in enumerate(shape))
    dtype_name = "complex64" if number == 5 else "float32"
    with emulated.tuned(**SMALL, **numbers):
        for a_shape in {along_time, along_others, (1,) * len(shape)} - {shape}:
            a, x, h0 = arrays(shape, axis, dtype_name, a_shape)
            check_gradients(member, a, x, h0, axis=axis, reverse=bool(number % 2))


@pytest.mark.parametrize("number", [0, 3, 5])
def test_no_schedule_changes_a_bit(number: int, member: Member) -> None:
    """One block after the other, or many at once in any order."""
    _, shape, axis, numbers = PLANS[number]
    a, x, g = (member.array(v) for v in (*arrays(shape, axis, "float32")[:2], np.ones(shape, "f4")))
    one = member.array(np.array(0.9, "f4"))
    found = []
    with emulated.tuned(**SMALL, **numbers):
        for seed, blocks in ((1, 1), (2, 2), (3, 3), (4, 8), (5, 8), (6, 40)):
            emulated.schedule(seed, blocks)
            h = scanlib.linear_recurrence(a, x, axis=axis)
            grads = scanlib.linear_recurrence_vjp(g, a, h, axis=axis)
            summed = scanlib.linear_recurrence_vjp(g, one, h, axis=axis)
            found.append((h, *grads[:2], summed[0]))
    for other in found[1:]:
        assert all(map(same_bits, other, found[0]))


@pytest.mark.parametrize(("shape", "axis"), [((2001,), 0), ((2, 1201), 1), ((301, 40), 0)])
def test_many_small_stacks(shape: tuple[int, ...], axis: int, member: Member) -> None:
    """Bundles of 2 tiles, stacks of 4, in many orders: the last state of a stack is waited for again and again."""
    a, x, h0 = arrays(shape, axis, "float32")
    found = []
    with emulated.tuned(**SMALL | {"bundle": 2}):
        for seed in range(8):
            emulated.schedule(100 + seed, 1 + 3 * seed)
            reverse = bool(seed % 2)
            if seed < 2:
                check_forward(member, a, x, h0, axis=axis, reverse=reverse)
                check_gradients(member, a, x, h0, axis=axis, reverse=reverse)
            given = [member.array(v) for v in (a, x)]
            h = scanlib.linear_recurrence(*given, axis=axis)
            found.append((h, *scanlib.linear_recurrence_vjp(given[1], given[0], h, axis=axis)[:2]))
    for other in found[1:]:
        assert all(map(same_bits, other, found[0]))


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


@pytest.mark.parametrize(("shape", "axis"), [((700, 5), 0), ((33, 700), 1), ((3001,), 0)])
@pytest.mark.parametrize("dtype_name", ["bfloat16", "float32", "float64"])
def test_special_values(shape: tuple[int, ...], axis: int, dtype_name: str, member: Member) -> None:
    """NaN, Inf and overflow travel as in a serial loop, across tiles, bundles and stacks."""
    with emulated.tuned(**SMALL):
        emulated.schedule(7, 3)
        reverse = dtype_name == "float32"
        forward_agrees(member, shape, axis, dtype_name, reverse)
        backward_agrees(member, shape, axis, dtype_name, not reverse)


def test_special_values_where_a_block_walks(member: Member) -> None:
    for shape, axis, numbers in [
        ((33, 700), 1, {"enough_groups": 1}),
        ((300, 70), 0, {"enough_groups": 1}),
        ((90, 130), 0, {"many_lanes": 1}),
    ]:
        with emulated.tuned(**SMALL, **numbers):
            forward_agrees(member, shape, axis, "float32", False)
            backward_agrees(member, shape, axis, "float32", False)


@pytest.mark.parametrize("number", [0, 2, 4, 5, 8, 9])
def test_in_place(number: int, member: Member) -> None:
    """Every element is read before it is overwritten, by whichever block."""
    _, shape, axis, numbers = PLANS[number]
    a, x, h0 = arrays(shape, axis, "float32")
    expected = np.asarray(scanlib.linear_recurrence(a, x, h0, axis=axis))
    with emulated.tuned(**SMALL, **numbers):
        for seed in range(3):
            emulated.schedule(seed, 5)
            out = member.array(x.copy())
            member.scan(member.array(a), out, member.array(h0), axis=axis, out=out)
            assert np.allclose(out, expected, rtol=1e-5, atol=1e-5)


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


@pytest.mark.slow
def test_as_the_cpu_core(member: Member) -> None:
    """Problems drawn at random, empty ones among them, with a repeated along any axes: the CPU core says the same."""
    rng = rng_for("as the CPU core")
    options: dict[str, Any]
    with emulated.tuned(**SMALL):
        for _ in range(60):
            shape = tuple(int(rng.choice(n)) for n in ((0, 1, 2), (0, 1, 5, 40), (0, 1, 3, 9)))
            axis = int(rng.integers(3))
            a_shape = tuple(1 if rng.integers(3) == 0 else n for n in shape)
            a, x, g = (
                make(rng, s, "float32")
                for make, s in ((decay, a_shape), (normal, shape), (normal, shape))
            )
            state = normal(rng, state_shape(shape, axis), "float32") if rng.integers(2) else None
            given = [None if v is None else member.array(v) for v in (a, x, g, state)]
            options = {"axis": axis, "reverse": bool(rng.integers(2))}
            results = []
            for b, y, grad, h0 in (given, (a, x, g, state)):
                h, final = scanlib.linear_recurrence(b, y, h0, return_final=True, **options)
                grads = scanlib.linear_recurrence_vjp(grad, b, h, h0, grad_final=final, **options)
                results.append((h, final, *grads))
            for one, other in zip(*results, strict=True):
                assert (one is None) == (other is None)
                if one is not None:
                    assert one.shape == other.shape
                    assert np.allclose(one, other, rtol=1e-4, atol=1e-4), (shape, a_shape, options)


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
