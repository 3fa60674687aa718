"""The price of an add on a GPU: the recurrence beside the same library's own arithmetic, and beside a copy.

What matters most comes first: float32 forward on every library, then gradients, then 16 bits and one coefficient for
each channel.
"""

from __future__ import annotations

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
    for dtype in dtypes:
        for work in ("forward", "forward + backward", "broadcast a"):
            for case in shapes.shapes(log2):
                for library in found.values():
                    yield (
                        f"{dtype} {case.name}: {library.name}, {work}",
                        lambda library=library, case=case, dtype=dtype, work=work: price.measure(
                            library, case, dtype, work, BUDGET
                        ),
                    )
    extra = [case for case in shapes.cases(log2) if case.reverse or case.layout != "contiguous"]
    for case in extra:
        for library in found.values():
            yield (
                f"float32 {case.name}: {library.name}, forward",
                lambda library=library, case=case: price.measure(
                    library, case, "float32", "forward", BUDGET
                ),
            )
    for library in found.values():
        yield (
            f"{price.TINY.name}: {library.name}",
            lambda library=library: price.measure(
                library, price.TINY, "float32", "forward", TINY, 100
            ),
        )


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
