"""The price of an add: the recurrence beside the same library's own element-wise arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.core import libraries, reference, shapes
from bench.core.libraries import WORK, Inputs, Library, bind, reader
from bench.core.reference import Read
from bench.core.shapes import Case
from bench.core.timing import Budget, Call, Summary

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
    inputs = library.inputs(case, cell.dtype)
    operands = library.operands(case, inputs, work)
    ours, yardstick = library.pair(case, work)
    result = ours(*operands)
    library.finish(result)
    if library.computes:
        _check(library, cell, result, inputs, operands)
    return {"ours": bind(library, ours, operands), "yardstick": bind(library, yardstick, operands)}


def measure(library: Library, cell: Cell, budget: Budget) -> Row:
    """Check, then time ours and the yardstick in turn."""
    times = library.timer(prepared(library, cell), budget, cell.calls)
    return row(library.name, cell, times) | {"checked": library.computes}


def _check(
    library: Library, cell: Cell, result: Any, inputs: Inputs, operands: tuple[Any, ...]
) -> None:
    case, work = cell.case, cell.work
    name = f"scanlib ({library.name}, {work})"
    itemsize = shapes.np_dtype(cell.dtype).itemsize

    def read(array: Any, first: int = 0) -> Read:
        return reader(library, case, name, array, first)

    if inputs.both is not None:
        a, x = read(inputs.both), read(inputs.both, case.shape[-1])
    else:
        a, x = read(operands[0]), read(operands[1])
    if work != "forward + backward":
        reference.check(case, name, itemsize, read(result), a, x)
        return
    h, *grads = result
    reference.check(case, name, itemsize, read(h), a, x)
    # That of a projection has those of a and x for its halves.
    grad_a, grad_x = read(grads[0]), read(grads[-1], case.shape[-1] if len(grads) == 1 else 0)
    reference.check_gradients(case, name, itemsize, grad_a, grad_x, read(h), a, read(inputs.grad))


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
