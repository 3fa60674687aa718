"""The price of an add with one libscanlib and with another, in one run: `python bench/compare.py BEFORE [AFTER]`.

BEFORE and AFTER are shared libraries; AFTER is the installed one where it is left out. Rounds of both alternate, each
in a process of its own, and the fastest call of each cell counts: what else the machine does can only add to it. The
yardsticks are the same code in both, so what they differ by is the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]
CELL = ("library", "dtype", "case", "work")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python bench/compare.py",
        description=__doc__,
        epilog="Further options are those of bench/run.py.",
    )
    parser.add_argument("before", type=Path, help="a libscanlib.so")
    parser.add_argument("after", type=Path, nargs="?", help="another (default: the installed one)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options, further = parser.parse_known_args(arguments)
    found: tuple[list[Row], list[Row]] = ([], [])
    for turn in range(options.rounds):
        sides = list(zip((options.before, options.after), found, strict=True))
        for library, reports in sides if turn % 2 == 0 else reversed(sides):
            reports.append(_run(library, further))
    cells = compared(*([row for report in side for row in report["price"]] for side in found))
    last = found[1][-1]
    report = {key: last[key] for key in ("schema", "date", "commit", "dirty", "machine")}
    report |= {"settings": last["settings"] | {"rounds": options.rounds}, "cells": cells}
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table(cells))
    return 0


def _run(library: Path | None, further: Sequence[str]) -> Row:
    environment = dict(os.environ)
    environment.pop("SCANLIB_LIBRARY", None)
    if library is not None:
        environment["SCANLIB_LIBRARY"] = str(library.resolve())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, HERE / "run.py", "--only", "price", "--visits", "1", "--output"]
        subprocess.run([*map(str, command), str(file), *further], env=environment, check=True)
        report: Row = json.loads(file.read_text())
    return report


def compared(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """Rows of several rounds of the price of an add to one row for each cell, the slowest change first."""
    cells = []
    sides = [_fastest(rows) for rows in (before, after)]
    for key in sides[0].keys() & sides[1].keys():
        one, other = (side[key] for side in sides)
        cells.append(
            dict(zip(CELL, key, strict=True))
            | {"before": one["ours"], "after": other["ours"]}
            | {"ratio": other["ours"] / one["ours"]}
            | {"of_the_yardstick": other["yardstick"] / one["yardstick"]}
        )
    return sorted(cells, key=lambda cell: -cell["ratio"])


def _fastest(rows: Iterable[Row]) -> dict[tuple[str, ...], dict[str, float]]:
    """Seconds of the fastest call of each cell, ours and the yardstick's."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        best = found.setdefault(tuple(row[name] for name in CELL), {})
        for side in ("ours", "yardstick"):
            best[side] = min(best.get(side, float("inf")), row[side]["fastest"])
    return found


def table(cells: Sequence[Row]) -> str:
    lines = ["after / before   of the yardstick"]
    lines += [
        f"{cell['ratio']:14.2f} {cell['of_the_yardstick']:18.2f}   "
        + ", ".join(str(cell[name]) for name in CELL)
        for cell in cells
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
