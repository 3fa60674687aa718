"""The cells on the CUDA kernels, emulated: their recurrences as a GPU's arrays would run them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cell_cases import CASES, case_name, expected, inputs, random_params, starts
from matrix import Member

from scanlib.cells import Cell, gates

SHAPE = (2, 12)


@pytest.fixture
def scans(member: Member, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The dtypes of all recurrences, which run on the emulation; everything around them is NumPy's."""
    seen: list[str] = []

    def scan(*arrays: Any, **options: Any) -> Any:
        found = member.scan(*arrays, **options)
        seen.append(member.dtype_name(found[0] if isinstance(found, tuple) else found))
        if isinstance(found, tuple):
            return tuple(v.view(np.ndarray) for v in found)
        return found.view(np.ndarray)

    monkeypatch.setattr(gates, "_run_fused", lambda *_: None)
    monkeypatch.setattr(gates, "linear_recurrence", scan)
    return seen


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_every_cell(case: tuple[Cell, int, int], scans: list[str]) -> None:
    """Whole, with resets and in two chunks, against the step-by-step reference."""
    cell, m, _ = case
    params, x = random_params(*case), inputs(m, SHAPE)
    wanted = expected(cell, params, x)
    np.testing.assert_allclose(cell(params, x)[0], wanted, rtol=1e-11, atol=1e-12)
    head, state = cell(params, x[:, :5])
    tail, _ = cell(params, x[:, 5:], state)
    np.testing.assert_allclose(np.concatenate([head, tail], 1), wanted, rtol=1e-11, atol=1e-12)
    reset = starts(SHAPE)
    found = cell(params, x, reset=reset)[0]
    np.testing.assert_allclose(found, expected(cell, params, x, reset), rtol=1e-11, atol=1e-12)
    assert scans
    narrow = {name: value.astype(np.float32) for name, value in params.items()}
    y, _ = cell(narrow, x.astype(np.float32))
    np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-4)
    assert {"float32", "float64"} <= set(scans) or {"complex64", "complex128"} <= set(scans)
