"""The check of benchmark results: it passes what is right, sees one wrong carry, and owes nothing to what it judges."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from native_build import ROOT

import scanlib

sys.path.insert(0, str(ROOT))
from bench.core import libraries, price, reference, shapes
from bench.core.shapes import Case
from bench.core.timing import Budget

CASES = [
    Case((3, 5000, 7), 1),
    Case((9000, 4), 0, reverse=True),
    Case((5, 20_000), 1),
    Case((70_001,), 0),
    Case((100, 3), 0),
    Case((70_001,), 0, reverse=True),
]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short slices, so that short sequences have something between them."""
    monkeypatch.setattr(reference, "WINDOW", 512)


def forward(case: Case, change: Any = lambda h, a, x: h, slow: bool = False) -> None:
    """Check a right result after `change`."""
    a, x, _ = shapes.random_inputs(case, "float32")
    if slow:
        a = (1 - 1e-4 * (1 - a)).astype(np.float32)
    h = scanlib.linear_recurrence(a, x, axis=case.axis, reverse=case.reverse)
    library = libraries.load("numpy")
    reads = (
        libraries.reader(library, case, "it", array) for array in (change(h.copy(), a, x), a, x)
    )
    reference.check(case, "it", 4, *reads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("slow", [False, True], ids=["quick", "slow decay"])
def test_a_right_result_passes(case: Case, slow: bool) -> None:
    forward(case, slow=slow)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("eighth", range(8))
def test_a_carry_lost_in_one_tile_is_seen(case: Case, eighth: int) -> None:
    """From a boundary on the result is that of a recurrence that starts there: it agrees with itself elsewhere."""

    def lose(h: Any, a: Any, x: Any) -> Any:
        h, a, x = (np.moveaxis(v, case.axis, 0) for v in (h, a, x))
        if case.reverse:
            h, a, x = h[::-1], a[::-1], x[::-1]
        start = max(1, eighth * len(x) // 8)
        h[start:] = scanlib.linear_recurrence(a[start:], x[start:], axis=0)
        h = h[::-1] if case.reverse else h
        return np.moveaxis(h, 0, case.axis)

    with pytest.raises(reference.WrongResultError, match="differs from the float64 loop"):
        forward(case, lose)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_seen(value: float) -> None:
    def spoil(h: Any, a: Any, x: Any) -> Any:
        h[-1] = value
        return h

    with pytest.raises(reference.WrongResultError):
        forward(Case((70_001,), 0), spoil)


def test_a_result_of_another_shape_is_seen() -> None:
    with pytest.raises(reference.WrongResultError, match="has shape"):
        forward(Case((300, 4), 0), lambda h, a, x: h[:-1])


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("wrong", ["", "grad_a", "grad_x"])
def test_gradients_of_every_layout(name: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    library = libraries.load(name)
    pair = library.pair

    def spoiled(case: Case, work: str) -> Any:
        ours, yardstick = pair(case, work)

        def both(*operands: Any) -> Any:
            h, *grads = ours(*operands)
            at = 0 if wrong == "grad_a" else -1
            grads[at] = grads[at] * 1.01
            return h, *grads

        return both if wrong else ours, yardstick

    monkeypatch.setattr(library, "pair", spoiled)
    for case in (
        Case((2, 3000, 4), 1),
        Case((2, 3000, 4), 1, layout="halves"),
        Case((5, 3000), 1, reverse=True),
    ):
        cell = price.Cell(case, "float32", "forward + backward")
        if wrong:
            with pytest.raises(
                reference.WrongResultError, match=wrong if name != "jax" else "grad"
            ):
                price.measure(library, cell, Budget(0, 1, 1))
        else:
            assert price.measure(library, cell, Budget(0, 1, 1))["checked"]
