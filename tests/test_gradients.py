"""Gradients: the vjp function against finite differences, every library's own against the oracle's formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from capabilities import Backend
from helpers import (
    LENGTHS,
    assert_kind,
    check_gradients,
    decay,
    normal,
    rng_for,
    state_shape,
    subsets,
)
from matrix import Member, np_dtype
from oracle import Array, recurrence

import scanlib

#: As test_values.REGIMES, with fewer steps for the oracle to take.
REGIMES = [
    ((8, 1024, 64), 1),
    ((8192, 32), 0),
    ((1 << 14, 16), 0),
    ((45_000, 3), 0),
    ((64, 8192), 1),
    ((3, 1 << 16), 1),
    ((140_001,), 0),
]


def loss(inputs: list[Array], grad_h: Array, grad_final: Array, axis: int, reverse: bool) -> float:
    """Re <grad_h, h> + Re <grad_final, final>, by the serial loop."""
    h, final = recurrence(*inputs, axis=axis, reverse=reverse)
    return float(np.vdot(grad_h, h).real + np.vdot(grad_final, final).real)


@pytest.mark.parametrize("dtype_name", ["float64", "complex128"])
@pytest.mark.parametrize("reverse", [False, True])
def test_finite_differences(dtype_name: str, reverse: bool) -> None:
    """Each element of a, x and h0 is moved; complex ones along both axes of the plane."""
    shape, axis = (2, 5, 3), 1
    for a_shape, h0_shape in (((2, 5, 3), (2, 3)), ((5, 1), (3,)), ((1, 1, 3), (2, 1)), ((), ())):
        rng = rng_for(a_shape, reverse, dtype_name)
        inputs = [
            decay(rng, a_shape, dtype_name),
            normal(rng, shape, dtype_name),
            normal(rng, h0_shape, dtype_name),
        ]
        grad_h = normal(rng, shape, dtype_name)
        grad_final = normal(rng, (2, 3), dtype_name)
        a, x, h0 = inputs
        h = scanlib.linear_recurrence(a, x, h0, axis=axis, reverse=reverse)
        found = scanlib.linear_recurrence_vjp(
            grad_h, a, h, h0, axis=axis, reverse=reverse, grad_final=grad_final
        )
        units = (1.0, 1j) if dtype_name == "complex128" else (1.0,)
        for operand, grad in enumerate(found):
            assert grad.shape == inputs[operand].shape
            for index in np.ndindex(grad.shape):
                for unit in units:
                    losses = []
                    for step in (1e-6, -1e-6):
                        moved = [v.copy() for v in inputs]
                        moved[operand][index] += step * unit
                        losses.append(loss(moved, grad_h, grad_final, axis, reverse))
                    slope = (losses[0] - losses[1]) / 2e-6
                    assert np.isclose(
                        slope, (grad[index] * np.conj(unit)).real, rtol=1e-6, atol=1e-7
                    )


@pytest.mark.thorough
def test_lengths(lib: Member, dtype: str) -> None:
    """Ragged tails in every layout, with and without h0 and a gradient of the final state."""
    layouts = [((), ()), ((3,), ()), ((2,), (5,)), ((), (33,)), ((17,), ()), ((), (4, 16))]
    for T, (before, after) in lib.pick(list(itertools.product(LENGTHS, layouts))):
        rng = rng_for(T, before, after, dtype)
        shape, axis = (*before, T, *after), len(before)
        h0 = normal(rng, before + after, dtype) if rng.integers(2) else None
        check_gradients(
            lib,
            decay(rng, shape, dtype),
            normal(rng, shape, dtype),
            h0,
            axis=axis,
            reverse=bool(rng.integers(2)),
            final=bool(rng.integers(2)),
        )


@pytest.mark.slow_for(Backend.EMULATED, Backend.TORCH_COMPILE)
def test_every_repeated_a(lib: Member) -> None:
    """grad_a is summed to a's own shape, for a repeated along any axes, time included; so is grad_h0."""
    shape = (3, 37, 5)
    cases = list(itertools.product(subsets(shape), range(3)))
    for index, (a_shape, axis) in enumerate(lib.pick(cases)):
        rng = rng_for(a_shape, axis)
        states = subsets(state_shape(shape, axis))
        h0 = normal(rng, states[index % len(states)], "float64")
        a, x = decay(rng, a_shape, "float64"), normal(rng, shape, "float64")
        check_gradients(lib, a, x, h0, axis=axis, reverse=bool(index % 2))


