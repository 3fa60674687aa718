"""Each cell against its step-by-step reference, on every library: whole, in chunks, step by step, with resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from capabilities import Backend
from cell_cases import (
    CASES,
    COMPILING,
    call,
    case_name,
    cases,
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
    pytest.mark.needs("functions"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
Case = tuple[Cell, int, int]
BATCH, STEPS = 2, 12


def close(actual: Any, wanted: Any, label: str = "") -> None:
    np.testing.assert_allclose(actual, wanted, rtol=1e-11, atol=1e-12, err_msg=label)


@pytest.mark.slow_for(Backend.TORCH_COMPILE, Backend.JAX_JIT)
def test_whole_sequence(lib: Member) -> None:
    """All cells, the compiling members included; eager JAX is given some, JAX under jit all."""
    for case in CASES if lib.capability.cases <= 8 else cases(lib, 5):
        cell, m, n = case
        params, x = random_params(*case), inputs(m, (BATCH, STEPS))
        output, state = call(lib, cell, to_library(lib, params), lib.array(x))
        shape = (BATCH, STEPS, cell.output_size(m, n))
        assert_kind(lib, output, lib.array(x), "float64", shape)
        close(lib.numpy(output), expected(cell, params, x), case_name(case))
        assert isinstance(state, tuple)
        assert len(state) == len(cell.state)
        for array in state:
            assert lib.owns(array)
            assert array.shape[0] == BATCH
            assert array.ndim == 2


@pytest.mark.slow_for(Backend.TORCH_COMPILE, Backend.JAX, Backend.JAX_JIT)
def test_chunks_and_steps(lib: Member) -> None:
    """However a sequence is cut, outputs and the last state are the same; a chunk of one step and a step as well."""
    for case in cases(lib, 4):
        cell, m, _ = case
        params, x = random_params(*case), inputs(m, (BATCH, STEPS))
        wanted, given = expected(cell, params, x), to_library(lib, params)
        final = call(lib, cell, given, lib.array(x))[1]
        cuts = [[4, 8], [3], [1], list(range(1, STEPS)), [0, 6, 6, 7, STEPS]]
        for cut in cuts[:1] if lib.backend in COMPILING else cuts:
            state, outputs = None, []
            for start, stop in zip([0, *cut], [*cut, STEPS], strict=True):
                output, state = call(lib, cell, given, lib.array(x[:, start:stop]), state)
                outputs.append(lib.numpy(output))
            close(np.concatenate(outputs, axis=1), wanted, f"{case_name(case)} cut at {cut}")
            same_state(lib, state, final)
        state, outputs = None, []
        for t in range(8):
            output, state = step(lib, cell, given, lib.array(x[:, t]), state)
            outputs.append(lib.numpy(output))
        close(np.stack(outputs, axis=1), wanted[:, :8], f"{case_name(case)} by steps")
        output, state = call(lib, cell, given, lib.array(x[:, 8:]), state)
        close(lib.numpy(output), wanted[:, 8:], f"{case_name(case)} after steps")
        same_state(lib, state, final)


def same_state(lib: Member, found: Any, wanted: Any) -> None:
    for one, same in zip(found, wanted, strict=True):
        assert one.dtype == same.dtype
        close(lib.numpy(one), lib.numpy(same))


def test_resets(lib: Member) -> None:
    """From a segment's start on, nothing from before is seen: whole, in chunks and step by step."""
    reset = starts((BATCH, STEPS))
    for case in cases(lib, 4):
        cell, m, _ = case
        params, x = random_params(*case), inputs(m, (BATCH, STEPS))
        wanted, given = expected(cell, params, x, reset), to_library(lib, params)
        output, final = call(lib, cell, given, lib.array(x), reset=lib.array(reset))
        close(lib.numpy(output), wanted, case_name(case))
        if lib.backend in COMPILING:
            continue
        state, outputs = None, []
        for start, stop in ((0, 4), (4, 5), (5, 7)):
            part = lib.array(x[:, start:stop]), state
            output, state = cell(given, *part, reset=lib.array(reset[:, start:stop]))
            outputs.append(lib.numpy(output))
        for t in range(7, STEPS):
            now = lib.array(x[:, t]), state
            output, state = cell.step(given, *now, reset=lib.array(reset[:, t]))
            outputs.append(lib.numpy(output)[:, None])
        close(np.concatenate(outputs, axis=1), wanted, case_name(case))
        same_state(lib, state, final)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_axes(case: Case) -> None:
    """Time at any axis, any number of others; a reset of few axes is repeated."""
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (3, STEPS))
    wanted, final = cell(params, x)
    for axis in (0, 1, 2, -4, -3, -2):
        moved = np.moveaxis(x[None], 2, axis if axis >= 0 else axis % 4)
        output, state = cell(params, moved, axis=axis)
        close(np.moveaxis(output, axis % 4, 2)[0], wanted)
        for one, same in zip(state, final, strict=True):
            close(one[0], same)
    alone, state = cell(params, x[0])
    close(alone, wanted[0])
    close(state[-1], final[-1][0])
    reset = starts((1, STEPS))[0]
    close(cell(params, x, reset=reset)[0], cell(params, x, reset=np.stack([reset] * 3))[0])


