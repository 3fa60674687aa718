"""The command line: measure, print as it goes, write one JSON file.

Every comparison is visited several times, minutes apart, and the visit in the middle counts: machines have slow spells
of seconds, in which all of a comparison may fall.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.core import machine, plot, price, race
from bench.core.libraries import LIBRARIES
from bench.core.reference import WrongResultError
from bench.core.timing import Budget
from bench.cpu import accuracy

RESULTS = machine.ROOT / "bench" / "results"
Row = dict[str, Any]
SECTIONS = ("price", "peers", "accuracy")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.draw is not None:
        result = plot.newest() if options.draw == Path() else options.draw
        print("\n".join(f"Wrote {image}" for image in plot.draw(result)))
        return 0
    report = _header(options)
    wrong = 0
    started = time.perf_counter()
    visits: dict[tuple[str, str], list[list[Row]]] = {}
    for visit in range(options.visits):
        for section, title, measure in _jobs(options):
            if visit and section == "accuracy":
                continue  # the same numbers again
            print(f"[{time.perf_counter() - started:5.0f} s] {title}", flush=True)
            try:
                rows = measure()
            except WrongResultError as error:
                wrong += 1
                report["wrong"].append(str(error))
                print(f"          WRONG: {error}", flush=True)
                continue
            rows = rows if isinstance(rows, list) else [rows]
            visits.setdefault((section, title), []).append(rows)
            for row in rows:
                print(f"          {_line(section, row)}", flush=True)
    for (section, _), found in visits.items():
        report[section] += [_middle(rows) for rows in zip(*found, strict=True)]
    report["seconds"] = round(time.perf_counter() - started)
    path = _write(report, options.output)
    print(f"\nWrote {path}")
    if options.plot:
        print("\n".join(f"Wrote {image}" for image in plot.draw(path)))
    print(_verdict(report))
    return 1 if wrong else 0


def _middle(rows: Sequence[Row]) -> Row:
    """Of one row's visits the one with the middle ratio; for ours among peers, with the middle time."""
    if any("skipped" in row for row in rows):
        return rows[0]

    def size(row: Row) -> tuple[float, float]:
        time = row.get("time") or row.get("ours") or {"median": 0.0}
        return row.get("ratio") or row.get("ratio_to_ours") or 0.0, time["median"]

    return sorted(rows, key=size)[len(rows) // 2]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python bench/cpu/run.py", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="smaller arrays, less time for each, peers on three shapes",
    )
    parser.add_argument(
        "--log2", type=int, help="elements as a power of two (default 24; 23 with --quick)"
    )
    parser.add_argument(
        "--dtypes", default="float32", help="of float32, bfloat16, float64, separated by commas"
    )
    parser.add_argument("--libraries", default=",".join(LIBRARIES), help="separated by commas")
    parser.add_argument(
        "--only", choices=SECTIONS, action="append", help="may be given more than once"
    )
    parser.add_argument(
        "--seconds", type=float, help="time for one visit (default 1; 0.15 with --quick)"
    )
    parser.add_argument("--visits", type=int, help="to each comparison (default 3; 1 with --quick)")
    parser.add_argument(
        "--output", type=Path, help="the JSON file (default bench/results/DEVICE/DATE-COMMIT.json)"
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw docs/images/*.png from the result"
    )
    parser.add_argument(
        "--draw", type=Path, nargs="?", const=Path(), help="only draw a result (the newest)"
    )
    options = parser.parse_args(arguments)
    options.log2 = options.log2 or (23 if options.quick else 24)
    if options.log2 < 21:
        parser.error(f"--log2 is {options.log2}; at least 21 is needed for every shape to exist.")
    options.seconds = options.seconds or (0.15 if options.quick else 1.0)
    options.visits = options.visits or (1 if options.quick else 3)
    options.only = options.only or list(SECTIONS)
    return options


def _header(options: argparse.Namespace) -> dict[str, Any]:
    settings = {
        "quick": options.quick,
        "log2_elements": options.log2,
        "seconds": options.seconds,
        "visits": options.visits,
    }
    return machine.header(settings) | {"price": [], "peers": [], "accuracy": [], "wrong": []}


def _jobs(options: argparse.Namespace) -> Any:
    """Everything to measure as (section, title, function)."""
    names = [name for name in options.libraries.split(",") if importlib.util.find_spec(name)]
    budget = Budget(options.seconds, 3 if options.quick else 5, 61)
    slow = Budget(options.seconds, 2 if options.quick else 3, 31)
    if "price" in options.only:
        for title, job in price.jobs(options.log2, names, options.dtypes.split(","), budget):
            yield "price", title, job
    if "peers" in options.only:
        for title, races in race.jobs(options.log2, names, slow, options.quick):
            yield "peers", title, races
    if "accuracy" in options.only:
        for title, job in accuracy.jobs():
            yield "accuracy", title, job


def _line(section: str, row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{row['candidate']}: skipped, {row['skipped']}"
    if section == "accuracy":
        return f"{row['layout']:15} {row['ratio']:.2f}x the largest error of the serial loop"
    if section == "peers":
        return f"{row['candidate']:26} {row['gigabytes_per_second']:7.2f} GB/s  {row['ratio_to_ours']:7.2f}x our time"
    ours, yardstick = row["ours"]["median"] * 1e6, row["yardstick"]["median"] * 1e6
    return f"{ours:10.1f} us   {row['yardstick_is']} {yardstick:10.1f} us   {row['ratio']:.2f}x"


def _write(report: dict[str, Any], path: Path | None) -> Path:
    if path is None:
        name = f"{report['date'][:10]}-{report['commit']}{'-dirty' if report['dirty'] else ''}.json"
        path = RESULTS / machine.device_name() / name
    return machine.write(report, path)


def _verdict(report: dict[str, Any]) -> str:
    """The worst ratio of each kind of work and library, and where it was."""
    lines = ["", "worst case of each:"]
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in report["price"]:
        key = (row["work"], row["dtype"], row["library"])
        if key not in groups or row["ratio"] > groups[key]["ratio"]:
            groups[key] = row
    for (work, dtype, library), row in sorted(groups.items()):
        lines.append(
            f"  {work:19} {dtype:9} {library:6} {row['ratio']:5.2f}x {row['yardstick_is']}, {row['case']}"
        )
    return "\n".join(lines if groups else [])