def test_complex_with_repeated_a(lib: Member) -> None:
    for a_shape in lib.pick([(3, 37, 5), (5,), (37, 1), (1,)]):
        rng = rng_for(a_shape)
        a, x = decay(rng, a_shape, "complex128"), normal(rng, (3, 37, 5), "complex128")
        check_gradients(lib, a, x, normal(rng, (3, 5), "complex128"), axis=1)


@pytest.mark.needs("sixteen_bits")
@pytest.mark.parametrize(("name", "unit"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_sums_of_sixteen_bits_are_exact(lib: Member, name: str, unit: float) -> None:
    """Where a or h0 is repeated: 8192 ones are 8192, and a term that needs 32 bits is not rounded on its way."""
    count = 8192
    one = np.ones(count)
    pairs = np.tile([1 + unit, 1 + 2 * unit], count // 2), np.tile([1 + unit, -1], count // 2)
    for left, right, expected in ((one, one, count), (*pairs, count / 2 * unit**2)):
        left, right = (v.reshape(count, 1).astype(np_dtype(name)) for v in (left, right))
        a, x, h0 = left[:1] * 0 + 1, 0 * left, right[0] * 0 + 1
        for shape in ((1,), ()):
            given = [lib.array(v) for v in (left, x, h0.reshape(shape), right)]
            grad_h0 = lib.gradients(*given, None, axis=1)[2]
            assert_kind(lib, grad_h0, given[0], name, shape)
            assert float(lib.numpy(grad_h0).ravel()[0]) == expected
        given = [lib.array(v) for v in (a, x, left[:, 0], right)]
        grad_a = lib.gradients(*given, None, axis=1)[0]
        assert float(lib.numpy(grad_a).ravel()[0]) == expected


@pytest.mark.slow_for(Backend.EMULATED)
def test_sums_of_float32_are_not_those_of_a_loop(lib: Member) -> None:
    """A loop in float32 over so many terms is off by 1e-5."""
    shape = (1 << 17, 1, 2)
    g = (1 + normal(rng_for(shape), shape, "float32")).astype(np.float32)
    a, h0 = np.full(shape, 0.5, np.float32), np.ones(2, np.float32)
    given = [lib.array(v) for v in (a, 0 * a, h0, g)]
    grad_h0 = lib.numpy(lib.gradients(*given, None, axis=1)[2])
    given = [lib.array(v) for v in (a[:1], 0 * a, np.ones(shape[::2], np.float32), g)]
    grad_a = lib.numpy(lib.gradients(*given, None, axis=1)[0])
    exact = g.astype(float).sum((0, 1))
    assert np.allclose(grad_h0, exact / 2, rtol=1e-6, atol=0)
    assert np.allclose(grad_a, exact, rtol=1e-6, atol=0)


@pytest.mark.thorough
def test_repeated_x(lib: Member) -> None:
    """Where x is repeated, autodiff sums its gradient; the vjp function gives it in h's shape."""
    for x_shape in lib.pick([(37, 1), (3, 1, 1), (5,), (1, 37, 5)]):
        rng = rng_for(x_shape)
        a, x = decay(rng, (3, 37, 5), "float64"), normal(rng, x_shape, "float64")
        check_gradients(lib, a, x, axis=1)


@pytest.mark.slow_for(Backend.EMULATED, Backend.TORCH_COMPILE)
def test_mixed_dtypes(lib: Member) -> None:
    """Each gradient has its input's dtype; of a real input it is the real part."""
    pairs = [("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "complex64")]
    pairs += [("complex64", "complex128"), ("float64", "float32"), ("complex64", "float32")]
    pairs = [pair for pair in pairs if set(pair) <= set(lib.capability.dtypes)]
    for a_name, x_name in lib.pick(pairs):
        rng = rng_for(a_name, x_name)
        a, x, h0 = (
            decay(rng, (37, 5), a_name),
            normal(rng, (37, 5), x_name),
            normal(rng, (5,), x_name),
        )
        given = [lib.array(v) for v in (a, x, h0)]
        h, final = lib.scan(*given, axis=0, return_final=True)
        grad_h, grad_final = (
            lib.array(normal(rng, tuple(v.shape), lib.dtype_name(v))) for v in (h, final)
        )
        found = lib.gradients(*given, grad_h, grad_final, axis=0)
        wide_inputs = [v.astype(complex) for v in (a, x, h0)]
        expected = lib_free_gradients(wide_inputs, lib.numpy(grad_h), lib.numpy(grad_final))
        names = zip(("a", "x", "h0"), found, expected, (a, x, h0), strict=True)
        for name, actual, want, of in names:
            by_vjp = name == "x" and "vjp" in lib.capability.gradients
            assert lib.dtype_name(actual) == (lib.dtype_name(h) if by_vjp else of.dtype.name)
            values = lib.numpy(actual).astype(complex)
            want = want if values.imag.any() else want.real
            coarse = any(n.endswith("16") for n in (a_name, x_name))
            assert np.allclose(
                values, want, rtol=0.05 if coarse else 1e-4, atol=0.1 if coarse else 1e-4
            )


def lib_free_gradients(inputs: list[Array], grad_h: Array, grad_final: Array) -> tuple[Array, ...]:
    from oracle import gradients

    h, _ = recurrence(*inputs)
    return gradients(grad_h.astype(complex), inputs[0], h, inputs[2], grad_final.astype(complex))


def test_no_steps(lib: Member) -> None:
    """With T = 0 the gradient of the final state is h0's, and nothing else is."""
    empty, h0 = np.empty((2, 0, 3)), np.ones((1, 3))
    for a in (empty, np.full((3,), 0.5)):
        given = [lib.array(v) for v in (a, empty, h0, empty, np.arange(6.0).reshape(2, 3))]
        grad_a, grad_x, grad_h0 = lib.gradients(*given, axis=1)
        assert np.array_equal(lib.numpy(grad_a), np.zeros(a.shape))
        assert tuple(grad_x.shape) == (2, 0, 3)
        assert np.array_equal(lib.numpy(grad_h0), [[3, 5, 7]])


@pytest.mark.needs("large")
def test_regimes(lib: Member) -> None:
    """The large shapes, with a of the full shape and with a repeated along time and along the rest."""
    for index, (shape, axis) in enumerate(lib.large(REGIMES)):
        rng = rng_for(shape)
        dtype = ("float32", "float64", "bfloat16", "complex64")[index % 4]
        x, reverse = normal(rng, shape, dtype), bool(index % 2)
        h0 = normal(rng, state_shape(shape, axis), dtype)
        per_sequence = tuple(1 if d == axis else n for d, n in enumerate(shape))
        per_step = tuple(n if d == axis else 1 for d, n in enumerate(shape))
        check_gradients(lib, decay(rng, shape, dtype), x, h0, axis=axis, reverse=reverse)
        a_shape = per_step if index % 2 else per_sequence
        a = decay(rng, a_shape, dtype) * np.array(0.9, x.dtype)
        check_gradients(lib, a, x, axis=axis, reverse=not reverse)


@pytest.mark.thorough
def test_float32_error_is_a_serial_loops(lib: Member) -> None:
    """The gradient's error is at most twice that of the same loop in float32, with long memory."""
    from oracle import gradients

    shape, axis = ((2, 1 << 15), 1) if lib.capability.native else ((2, 1000), 1)
    rng = rng_for(shape)
    a = (1 - rng.uniform(0, 2e-3, shape)).astype(np.float32)
    x, g = normal(rng, shape, "float32"), normal(rng, shape, "float32")
    given = lib.array(a), lib.array(x), None, lib.array(g), None
    found = lib.gradients(*given, axis=axis)[:2]
    exact = gradients(g, a, recurrence(a, x, axis=axis)[0], axis=axis)
    h32, _ = recurrence(a, x, axis=axis, dtype=np.float32)
    serial = gradients(g, a, h32, axis=axis, dtype=np.float32)
    for actual, want, plain in zip(found, exact[:2], serial[:2], strict=True):
        ours, theirs = np.abs(lib.numpy(actual) - want), np.abs(plain - want)
        assert ours.max() <= 2 * theirs.max()
        assert ours.mean() <= 2 * theirs.mean()
