"""Each cell against its step-by-step reference, on every library: whole, in chunks, step by step, with resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from cell_cases import (
    CASES,
    call,
    case_name,
    expected,
    inputs,
    random_params,
    starts,
    step,
    to_library,
)
from helpers import assert_kind
from matrix import Member, np_dtype

from scanlib.cells import Cell

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
each_cell = pytest.mark.parametrize("case", CASES, ids=case_name)
BATCH, STEPS = 2, 11


def close(actual: Any, wanted: Any) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-12)


@each_cell
def test_whole_sequence(lib: Member, case: tuple[Cell, int, int]) -> None:
    cell, m, n = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    output, state = call(lib, cell, to_library(lib, params), lib.array(x))
    shape = (BATCH, STEPS, cell.output_size(m, n))
    assert_kind(lib, output, lib.array(x), "float64", shape)
    close(lib.numpy(output), expected(cell, params, x))
    assert isinstance(state, tuple)
    assert len(state) == len(cell.state)
    for array in state:
        assert lib.owns(array)
        assert array.shape[0] == BATCH
        assert array.ndim == 2


@each_cell
def test_chunks_and_steps(lib: Member, case: tuple[Cell, int, int]) -> None:
    """However a sequence is cut, outputs and the last state are the same; a chunk of one step and a step as well."""
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    wanted = expected(cell, params, x)
    given = to_library(lib, params)
    compiles = lib.backend in (Backend.TORCH_COMPILE, Backend.JAX_JIT)
    cuts = [[3, 8]] if compiles else [[3], [1], list(range(1, STEPS)), [0, 6, 6, 7, STEPS]]
    finals = [call(lib, cell, given, lib.array(x))[1]]
    for cut in cuts:
        state, outputs = None, []
        for start, stop in zip([0, *cut], [*cut, STEPS], strict=True):
            output, state = call(lib, cell, given, lib.array(x[:, start:stop]), state)
            outputs.append(lib.numpy(output))
        close(np.concatenate(outputs, axis=1), wanted)
        finals.append(state)
    state, outputs = None, []
    for t in range(4 if compiles else STEPS):
        output, state = step(lib, cell, given, lib.array(x[:, t]), state)
        outputs.append(lib.numpy(output))
    close(np.stack(outputs, axis=1), wanted[:, : len(outputs)])
    output, state = call(lib, cell, given, lib.array(x[:, len(outputs) :]), state)
    close(lib.numpy(output), wanted[:, len(outputs) :])
    finals.append(state)
    for other in finals[1:]:
        for one, same in zip(finals[0], other, strict=True):
            assert one.dtype == same.dtype
            close(lib.numpy(one), lib.numpy(same))


@each_cell
def test_resets(lib: Member, case: tuple[Cell, int, int]) -> None:
    """From a segment's start on, nothing from before is seen: whole, in chunks and step by step."""
    cell, m, _ = case
    params, x, reset = random_params(*case), inputs(m, (BATCH, STEPS)), starts((BATCH, STEPS))
    wanted, given = expected(cell, params, x, reset), to_library(lib, params)
    output, final = call(lib, cell, given, lib.array(x), reset=lib.array(reset))
    close(lib.numpy(output), wanted)
    if lib.backend in (Backend.TORCH_COMPILE, Backend.JAX_JIT):
        return
    state, outputs = None, []
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        part = lib.array(x[:, start:stop]), state
        output, state = cell(given, *part, reset=lib.array(reset[:, start:stop]))
        outputs.append(lib.numpy(output))
    for t in range(7, STEPS):
        output, state = cell.step(given, lib.array(x[:, t]), state, reset=lib.array(reset[:, t]))
        outputs.append(lib.numpy(output)[:, None])
    close(np.concatenate(outputs, axis=1), wanted)
    for one, same in zip(final, state, strict=True):
        close(lib.numpy(one), lib.numpy(same))


@each_cell
def test_axes(case: tuple[Cell, int, int], numpy: Member) -> None:
    """Time at any axis, any number of others; a reset of few axes is repeated."""
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (3, STEPS))
    wanted, final = cell(params, x)
    for axis in (0, 1, 2, -4, -3, -2):
        moved = np.moveaxis(x[None], 2, axis)
        output, state = cell(params, moved, axis=axis)
        close(np.moveaxis(output, axis, 2)[0], wanted)
        for one, same in zip(state, final, strict=True):
            close(one[0], same)
    alone, state = cell(params, x[0])
    close(alone, wanted[0])
    close(state[-1], final[-1][0])
    reset = starts((STEPS,))
    close(cell(params, x, reset=reset)[0], cell(params, x, reset=np.stack([reset] * 3))[0])


@each_cell
@pytest.mark.thorough
def test_initial_state(lib: Member, case: tuple[Cell, int, int]) -> None:
    """The zero state as arrays is what None means, and has the shapes and dtypes of every later state."""
    cell, m, _ = case
    params, x = to_library(lib, random_params(*case)), lib.array(inputs(m, (BATCH, 3)))
    initial = cell.initial_state(params, x[:, 0, :])
    output, state = cell(params, x, initial)
    close(lib.numpy(output), lib.numpy(cell(params, x)[0]))
    for one, later in zip(initial, state, strict=True):
        assert_kind(lib, one, x, lib.dtype_name(later), tuple(later.shape))
    empty = x[:, :0, :]
    for given in (None, state):
        output, left = cell(params, empty, given)
        assert tuple(output.shape) == (BATCH, 0, cell.output_size(*cell.sizes(params)))
        for one, same in zip(left, state if given else initial, strict=True):
            assert_kind(lib, one, x, lib.dtype_name(same), tuple(same.shape))
            assert np.array_equal(lib.numpy(one), lib.numpy(same))


@each_cell
@pytest.mark.thorough
def test_dtypes(lib: Member, case: tuple[Cell, int, int]) -> None:
    """Outputs keep x's dtype; recurrent states are float32 or wider, whatever the inputs."""
    for dtype in lib.capability.dtypes:
        if not dtype.startswith("complex"):
            check_dtype(lib, case, dtype)


def check_dtype(lib: Member, case: tuple[Cell, int, int], dtype: str) -> None:
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    kind = np_dtype(dtype)
    given = {name: lib.array(value.astype(kind)) for name, value in params.items()}
    output, state = call(lib, cell, given, lib.array(x.astype(kind)))
    assert_kind(lib, output, lib.array(x.astype(kind)), dtype, output.shape)
    rounded = {name: value.astype(kind).astype(float) for name, value in params.items()}
    wanted = expected(cell, rounded, x.astype(kind).astype(float))
    tolerance = {"float16": 0.01, "bfloat16": 0.08, "float32": 2e-5, "float64": 1e-11}[dtype]
    error = np.abs(lib.numpy(output).astype(float) - wanted)
    assert error.max() <= tolerance * np.abs(wanted).max()
    for name, array in zip(cell.state, state, strict=True):
        if name != "inputs":
            recurrent = "float64" if dtype == "float64" else "float32"
            complex_one = {"float64": "complex128", "float32": "complex64"}[recurrent]
            assert lib.dtype_name(array) in (recurrent, complex_one)
