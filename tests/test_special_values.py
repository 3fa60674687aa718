"""NaN, Inf and overflow travel as in a serial loop of the same arithmetic, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
from capabilities import Backend
from helpers import decay, normal, rng_for
from matrix import Member
from native_calls import instruction_sets
from oracle import gradients, sum_to
from special_values import (
    ACCUMULATES,
    SHAPES,
    assert_same_kinds,
    at,
    backward_agrees,
    forward_agrees,
)

import scanlib


@pytest.mark.thorough
# As NumPy's, on the same kernels or on none; the emulated ones are compiled for each dtype.
@pytest.mark.slow_for(Backend.TORCH, Backend.STRICT, Backend.EMULATED)
def test_forward(lib: Member) -> None:
    """On every member of the matrix, in the dtypes it has."""
    dtypes = [name for name in ACCUMULATES if name in lib.capability.dtypes]
    shapes = SHAPES if lib.capability.native else SHAPES[:3]
    cases = [(*shape, name) for name in dtypes for shape in shapes]
    count = 6 if lib.capability.cases < 100 else len(cases)
    for shape, axis, dtype in lib.pick(cases)[:count]:
        reverse = bool(rng_for(shape, dtype).integers(2))
        forward_agrees(lib, shape, axis, dtype, reverse)


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("dtype_name", list(ACCUMULATES))
def test_every_instruction_set(
    shape: tuple[int, ...], axis: int, dtype_name: str, numpy: Member
) -> None:
    """libscanlib's kernels for each processor, forward and backward."""
    reverse = bool(rng_for(dtype_name, shape, "direction").integers(2))
    forward_agrees(numpy, shape, axis, dtype_name, reverse, instruction_sets())
    backward_agrees(numpy, shape, axis, dtype_name, not reverse, instruction_sets())


@pytest.mark.parametrize("dtype_name", ["float32", "float64"])
def test_sums_for_a_repeated_a(dtype_name: str) -> None:
    """NaN and Inf reach the sums they belong to and no other."""
    wide = ACCUMULATES[dtype_name][0]
    for shape, axis in [*SHAPES[:4], ((512, 300), 0), ((1, 30_000), 1)]:
        rng = rng_for(shape, dtype_name)
        for a_shape in (
            (1,) * len(shape),
            tuple(1 if d == axis else n for d, n in enumerate(shape)),
        ):
            a = decay(rng, a_shape, dtype_name)
            g, h = normal(rng, shape, dtype_name), normal(rng, shape, dtype_name)
            g[at(rng, g, 1)] = np.inf
            h[at(rng, h, 1)] = np.nan
            with np.errstate(all="ignore"):
                found = scanlib.linear_recurrence_vjp(g, a, h, axis=axis)[0]
                expected = gradients(g, a, h, axis=axis, dtype=wide)[0]
                assert_same_kinds(
                    found, sum_to(expected, a_shape), dtype_name, f"{shape} {a_shape}"
                )


def test_without_h0_the_state_before_is_zero(lib: Member) -> None:
    """An infinite first coefficient meets that zero, as in a serial loop that starts with it."""
    with np.errstate(invalid="ignore"):
        h = lib.numpy(lib.scan(lib.array(np.array([np.inf, 0.5])), lib.array(np.ones(2)), axis=0))
        first = lib.numpy(
            lib.scan(lib.array(np.array([0.5, np.inf])), lib.array(np.ones(2)), axis=0)
        )
    assert np.isnan(h).all()
    assert first.tolist() == [1, np.inf]
