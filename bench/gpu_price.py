"""The price of an add on a GPU: the recurrence beside the same library's own arithmetic, and beside a copy.

What matters most comes first: float32 forward on every library, then gradients, then 16 bits and one coefficient for
each channel.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bench import gpu_libraries, gpu_report, price, shapes
from bench.gpu_timing import TorchEvents, by_events
from bench.libraries import Library
from bench.timing import Budget

BUDGET = Budget(0.25, 5, 41)
TINY = Budget(0.25, 5, 21)
Row = dict[str, Any]


def jobs(log2: int, dtypes: list[str], names: list[str]) -> Iterator[tuple[str, Callable[[], Row]]]:
    found: dict[str, Library] = {name: gpu_libraries.load(name) for name in names}
    yield "a copy", lambda: copy(log2)
    for cell, budget in _cells(log2, dtypes):
        for library in found.values():
            measure = functools.partial(price.measure, library, cell, budget)
            yield price.title(library.name, cell), measure


def _cells(log2: int, dtypes: list[str]) -> Iterator[tuple[price.Cell, Budget]]:
    for dtype in dtypes:
        for work in ("forward", "forward + backward", "broadcast a"):
            for case in shapes.shapes(log2):
                yield price.Cell(case, dtype, work), BUDGET
    for case in shapes.cases(log2):
        if case.reverse or case.layout != "contiguous":
            yield price.Cell(case, "float32", "forward"), BUDGET
    yield price.Cell(price.TINY, "float32", "forward", 100), TINY


def copy(log2: int) -> Row:
    """A device-to-device copy of as many float32 values: the roof."""
    torch = importlib.import_module("torch")
    source = torch.rand(2**log2, device="cuda")
    target = torch.empty_like(source)
    times = by_events(TorchEvents(), {"copy": lambda: target.copy_(source)}, BUDGET)["copy"]
    moved = 2 * 4 * 2**log2
    return {
        "work": "copy",
        "elements": 2**log2,
        "time": times.as_json(),
        "gigabytes_per_second": moved / times.median / 1e9,
    }


def main() -> int:
    options = gpu_report.arguments("gpu_price", __doc__)
    report = gpu_report.Report("price", options)
    names = options.libraries.split(",")
    lacking = [reason for name in names if (reason := gpu_libraries.missing(name))]
    report.content["left out"] += lacking
    here = [name for name in names if not gpu_libraries.missing(name)]
    if not here:
        print("\n".join(lacking))
        report.write()
        return 3
    return report.run(jobs(options.log2, options.dtypes.split(","), here))


if __name__ == "__main__":
    sys.exit(main())
