"""What holds the kernels up, as Nsight Compute counts it: share of the memory's speed, registers, warps, stalls.

Started by itself this runs ncu on itself; where ncu may not read the counters, it says why.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable

from bench.core import progress, shapes
from bench.gpu import direct as gpu_direct
from bench.gpu import libraries as gpu_libraries
from bench.gpu import rehearsal
from bench.gpu import report as gpu_report
from bench.gpu.report import Row

ENTRY = "scanlib_kernel"
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "LaunchStats", "Occupancy", "WarpStateStats")
#: the end of a metric's name -> what it is called here
METRICS = {
    "gpu__time_duration.sum": "duration",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM %",
    "launch__registers_per_thread": "registers",
    "launch__grid_size": "blocks",
    "launch__occupancy_limit_registers": "blocks an SM by registers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps active %",
    "smsp__average_warp_latency_per_inst_issued.ratio": "cycles an instruction",
}
STALL = re.compile(r"issue_stalled_(\w+)_per_issue_active")
NUMBER = re.compile(r"[\d.,]+")
CALLING = "calling "
MOST_STALLS = 4


def inner(log2: int, dtypes: list[str]) -> int:
    """Make a call of each kernel, and say before which it is."""
    columns, _, _, rows, few, _ = shapes.shapes(log2)
    try:
        library = gpu_libraries.first("cupy", "torch")
    except gpu_libraries.MissingError as error:
        print(error, flush=True)
        return gpu_report.COULD_NOT
    for dtype, work, case in itertools.product(
        dtypes, ("forward", "backward"), (columns, few, rows)
    ):
        inputs = library.inputs(case, dtype)
        call = gpu_direct.forward(library, case, dtype, inputs, {})
        if work == "backward":
            call = gpu_direct.backward(library, case, dtype, inputs, inputs.x, {})
        print(f"{CALLING}{case.name}: {call.plan[1].split(':')[0]}", flush=True)
        call()
        library.wait()
    return 0


def rows(lines: Iterable[str]) -> list[Row]:
    """A row for each kernel of ncu's raw page in CSV; the lines around it are passed over."""
    table = [line for line in lines if line.startswith('"')]
    found = []
    for record in csv.DictReader(table):
        if not record.get("Kernel Name", "").startswith(ENTRY):
            continue  # the line of units
        row: Row = {label: record[name] for name, label in METRICS.items() if record.get(name)}
        stalls = {
            match[1]: float(value.replace(",", ""))
            for name, value in record.items()
            if value and (match := STALL.search(name)) and NUMBER.fullmatch(value)
        }
        most = sorted(stalls.items(), key=lambda item: -item[1])[:MOST_STALLS]
        found.append(row | {"stalls": ", ".join(f"{name} {value:.1f}" for name, value in most)})
    return found


def main() -> int:
    parser = gpu_report.arguments("bench.gpu.profile", __doc__, 60)
    parser.add_argument("--inner", action="store_true", help="only make the calls")
    options = parser.parse_args()
    if options.inner:
        return inner(options.log2, options.dtypes.split(","))
    report = gpu_report.Report("profile", options.output, options.seconds)
    if rehearsal.active():
        inner(options.log2, options.dtypes.split(","))
        report.left_out("counters", "rehearsal")
        return report.close()
    ncu = shutil.which("ncu", path=f"{os.environ.get('PATH')}:/usr/local/cuda/bin")
    if ncu is None:
        return gpu_report.could_not(report, "ncu was not found")
    # fmt: off
    command = [ncu, "--target-processes", "all", "--clock-control", "none", "-k", ENTRY, "--csv", "--page", "raw",
               "--print-units", "base",
               *(part for section in SECTIONS for part in ("--section", section)),
               sys.executable, "-P", "-m", "bench.gpu.profile", "--inner", "--output", str(options.output),
               "--log2", str(options.log2), "--dtypes", options.dtypes]
    # fmt: on
    output = watched(command)
    found = rows(output)
    names = [line.removeprefix(CALLING) for line in output if line.startswith(CALLING)]
    for name, row in zip(names, found, strict=False):
        report.row({"kernel": name, **row})
    if not found:
        told = [line for line in output if "==ERROR==" in line] or output[-1:] or ["ncu is silent"]
        return gpu_report.could_not(report, told[0].replace("==ERROR==", "ncu:").strip()[:200])
    return report.close()


def watched(command: list[str]) -> list[str]:
    """A command's lines, each a sign of life."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    began, lines = time.monotonic(), []
    progress.enter("ncu", 60)
    for line in process.stdout:
        lines.append(line.rstrip())
        progress.beat(line.strip()[:80], 60)
    process.wait()
    print(f"ncu took {time.monotonic() - began:.0f} s", flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main())
