"""The price of an add: the recurrence beside the same library's own element-wise arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench import libraries, reference, shapes
from bench.libraries import WORK, Library, bind
from bench.shapes import Array, Case
from bench.timing import Budget, Call, Summary

Row = dict[str, Any]
TINY = Case((16, 32), 0)
TINY_CALLS = 500


class Cell(NamedTuple):
    """What a library is compared on, and how many calls make one sample."""

    case: Case
    dtype: str
    work: str
    calls: int = 1

    @property
    def kind(self) -> str:
        """The work, or that there is next to none of it."""
        return "tiny" if self.calls > 1 else self.work


def cells(log2: int, names: Sequence[str], dtypes: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    """Every comparison, beside the name of its library."""
    for dtype in dtypes:
        for case in shapes.cases(log2):
            works = [work for work in WORK if work != "broadcast a" or case.layout == "contiguous"]
            for name in names:
                for work in works:
                    yield name, Cell(case, dtype, work)
        for name in names:
            yield name, Cell(TINY, dtype, "forward", TINY_CALLS)


def jobs(
    log2: int, names: Sequence[str], dtypes: Sequence[str], budget: Budget
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every comparison as (title, function that measures it)."""
    for name, cell in cells(log2, names, dtypes):
        yield title(name, cell), lambda n=name, c=cell: measure(libraries.load(n), c, budget)


def title(name: str, cell: Cell) -> str:
    return f"{cell.dtype} {cell.case.name}: {name}, {cell.kind}"


def prepared(library: Library, cell: Cell) -> dict[str, Call]:
    """Ours, whose result is checked here, and the yardstick, on the same operands."""
    case, work = cell.case, cell.work
    a, x, grad = shapes.random_inputs(case, cell.dtype)
    if work == "broadcast a":
        a = np.ascontiguousarray(
            a[tuple(slice(n) for n in _leading(case))].reshape(case.channel_shape)
        )
    given = (a, x, grad) if work == "forward + backward" else (a, x)
    operands = library.operands(case, *given)
    ours, yardstick = library.pair(case, work)
    _check(library, case, work, ours(*operands), a, x, grad)
    return {"ours": bind(library, ours, operands), "yardstick": bind(library, yardstick, operands)}


def measure(library: Library, cell: Cell, budget: Budget) -> Row:
    """Check, then time ours and the yardstick in turn."""
    return row(library.name, cell, library.timer(prepared(library, cell), budget, cell.calls))


def _leading(case: Case) -> tuple[int, ...]:
    """How much of each axis of a full-size `a` makes one coefficient per channel."""
    kept = (1,) * len(case.shape) + case.channel_shape
    return kept[-len(case.shape) :]


def _check(
    library: Library, case: Case, work: str, result: Any, a: Array, x: Array, grad: Array
) -> None:
    library.finish(result)
    name = f"scanlib ({library.name}, {work})"
    if work != "forward + backward":
        reference.check(case, name, library.to_numpy(result), a, x)
        return
    h, *grads = (library.to_numpy(array) for array in result)
    reference.check(case, name, h, a, x)
    if len(grads) == 1:  # of the projection: its halves are those of a and x
        grads = [grads[0][..., : case.shape[-1]], grads[0][..., case.shape[-1] :]]
    reference.check_gradients(case, name, grads[0], grads[1], h, a, grad)


def row(name: str, cell: Cell, times: dict[str, Summary]) -> Row:
    """One line of the results file."""
    case, work = cell.case, WORK[cell.work]
    ours, yardstick = times["ours"], times["yardstick"]
    moved = work.words * case.elements * shapes.np_dtype(cell.dtype).itemsize
    return {
        "library": name,
        "case": case.name,
        "shape": list(case.shape),
        "axis": case.axis,
        "reverse": case.reverse,
        "layout": case.layout,
        "dtype": cell.dtype,
        "work": cell.kind,
        "yardstick_is": work.yardstick,
        "words": work.words,
        "ours": ours.as_json(),
        "yardstick": yardstick.as_json(),
        "ratio": ours.median / yardstick.median,
        "gigabytes_per_second": moved / ours.median / 1e9,
    }
