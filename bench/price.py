"""The price of an add: the recurrence beside the same library's own element-wise arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import libraries, reference, shapes
from bench.libraries import WORK, Library, bind
from bench.shapes import Array, Case
from bench.timing import Budget, Summary

Row = dict[str, Any]
TINY = Case((16, 32), 0)
TINY_CALLS = 500


def jobs(
    log2: int, names: list[str], dtypes: list[str], budget: Budget
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every comparison as (title, function that measures it)."""
    for dtype in dtypes:
        for case in shapes.cases(log2):
            works = [work for work in WORK if work != "broadcast a" or case.layout == "contiguous"]
            for name in names:
                for work in works:
                    yield (
                        f"{dtype} {case.name}: {name}, {work}",
                        _job(name, case, dtype, work, budget),
                    )
        for name in names:
            yield (
                f"{dtype} {TINY.name}: {name}, tiny",
                _job(name, TINY, dtype, "forward", budget, TINY_CALLS),
            )


def _job(
    name: str, case: Case, dtype: str, work: str, budget: Budget, inner: int = 1
) -> Callable[[], Row]:
    return lambda: measure(libraries.load(name), case, dtype, work, budget, inner)


def measure(
    library: Library, case: Case, dtype: str, work: str, budget: Budget, inner: int = 1
) -> Row:
    """Check, then time ours and the yardstick in turn."""
    a, x, grad = shapes.random_inputs(case, dtype)
    if work == "broadcast a":
        a = np.ascontiguousarray(
            a[tuple(slice(n) for n in _leading(case))].reshape(case.channel_shape)
        )
    given = (a, x, grad) if work == "forward + backward" else (a, x)
    operands = library.operands(case, *given)
    ours, yardstick = library.pair(case, work)
    _check(library, case, work, ours(*operands), a, x, grad)
    calls = {"ours": bind(library, ours, operands), "yardstick": bind(library, yardstick, operands)}
    return row(
        library.name,
        case,
        dtype,
        "tiny" if inner > 1 else work,
        work,
        library.timer(calls, budget, inner),
    )


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


def row(name: str, case: Case, dtype: str, work: str, kind: str, times: dict[str, Summary]) -> Row:
    """One line of the results file."""
    ours, yardstick = times["ours"], times["yardstick"]
    moved = WORK[kind].words * case.elements * shapes.np_dtype(dtype).itemsize
    return {
        "library": name,
        "case": case.name,
        "shape": list(case.shape),
        "axis": case.axis,
        "reverse": case.reverse,
        "layout": case.layout,
        "dtype": dtype,
        "work": work,
        "yardstick_is": WORK[kind].yardstick,
        "words": WORK[kind].words,
        "ours": ours.as_json(),
        "yardstick": yardstick.as_json(),
        "ratio": ours.median / yardstick.median,
        "gigabytes_per_second": moved / ours.median / 1e9,
    }