@pytest.mark.thorough
def test_initial_state(lib: Member) -> None:
    """The zero state as arrays is what None means, and has the shapes and dtypes of every later state."""
    for case in cases(lib, 3):
        cell, m, n = case
        params, x = to_library(lib, random_params(*case)), lib.array(inputs(m, (BATCH, 3)))
        initial = cell.initial_state(params, x[:, 0, :])
        output, state = cell(params, x, initial)
        close(lib.numpy(output), lib.numpy(cell(params, x)[0]), case_name(case))
        for one, later in zip(initial, state, strict=True):
            assert_kind(lib, one, x, lib.dtype_name(later), tuple(later.shape))
        for given in (None, state):
            output, left = cell(params, x[:, :0, :], given)
            assert tuple(output.shape) == (BATCH, 0, cell.output_size(m, n))
            for one, same in zip(left, initial if given is None else state, strict=True):
                assert_kind(lib, one, x, lib.dtype_name(same), tuple(same.shape))
                assert np.array_equal(lib.numpy(one), lib.numpy(same))


@pytest.mark.thorough
@pytest.mark.slow_for(Backend.JAX, Backend.JAX_JIT)
def test_dtypes(lib: Member) -> None:
    """Outputs keep x's dtype; recurrent states are float32 or wider, whatever the inputs."""
    for dtype in lib.capability.dtypes:
        if not dtype.startswith("complex"):
            for case in cases(lib, 4):
                check_dtype(lib, case, dtype)


def check_dtype(lib: Member, case: Case, dtype: str) -> None:
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, (BATCH, STEPS))
    kind = np_dtype(dtype)
    given = {name: lib.array(value.astype(kind)) for name, value in params.items()}
    output, state = call(lib, cell, given, lib.array(x.astype(kind)))
    assert_kind(lib, output, lib.array(x.astype(kind)), dtype, tuple(output.shape))
    rounded = {name: value.astype(kind).astype(float) for name, value in params.items()}
    wanted = expected(cell, rounded, x.astype(kind).astype(float))
    tolerance = {"float16": 0.01, "bfloat16": 0.08, "float32": 2e-5, "float64": 1e-11}[dtype]
    error = np.abs(lib.numpy(output).astype(float) - wanted)
    assert error.max() <= tolerance * np.abs(wanted).max(), (case_name(case), dtype)
    one, after = step(lib, cell, given, lib.array(x[:, 0].astype(kind)))
    assert lib.dtype_name(one) == dtype
    error = np.abs(lib.numpy(one).astype(float) - wanted[:, 0])
    assert error.max() <= tolerance * np.abs(wanted).max(), (case_name(case), dtype)
    for name, array, other in zip(cell.state, state, after, strict=True):
        assert array.dtype == other.dtype
        if name != "inputs":
            wide = "64" if dtype == "float64" else "32"
            narrow = {"64": "128", "32": "64"}[wide]
            assert lib.dtype_name(array) in (f"float{wide}", f"complex{narrow}")
