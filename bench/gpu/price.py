"""The price of an add on a GPU: the recurrence beside the same library's own arithmetic, and beside a copy."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from bench.core import machine, price, shapes
from bench.core.timing import Budget
from bench.gpu.report import Job, Row

BUDGET = Budget(0.25, 5, 41)
TINY = Budget(0.25, 5, 21)
MAIN = ("forward", "forward + backward")


def roof(library: Any, log2: int) -> Iterator[Job]:
    """The card's clocks, and what a copy moves."""
    yield "clocks", clocks
    if library.name != "jax":
        yield "a copy", lambda: copy(library, log2)


def main_jobs(library: Any, log2: int, dtypes: list[str]) -> Iterator[Job]:
    """What matters most: the six shapes of every dtype, forward and with gradients."""
    for dtype in dtypes:
        for work in MAIN:
            for case in shapes.shapes(log2):
                yield _job(library, price.Cell(case, dtype, work), BUDGET)


def more_jobs(library: Any, log2: int, dtypes: list[str]) -> Iterator[Job]:
    """One coefficient for each channel, halves of a projection, reverse, and next to no elements."""
    for case in shapes.shapes(log2):
        yield _job(library, price.Cell(case, dtypes[0], "broadcast a"), BUDGET)
    for case in shapes.cases(log2):
        if case.reverse or case.layout != "contiguous":
            for work in MAIN:
                yield _job(library, price.Cell(case, dtypes[0], work), BUDGET)
    yield _job(library, price.Cell(price.TINY, dtypes[0], "forward", 100), TINY)
    for dtype in dtypes[1:]:
        for case in shapes.shapes(log2):
            yield _job(library, price.Cell(case, dtype, "broadcast a"), BUDGET)


def _job(library: Any, cell: price.Cell, budget: Budget) -> Job:
    return price.title(library.name, cell), functools.partial(price.measure, library, cell, budget)


def copy(library: Any, log2: int) -> Row:
    """A device-to-device copy of as many float32 values."""
    source = library.inputs(shapes.Case((2**log2,), 0), "float32").a
    target = library.empty((2**log2,), "float32")

    def run() -> None:
        if library.computes:
            target[...] = source

    times = library.timer({"copy": run}, BUDGET)["copy"]
    moved = 2 * 4 * 2**log2
    return {
        "work": "copy",
        "library": library.name,
        "elements": 2**log2,
        "time": times.as_json(),
        "gigabytes_per_second": moved / times.median / 1e9,
    }


def clocks() -> Row:
    return {"work": "clocks", **machine.gpu()}
