"""Ours with one libscanlib and another, in one process, call by call: `python bench/cpu/compare.py BEFORE [AFTER]`.

BEFORE and AFTER are shared libraries; AFTER is the installed one where it is left out. Both compute the cells of the
price of an add in turn, on the same arrays, and a cell's ratio is that of the medians, in the middle of several visits,
minutes apart. Compare a library with a copy of itself to see the noise. JAX is left out, which calls the handlers of
the one library that it was given first; its calls are cut like those of PyTorch and run the same kernels.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
if __name__ == "__main__":
    sys.path.pop(0)
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.core import libraries, machine, price
from bench.core.timing import Budget, Call
from scanlib import native

Row = dict[str, Any]


class Switch:
    """Stands for the library loaded: every function of it is that of `current`."""

    def __init__(self, current: ctypes.CDLL) -> None:
        self.current = current

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(self.current, name)(*arguments)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python bench/cpu/compare.py", description=__doc__)
    parser.add_argument("before", type=Path, help="a libscanlib.so")
    parser.add_argument("after", type=Path, nargs="?", help="another (default: the installed one)")
    parser.add_argument("--log2", type=int, default=24, help="elements as a power of two")
    parser.add_argument("--dtypes", default="float32", help="separated by commas")
    parser.add_argument("--libraries", default="numpy,torch", help="separated by commas")
    parser.add_argument("--only", default="", help="part of a cell's title, as it is printed")
    parser.add_argument("--seconds", type=float, default=2.0, help="for one visit to a cell")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    sides = {
        "before": native.load(options.before),
        "after": native.load(options.after or native.library_path()),
    }
    switch = Switch(sides["after"])
    native.library = lambda: switch  # before the adapters take their functions of it
    budget = Budget(options.seconds, 5, 101)
    measured = options.libraries.split(","), options.dtypes.split(",")
    every = price.cells(options.log2, *measured)
    cells = [(name, cell) for name, cell in every if options.only in price.title(name, cell)]
    visits: list[list[Row]] = [[] for _ in cells]
    for _ in range(options.visits):
        for found, (name, cell) in zip(visits, cells, strict=True):
            found.append(compared(switch, sides, libraries.load(name), cell, budget))
            print(f"{found[-1]['ratio']:.2f}x   {price.title(name, cell)}", flush=True)
    rows = [sorted(found, key=lambda row: row["ratio"])[len(found) // 2] for found in visits]
    if options.output:
        after = options.after.name if options.after else "installed"
        settings = {"before": options.before.name, "after": after}
        for key in ("log2", "dtypes", "libraries", "only", "seconds", "visits"):
            settings[key] = getattr(options, key)
        machine.write(machine.header(settings) | {"cells": rows}, options.output)
    worst = max(rows, key=lambda row: row["ratio"])
    print(f"\nworst: {worst['ratio']:.2f}x   {worst['library']}, {worst['case']}, {worst['work']}")
    return 0


def compared(
    switch: Switch,
    sides: dict[str, ctypes.CDLL],
    library: libraries.Library,
    cell: price.Cell,
    budget: Budget,
) -> Row:
    """Check both, then time them in turn."""
    calls: dict[str, Call] = {}
    for side, loaded in sides.items():
        switch.current = loaded
        ours = price.prepared(library, cell)["ours"]

        def call(ours: Call = ours, loaded: ctypes.CDLL = loaded) -> None:
            switch.current = loaded
            ours()

        calls[side] = call
    times = library.timer(calls, budget, cell.calls)
    return {
        "library": library.name,
        "case": cell.case.name,
        "dtype": cell.dtype,
        "work": cell.kind,
        **{side: summary.as_json() for side, summary in times.items()},
        "ratio": times["after"].median / times["before"].median,
    }


if __name__ == "__main__":
    sys.exit(main())
