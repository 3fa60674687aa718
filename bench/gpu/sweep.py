"""Which numbers of native/cuda_plan.h should be others: each tried on the six shapes, in turn with those in force.

A knob is one of them; a problem that its value cuts as before is not timed again. What comes out is a line for each
knob: the value to put in, what is gained by it forward and backward, and where it costs most.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from bench.core import machine, progress, shapes
from bench.core.libraries import Inputs
from bench.core.reference import TOLERANCE, WrongResultError
from bench.core.shapes import Case, np_dtype
from bench.core.timing import Budget
from bench.gpu import direct as gpu_direct
from bench.gpu.report import Job, Report, Row
from scanlib.errors import NativeError

#: What is tried in place of the value in force. Larger blocks, and longer runs backward, want more shared memory than a
#: kernel is given.
KNOBS: dict[str, tuple[int, ...]] = {
    "enough_groups": (128, 256, 1024, 4096),
    "bundle": (8, 16, 32),
    "run_bytes": (32,),
    "backward_run_bytes": (16,),
    "row_threads": (64,),
    "column_threads": (128,),
    "look_back_threads": (64,),
    "many_lanes": (256, 16_384),
    "resident": (384, 512, 768, 1024),
}
WORKS = ("forward", "backward")
BUDGET = Budget(0.15, 5, 15)
AGAIN = "again"  # those in force a second time: what differs between the two is noise
LEAST_GAIN = 0.01  # a change for less is not worth making


def run(report: Report, library: Any, log2: int, until: float | None = None) -> list[Row]:
    """All knobs in float32, those that gain in bfloat16 too; the table."""
    knobs = accepted(report)
    report.run(jobs(library, log2, "float32", knobs), until)
    rows = _rows(report)
    better = {row["knob"]: (row["best"],) for row in table(rows) if row["change"]}
    if not library.computes:
        better = knobs  # what any of them would need
    report.run(jobs(library, log2, "bfloat16", better), until)
    found = table(_rows(report))
    for row in found:
        report.row(row)
    return found


def accepted(report: Report) -> dict[str, tuple[int, ...]]:
    """The knobs and values that libscanlib takes; the others are named."""
    found: dict[str, tuple[int, ...]] = {}
    for knob, values in KNOBS.items():
        taken = []
        for value in values:
            try:
                gpu_direct.check({knob: value})
                taken.append(value)
            except NativeError as error:
                report.left_out(f"{knob} {value}", f"libscanlib refuses it, {error}")
        if taken:
            found[knob] = tuple(taken)
    return found


def jobs(library: Any, log2: int, dtype: str, knobs: dict[str, tuple[int, ...]]) -> Iterator[Job]:
    for case in shapes.shapes(log2):
        for work in WORKS:
            yield (
                f"{dtype} {case.name}: {work}",
                lambda case=case, work=work: measure(library, case, dtype, work, knobs),
            )


def measure(
    library: Any, case: Case, dtype: str, work: str, knobs: dict[str, tuple[int, ...]]
) -> list[Row]:
    """Every value beside those in force; none of a value that changes nothing here."""
    inputs = library.inputs(case, dtype)
    where = {"case": case.name, "work": work, "dtype": dtype}
    before = _call(library, case, dtype, work, inputs, {})
    before()
    calls = {"now": before, AGAIN: before}
    rows: list[Row] = []
    for knob, values in knobs.items():
        for value in values:
            progress.beat(f"{knob} {value}")
            row = {"knob": knob, "value": value, **where}
            call = _call(library, case, dtype, work, inputs, {knob: value})
            if call.plan == before.plan:
                continue
            if refusal := _first(library, call, before, TOLERANCE[np_dtype(dtype).itemsize]):
                rows.append(row | {"refused": refusal})
                continue
            rows.append(row)
            calls[f"{knob} {value}"] = call
    if len(calls) == 2:
        return rows
    times = library.timer(calls, BUDGET)
    now = times["now"].median
    for row in rows:
        if time := times.get(f"{row['knob']} {row['value']}"):
            row |= {
                "ratio": time.median / now,
                "noise": abs(times[AGAIN].median / now - 1),
                "microseconds": time.median * 1e6,
                "now_microseconds": now * 1e6,
            }
    return rows


#: Programs that do not compile or run, and why.
_broken: dict[str, str] = {}


def _first(library: Any, call: gpu_direct.Call, before: gpu_direct.Call, tolerance: float) -> str:
    """Make a first call and compare what it gives; why its program does not run, or an empty string."""
    programs = call.plan[0]
    if known := [_broken[text] for text in programs if text in _broken]:
        return known[0]
    try:
        call()
    except NativeError as error:
        lines = [line for line in str(error).splitlines() if "error" in line] or [str(error)]
        _broken[programs[0]] = lines[-1].strip()[:200]
        return _broken[programs[0]]
    for mine, expected in zip(call.outputs, before.outputs, strict=True):
        if not (off := library.apart(mine, expected)) <= tolerance:
            raise WrongResultError(f"with {dict(call.knobs)} the result is off by {off:.2g}")
    return ""


def _call(
    library: Any, case: Case, dtype: str, work: str, inputs: Inputs, knobs: gpu_direct.Knobs
) -> gpu_direct.Call:
    if work == "forward":
        return gpu_direct.forward(library, case, dtype, inputs, knobs)
    # Any values do for the states that a gradient is computed from.
    return gpu_direct.backward(library, case, dtype, inputs, inputs.x, knobs)


def _rows(report: Report) -> list[Row]:
    return [row for row in report.rows if "ratio" in row]


# ---- the table


def table(rows: list[Row]) -> list[Row]:
    """A line for each knob: its best value, and whether it is worth putting in."""
    numbers = in_force()
    return [
        {"knob": knob, "now": numbers.get(knob), **_best(mine)}
        for knob in KNOBS
        if (mine := [row for row in rows if row["knob"] == knob])
    ]


def _best(rows: list[Row]) -> Row:
    values = {row["value"]: [r for r in rows if r["value"] == row["value"]] for row in rows}
    value, mine = min(values.items(), key=lambda item: _mean(item[1]))
    noise = sum(row["noise"] for row in mine) / len(mine)
    worst = max(mine, key=lambda row: row["ratio"])
    gain = 1 - _mean(mine)
    return {
        "best": value,
        "gain": gain,
        **{f"gain {work}": 1 - _mean(part) for work in WORKS if (part := _of(mine, work))},
        "noise": noise,
        "cells": len(mine),
        "worst": worst["ratio"],
        "worst at": f"{worst['dtype']} {worst['case']}, {worst['work']}",
        "change": gain > max(LEAST_GAIN, 2 * noise),
    }


def _of(rows: list[Row], work: str) -> list[Row]:
    return [row for row in rows if row["work"] == work]


def _mean(rows: list[Row]) -> float:
    return math.exp(sum(math.log(row["ratio"]) for row in rows) / len(rows))


def in_force() -> dict[str, int]:
    """The numbers of native/cuda_plan.h."""
    text = (machine.ROOT / "native" / "cuda_plan.h").read_text()
    body = re.search(r"struct CudaTuning \{(.*?)\};", text, re.DOTALL)
    return {name: int(n) for name, n in re.findall(r"\b(\w+) = (\d+)", body[1])} if body else {}
