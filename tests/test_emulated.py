"""Every way the CUDA kernels have of working, on the CPU, with tiles so small that small problems are cut like large.

The matrix runs the emulated kernels with the numbers of a GPU; here the table of plans is walked through on purpose.
"""

from __future__ import annotations

from typing import Any

import emulated
import numpy as np
import pytest
from capabilities import ALL_DTYPES, CAPABILITIES, Backend
from emulated import ABREAST, SMALL
from helpers import (
    arrays,
    check_forward,
    check_gradients,
    decay,
    normal,
    rng_for,
    same_bits,
    state_shape,
)
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
    ("walk over columns", (101, 256), 0, ABREAST),
    ("walk over columns", (71, 150), 0, {"many_lanes": 100}),
    ("walk over columns", (4, 150), 0, {}),
    ("walk over columns", (9, 3), 0, {}),
]
THOROUGH = [PLANS[0], PLANS[2], PLANS[5], PLANS[9], PLANS[10]]
EVERYDAY = CAPABILITIES[Backend.EMULATED].everyday


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
    with emulated.tuned(**(SMALL | numbers)):
        emulated.schedule(number, 1 + number % 4)
        kernel = scanlib.explain(member.array(a), member.array(x), axis=axis).kernel
        assert words in kernel
        for reverse in (False, True):
            check_forward(member, a, x, h0 if reverse else None, axis=axis, reverse=reverse)
            check_gradients(
                member, a, x, None if reverse else h0, axis=axis, reverse=reverse, final=reverse
            )


def test_a_step_of_a_tile_of_columns_has_bytes_enough(member: Member) -> None:
    """Two warps side by side, unless the lanes of one fill as many bytes, or some would have none."""
    lanes = {("float16", 256): 64, ("float32", 128): 64, ("float64", 128): 32, ("float32", 96): 32}
    for (dtype_name, inner), width in lanes.items():
        a, x, _ = arrays((101, inner), 0, dtype_name)
        with emulated.tuned(**(SMALL | ABREAST)):
            kernel = scanlib.explain(member.array(a), member.array(x), axis=0).kernel
        assert f"groups of up to {width}" in kernel


@pytest.mark.parametrize("number", [0, 3, 4, 5, 6, 8, 9, 10])
def test_sums_for_a_repeated_a(number: int, member: Member) -> None:
    """Along time, along sequences, along both: two stages, in every plan."""
    _, shape, axis, numbers = PLANS[number]
    along_time = tuple(1 if d == axis else n for d, n in enumerate(shape))
    along_others = tuple(n if d == axis else 1 for d, n in enumerate(shape))
    dtype_name = "complex64" if number == 5 else "float32"
    with emulated.tuned(**(SMALL | numbers)):
        for a_shape in {along_time, along_others, (1,) * len(shape)} - {shape}:
            a, x, h0 = arrays(shape, axis, dtype_name, a_shape)
            check_gradients(member, a, x, h0, axis=axis, reverse=bool(number % 2))


@pytest.mark.parametrize("number", [0, 3, 5, 9])
def test_no_schedule_changes_a_bit(number: int, member: Member) -> None:
    """One block after the other, or many at once in any order."""
    _, shape, axis, numbers = PLANS[number]
    a, x, g = (member.array(v) for v in (*arrays(shape, axis, "float32")[:2], np.ones(shape, "f4")))
    one = member.array(np.array(0.9, "f4"))
    found = []
    with emulated.tuned(**(SMALL | numbers)):
        for seed, blocks in ((1, 1), (2, 2), (3, 3), (4, 8), (5, 8), (6, 40)):
            emulated.schedule(seed, blocks)
            h = scanlib.linear_recurrence(a, x, axis=axis)
            grads = scanlib.linear_recurrence_vjp(g, a, h, axis=axis)
            summed = scanlib.linear_recurrence_vjp(g, one, h, axis=axis)
            found.append((h, *grads[:2], summed[0]))
    for other in found[1:]:
        assert all(map(same_bits, other, found[0]))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1201, 3), 0), ((66, 3001), 1), ((301, 40), 0), ((40_001,), 0), ((5, 12_001), 1)],
)
def test_many_small_stacks_and_batches(shape: tuple[int, ...], axis: int, member: Member) -> None:
    """Bundles of 2 tiles, stacks of 4; batches of carriers: what was before is waited for in many orders."""
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


@pytest.mark.parametrize(("shape", "threads"), [((4, 13_001), 32), ((4, 33_001), 64)])
def test_carriers_hand_on_where_others_have_read(
    shape: tuple[int, ...], threads: int, member: Member
) -> None:
    """Four batches of a carrier that hands on to itself, five of a team of two."""
    a, x, h0 = arrays(shape, 1, "float32")
    with emulated.tuned(**SMALL | {"look_back_threads": threads}):
        for seed in range(3):
            emulated.schedule(200 + seed, 4 + 8 * seed)
            check_forward(member, a, x, h0, axis=1, reverse=bool(seed % 2))


@pytest.mark.parametrize("lanes", [1, 5])
@pytest.mark.parametrize("backward", [False, True])
def test_products_too_large_in_some_groupings(lanes: int, backward: bool, member: Member) -> None:
    """What tiles do is a power of two each; all that a serial loop meets is small, other orders are not."""
    tiles, steps = 70, 64 * (2 if backward else 4)
    rng = rng_for(lanes)
    sizes = rng.integers(-40, 40, (lanes, tiles))
    sizes[:, :5] = np.cumsum([-60, -20, 50, 50, -20])
    a = np.ones((lanes, tiles, steps), "f4")
    a[:, :, 7] = np.exp2(np.diff(sizes, axis=1, prepend=0))
    a, x = a.reshape(lanes, -1), np.zeros((lanes, tiles * steps), "f4")
    with emulated.tuned(**SMALL):
        emulated.schedule(lanes, 9)
        check = check_gradients if backward else check_forward
        check(member, a, x, np.ones(lanes, "f4"), axis=1)


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
        ((70, 256), 0, ABREAST),
        ((90, 130), 0, {"many_lanes": 1}),
    ]:
        with emulated.tuned(**(SMALL | numbers)):
            forward_agrees(member, shape, axis, "float32", False)
            backward_agrees(member, shape, axis, "float32", False)


@pytest.mark.parametrize("number", [0, 2, 4, 5, 8, 9, 10])
def test_in_place(number: int, member: Member) -> None:
    """Every element is read before it is overwritten, by whichever block."""
    _, shape, axis, numbers = PLANS[number]
    a, x, h0 = arrays(shape, axis, "float32")
    expected = np.asarray(scanlib.linear_recurrence(a, x, h0, axis=axis))
    with emulated.tuned(**(SMALL | numbers)):
        for seed in range(3):
            emulated.schedule(seed, 5)
            out = member.array(x.copy())
            member.scan(member.array(a), out, member.array(h0), axis=axis, out=out)
            assert np.allclose(out, expected, rtol=1e-5, atol=1e-5)


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
