"""Recurrences with other operators run through the kernels as they stand: the CPU core, and the CUDA kernels emulated.

tests/operators has them: (max, +), which is not linear, and products of 2 x 2 matrices, whose factors are of another
kind than their coefficients. Nothing but the operator differs: all else is the kernels' own.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import emulated
import numpy as np
import pytest
from helpers import rng_for, state_shape
from native_build import ROOT, build
from native_calls import dense_problem, instruction_sets

from scanlib import compiler, gpu, native
from scanlib.call import DTYPES

Array = np.ndarray[Any, Any]
OPERATORS = {"max_plus": "MaxPlus", "spiral": "Spiral"}
DTYPES_OF = {"max_plus": ("float32", "float64"), "spiral": ("complex64", "complex128")}
#: the state that no step was taken from
NOTHING = {"max_plus": -np.inf, "spiral": 0}

#: (shape, axis): columns, few columns, short rows side by side, rows, and both with time in pieces
CPU_SHAPES = [
    ((61, 70), 0),
    ((301, 3), 0),
    ((40, 57), 1),
    ((3, 2, 1503), 2),
    ((9001, 16), 0),
    ((140_003,), 0),
]
#: ... and what scanlib.gpu.describe calls how they are run on a GPU, with small tiles
GPU_SHAPES = [
    ("look-back over rows", (3, 1501), 1, {}),
    ("look-back over columns", (301, 64), 0, {}),
    ("look-back over columns", (901, 3), 0, {}),
    ("walk over rows", (5, 403), 1, {"enough_groups": 1}),
    ("walk over columns", (61, 64), 0, {"enough_groups": 1}),
    ("walk over columns", (61, 128), 0, emulated.ABREAST),
    ("walk over columns", (71, 150), 0, {"many_lanes": 100}),
]


def operands(operator: str, dtype: str, shape: tuple[int, ...], axis: int) -> tuple[Array, ...]:
    """a, x and h0: for (max, +) whole numbers, which no order of adding rounds."""
    rng = rng_for(operator, dtype, shape)
    state = state_shape(shape, axis)
    if operator == "max_plus":
        return tuple(np.asarray(rng.integers(-9, 9, each), dtype) for each in (shape, shape, state))
    near_one = rng.uniform(0.7, 0.95, shape) + 1j * rng.uniform(-0.2, 0.2, shape)
    normal = [pairs(rng, size) for size in (shape, state)]
    return tuple(np.asarray(each, dtype) for each in (near_one, *normal))


def pairs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def max_plus(a: Array, before: Array, x: Array) -> Array:
    return np.maximum(a + before, x)


def spiral(a: Array, before: Array, x: Array) -> Array:
    first = a.real * before.real + a.imag * before.imag
    second = before.imag - a.imag * before.real
    return first + 1j * second + x


STEPS: dict[str, Callable[[Array, Array, Array], Array]] = {"max_plus": max_plus, "spiral": spiral}


def serial(operator: str, a: Array, x: Array, h0: Array | None, axis: int, reverse: bool) -> Array:
    """All states, in double precision."""
    wide = [np.moveaxis(np.broadcast_to(v, x.shape), axis, 0) for v in (a, x)]
    wide = [v.astype(complex if operator == "spiral" else float) for v in wide]
    state = np.full(wide[1].shape[1:], NOTHING[operator], wide[1].dtype) if h0 is None else h0
    out = np.empty_like(wide[1])
    steps = range(len(out))
    for t in reversed(steps) if reverse else steps:
        out[t] = state = STEPS[operator](wide[0][t], state, wide[1][t])
    return np.moveaxis(out, 0, axis)


def serial_gradients(
    a: Array, h: Array, grad_h: Array, h0: Array, axis: int, reverse: bool
) -> tuple[Array, ...]:
    """Of `spiral`: grad_a, grad_x and grad_h0."""
    a, h, grad_h = (np.moveaxis(v.astype(complex), axis, 0) for v in (a, h, grad_h))
    grad_a, grad_x, carry = np.empty_like(h), np.empty_like(h), np.zeros_like(h[0])
    steps = range(len(h)) if reverse else range(len(h) - 1, -1, -1)
    for t in steps:
        grad_x[t] = g = grad_h[t] + carry
        earlier = t + 1 if reverse else t - 1
        before = h[earlier] if 0 <= earlier < len(h) else h0
        grad_a[t] = g.real * before.real + 1j * (g.real * before.imag - g.imag * before.real)
        carry = a[t].real * g.real - a[t].imag * g.imag + 1j * (a[t].imag * g.real + g.imag)
    return np.moveaxis(grad_a, 0, axis), np.moveaxis(grad_x, 0, axis), carry


def agree(found: Array, expected: Array, largest: float | None = None) -> None:
    """To the bit where numbers are whole, else as a share of the `largest` on the way, or of those expected."""
    if np.all(expected == np.round(expected)):
        np.testing.assert_array_equal(found, expected)
    else:
        share = 1e-5 if found.dtype in (np.float32, np.complex64) else 1e-12
        tolerance = share * (np.abs(expected).max() if largest is None else largest)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def prepared(
    arrays: dict[str, Array], axis: int, reverse: bool, conjugate: bool
) -> tuple[native.NativeProblem, bytes]:
    """The problem of arrays by role, and their addresses."""
    shape = arrays["h"].shape

    def strides(array: Array) -> list[int]:
        if array.ndim == len(shape):
            return list(array.strides)
        return [*array.strides[:axis], 0, *array.strides[axis:]]

    rows = {name: (DTYPES[str(v.dtype)][0], strides(v)) for name, v in arrays.items()}
    pointers = native.pack({name: v.ctypes.data for name, v in arrays.items()})
    options: dict[str, Any] = {"reverse": reverse, "conjugate": conjugate}
    return native.prepare(shape, axis, rows, tuning=gpu.target().tuning, **options), pointers


def forward_arrays(a: Array, x: Array, h0: Array | None, axis: int) -> dict[str, Array]:
    results = {
        "h": np.full(x.shape, np.nan, x.dtype),
        "final": np.full(state_shape(x.shape, axis), np.nan, x.dtype),
    }
    given = {"a": np.broadcast_to(a, x.shape), "x": x, "h0": h0, **results}
    return {name: value for name, value in given.items() if value is not None}


def backward_arrays(a: Array, h: Array, grad_h: Array, h0: Array) -> dict[str, Array]:
    results = {"grad_a": a, "grad_x": h, "grad_h0": h0}
    empty = {name: np.full_like(like, np.nan) for name, like in results.items()}
    return {"a": a, "h": h, "grad_h": grad_h, "h0": h0, **empty}


# ---- on the CPU


@functools.cache
def core() -> ctypes.CDLL:
    lib = ctypes.CDLL(str(build("plain") / "tests" / "native" / "libscanlib_operators.so"))
    lib.operator_run.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
    ]
    return lib


def on_cpu(
    operator: str,
    isa: str,
    arrays: dict[str, Array],
    axis: int,
    reverse: bool,
    conjugate: bool = False,
) -> None:
    problem, pointers = prepared(arrays, axis, reverse, conjugate)
    assert core().operator_run(operator.encode(), isa.encode(), problem, pointers) == 0


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("shape", "axis"), CPU_SHAPES)
def test_on_the_cpu(operator: str, shape: tuple[int, ...], axis: int) -> None:
    for isa, dtype in itertools.product(instruction_sets(), DTYPES_OF[operator]):
        a, x, h0 = operands(operator, dtype, shape, axis)
        for reverse, start in ((False, h0), (True, None)):
            expected = serial(operator, a, x, start, axis, reverse)
            arrays = forward_arrays(a, x, start, axis)
            on_cpu(operator, isa, arrays, axis, reverse)
            agree(arrays["h"], expected)
            agree(
                arrays["final"],
                np.take(expected, 0 if reverse else -1, axis),
                np.abs(expected).max(),
            )


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "axis"), CPU_SHAPES)
def test_gradients_on_the_cpu(shape: tuple[int, ...], axis: int) -> None:
    for isa in instruction_sets():
        a, h, h0 = operands("spiral", "complex128", shape, axis)
        grad_h = np.asarray(pairs(rng_for(shape), shape), "complex128")
        for reverse in (False, True):  # with `reverse`, pairs are conjugated
            arrays = backward_arrays(a, h, grad_h, h0)
            on_cpu("spiral", isa, arrays, axis, reverse, conjugate=reverse)
            used = [np.conj(v) if reverse else v for v in (a, h, h0)]
            expected = serial_gradients(*used[:2], grad_h, used[2], axis, reverse)
            for name, right in zip(("grad_a", "grad_x", "grad_h0"), expected, strict=True):
                agree(arrays[name], right)


@pytest.mark.slow
def test_on_the_cpu_in_any_layout() -> None:
    """Repeated coefficients, operands of another dtype and against the addresses, through panels."""
    a, x, h0 = operands("max_plus", "float32", (9001, 16), 0)
    for one, other in ((a[:1], x), (a.astype("float16"), x[:, ::-1]), (a[::-1], x[::-1])):
        expected = serial("max_plus", one, other, h0, 0, False)
        for same in (other, np.asfortranarray(other)):
            arrays = forward_arrays(one, same, h0, 0)
            on_cpu("max_plus", instruction_sets()[-1], arrays, 0, False)
            agree(arrays["h"], expected)


# ---- on the CUDA kernels, emulated


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("way", "shape", "axis", "numbers"),
    [
        pytest.param(*each, marks=() if number in (0, 4) else pytest.mark.slow)
        for number, each in enumerate(GPU_SHAPES)
    ],
)
def test_on_the_cuda_kernels(
    operator: str, way: str, shape: tuple[int, ...], axis: int, numbers: dict[str, int]
) -> None:
    """Forward; and backward, where the operator has one."""
    emulated.adapter()
    emulation = replace(emulated.Emulation(), operator=OPERATORS[operator])
    dtype = DTYPES_OF[operator][0]
    a, x, h0 = operands(operator, dtype, shape, axis)
    with emulated.running(emulation), emulated.tuned(**(emulated.SMALL | numbers)):
        for seed, (reverse, start) in enumerate(((False, h0), (True, None), (True, h0))):
            emulated.schedule(seed, 2 + seed)
            arrays = forward_arrays(a, x, start, axis)
            on_gpu(way, arrays, axis, reverse)
            expected = serial(operator, a, x, start, axis, reverse)
            agree(arrays["h"], expected)
            agree(
                arrays["final"],
                np.take(expected, 0 if reverse else -1, axis),
                np.abs(expected).max(),
            )
        for reverse in (False, True) if operator == "spiral" else ():
            grad_h = np.asarray(pairs(rng_for(shape), shape), dtype)
            arrays = backward_arrays(a, x, grad_h, h0)
            on_gpu(way, arrays, axis, reverse, conjugate=reverse)
            used = [np.conj(v) if reverse else v for v in (a, x, h0)]
            wanted = serial_gradients(*used[:2], grad_h, used[2], axis, reverse)
            for name, right in zip(("grad_a", "grad_x", "grad_h0"), wanted, strict=True):
                agree(arrays[name], right)


@pytest.mark.skipif(bool(compiler.unavailable()), reason=compiler.unavailable() or "it is here")
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_compiler_for_gpus_takes_it(operator: str) -> None:
    """Which knows less of C++'s library than the one that the emulation is compiled with."""
    dtype = DTYPES_OF[operator][0]
    flags = replace(emulated.Emulation(), operator=OPERATORS[operator]).operator_flags()
    for shape, axis in (((3, 150_100), 1), ((61, 64), 0)):
        problem = dense_problem(shape, axis, ("a", "x", "h", "h0", "final"), dtype)
        for definitions in gpu.programs(problem):
            assert compiler.build(f"{definitions} {' '.join(flags)}", 90).startswith(b"\x7fELF")


def on_gpu(
    way: str, arrays: dict[str, Array], axis: int, reverse: bool, conjugate: bool = False
) -> None:
    problem, pointers = prepared(arrays, axis, reverse, conjugate)
    assert way in gpu.describe(problem)
    address, memory = emulated.adapter().scratch(gpu.scratch_bytes(problem))
    gpu.run(problem, 0, address, pointers)
    del memory


def test_nothing_else_knows_them() -> None:
    """The operators are named in no file of the library."""
    for folder in ("native", "cuda", "scanlib", "backends"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in (".cpp", ".h", ".cuh", ".cu", ".py"):
                text = path.read_text()
                assert not any(name in text for name in OPERATORS.values()), path
