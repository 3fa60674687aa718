"""Operands of the CUDA kernels, emulated, where sequences start inside time: repeated, of any dtype, left out."""

from __future__ import annotations

import emulated
import numpy as np
import pytest
from capabilities import Backend
from emulated import SMALL
from emulated_segments import KINDS, PLANS, check, draw, offsets_for
from helpers import rng_for
from matrix import missing
from segment_cases import problem_of, results_for, serial

from scanlib import gpu

pytestmark = pytest.mark.skipif(
    bool(missing(Backend.EMULATED)), reason=missing(Backend.EMULATED) or "-"
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_sums_for_a_repeated_a(kind: str, number: int) -> None:
    """Along time, along sequences, along both; masked steps, and the first of segments without h0, add nothing."""
    _, shape, axis, numbers = PLANS[number]
    along_time = tuple(1 if d == axis else n for d, n in enumerate(shape))
    along_others = tuple(n if d == axis else 1 for d, n in enumerate(shape))
    with emulated.tuned(**(SMALL | numbers)):
        for a_shape in (along_time, along_others, (1,) * len(shape)):
            for states in (False, True):
                given = draw(
                    kind, shape, axis, "float32", states=states, backward=True, a_shape=a_shape
                )
                check(given, axis, bool(number % 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "complex128"])
def test_dtypes(kind: str, dtype: str) -> None:
    for number in (0, 1, 2):
        way, shape, axis, numbers = PLANS[number]
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                given = draw(kind, shape, axis, dtype, states=True, backward=backward)
                check(given, axis, True, way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_that_differ(kind: str) -> None:
    """States are not narrowed to what x or h have, and a mask's or offsets' own size decides nothing."""
    for dtypes, out in (
        ({"a": "float32", "x": "bfloat16", "h0": "float32", "h": "float32"}, "float32"),
        ({"a": "complex64", "x": "float32", "h0": "complex64", "h": "complex64"}, "complex64"),
    ):
        for number in (0, 2):
            way, shape, axis, numbers = PLANS[number]
            with emulated.tuned(**(SMALL | numbers)):
                for backward in (False, True):
                    given = draw(kind, shape, axis, dtypes, states=True, backward=backward)
                    check(given, axis, False, way, out)


@pytest.mark.slow
def test_conjugated() -> None:
    """Coefficients and states before are; so are those of segments."""
    shape, axis = (2, 61, 5), 1
    for kind in KINDS:
        given = draw(kind, shape, axis, "complex64", states=True, backward=True)
        results = results_for(given, axis, shape, "complex64")
        problem, pointers = problem_of(shape, axis, given | results, conjugate=True)
        address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
        gpu.run(problem, 0, address, pointers)
        del memory
        turned = {name: v.conj() if name in ("a", "h", "h0") else v for name, v in given.items()}
        for name, want in serial(turned, axis, False, shape).items():
            np.testing.assert_allclose(results[name], want, 1e-3, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_offsets_of_both_sizes(dtype: str) -> None:
    """Also strided and against their addresses, and where most segments have few steps or none."""
    way, shape, axis, numbers = PLANS[1]
    length = shape[axis]
    dense = np.sort(rng_for("dense").integers(0, length + 1, 300))
    dense[[0, -1]] = 0, length
    for starts in (offsets_for(length), dense, np.arange(length + 1)):
        spread = np.zeros(3 * len(starts), dtype)[::-3]
        spread[...] = starts
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                for given_starts in (starts.astype(dtype), spread):
                    given = draw(
                        "offsets",
                        shape,
                        axis,
                        "float32",
                        states=True,
                        backward=backward,
                        starts=given_starts,
                    )
                    check(given, axis, backward, way)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_axes_than_a_kernel_counts_along(kind: str) -> None:
    """The launch is repeated; offsets are the same for all, masks their own."""
    shape, axis = (2, 2, 2, 2, 2, 2, 2, 2, 13), 8
    with emulated.tuned(**SMALL):
        for backward in (False, True):
            given = draw(kind, shape, axis, "float32", states=True, backward=backward)
            for name in ("a", "x", "h", "grad_h"):
                if name in given:  # gaps, so that no two axes are one
                    spread = np.zeros(tuple(n + 1 for n in shape), "f4")
                    spread = spread[tuple(slice(0, n) for n in shape)]
                    spread[...] = given[name]
                    given[name] = spread
            check(given, axis, False, "repeated")


@pytest.mark.slow
def test_states_that_are_not_wanted() -> None:
    """A pass may leave out what leaves its segments, and be given only one kind of state."""
    _, shape, axis, numbers = PLANS[1]
    with emulated.tuned(**(SMALL | numbers)):
        for backward, last in ((False, "final"), (True, "grad_h0")):
            given = draw("offsets", shape, axis, "float32", states=True, backward=backward)
            check(given, axis, False, spare=(last,))
            if backward:
                for name in ("h0", "grad_final"):
                    check({k: v for k, v in given.items() if k != name}, axis, True)


@pytest.mark.slow
def test_masks_of_each_lane() -> None:
    """A mask that differs from lane to lane, and one that is the same for every sequence."""
    _, shape, axis, numbers = PLANS[1]
    for mask_shape in (shape, (shape[1], 1), (1, shape[1], shape[2])):
        starts = rng_for("masks", mask_shape).random(mask_shape) < 0.1
        with emulated.tuned(**(SMALL | numbers)):
            for backward in (False, True):
                given = draw(
                    "reset", shape, axis, "float32", states=True, backward=backward, starts=starts
                )
                check(given, axis, backward)
