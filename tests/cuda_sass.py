"""What the machine code of the benchmark's programs promises: occupancy, bytes in flight, widths, instructions.

    python tests/cuda_sass.py [--record FILE] [--print] [--architectures 80,90,100]

From them gpu_model.py predicts each program's share of the bandwidth of a copy (docs/gpu-model.md). It needs NVRTC and
nvdisasm, and no GPU. The table is kept in bench/results/cuda-sass.json; test_cuda_sass.py compares it with the code.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gpu_model
import sass
from gpu_model import MACHINES, predicted, resident, timed, traced
from hot_path import HotPath, Program, hot_path
from native_calls import dense_problem
from sass import Instruction

from scanlib import compiler, gpu

if TYPE_CHECKING:
    pass

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "cuda-sass.json"
LOG2 = 26
ARRAYS = ("float32", "bfloat16")
KERNEL = "scanlib_kernel"
LAYOUTS = ("columns", "rows")

# ---- problems and their programs


def programs(log2: int = LOG2) -> Iterator[Program]:
    """The six shapes, dense and contiguous, forward and backward."""
    from bench.core.shapes import shapes

    for dtype in ARRAYS:
        for case in shapes(log2):
            for backward in (False, True):
                names = ("a", "h", "grad_h", "grad_a", "grad_x") if backward else ("a", "x", "h")
                problem = dense_problem(case.shape, case.axis, names, dtype)
                (definitions,) = gpu.programs(problem)  # nothing is summed, so one launch
                yield Program(case, dtype, backward, definitions, gpu.scratch_bytes(problem))


# ---- one row of the table


@dataclass(frozen=True)
class Row:
    sm: int
    shape: str
    direction: str
    dtype: str
    kernel: str
    layout: str
    threads: int
    width: int
    run: int
    bundle: int
    registers: int
    shared: int
    blocks: int  # resident, a multiprocessor
    in_flight: int  # bytes of a tile's loads, all resident blocks together
    loads: dict[str, int]  # bytes a thread -> accesses a tile
    stores: dict[str, int]
    instructions: float  # of a warp for each element of a thread
    cycles: int  # of a block for a tile
    share: float  # of the bandwidth of a copy
    bound: str
    bounds: dict[str, float]


def row_of(program: Program, architecture: int) -> Row:
    machine = MACHINES[architecture]
    registers, shared, path = read(program, architecture)
    stored = sum(one.width for one in path.moved if one.store)
    # Of one round of the loop, which the compiler may have unrolled.
    tiles = max(1, round(stored / (program.run * program.item * program.arrays[1])))

    loads = _widths([one for one in path.moved if one.load], tiles)
    stores = _widths([one for one in path.moved if one.store], tiles)
    # Copies of what lies beside a tile are few threads', and counted as all threads'.
    elements = program.run * program.item * program.arrays[0]
    loaded = min(elements, sum(int(width) * count for width, count in loads.items()))
    blocks = resident(registers, shared, program.given["THREADS"], machine)
    timing = timed(path, program.warps)
    period = timing.period / tiles
    in_flight = blocks * program.given["THREADS"] * loaded
    instructions = len(path.usual) / tiles / program.run
    bounds = predicted(program, machine, blocks, in_flight, instructions, period, timing.chain)
    bound = min(bounds, key=lambda name: bounds[name])
    given = program.given
    return Row(
        architecture,
        program.case.name,
        program.direction,
        program.dtype,
        program.kernel,
        LAYOUTS[given["LAYOUT"]],
        given["THREADS"],
        given["WIDTH"],
        program.run,
        program.bundle,
        registers,
        shared,
        blocks,
        in_flight,
        loads,
        stores,
        round(instructions, 1),
        round(period),
        round(bounds[bound], 3),
        bound,
        {name: round(value, 3) for name, value in bounds.items()},
    )


def _widths(moved: list[Instruction], tiles: int) -> dict[str, int]:
    counted = Counter(one.width for one in moved)
    return {str(width): round(count / tiles) for width, count in sorted(counted.items())}


_read: dict[tuple[str, int], tuple[int, int, HotPath]] = {}


def read(program: Program, architecture: int) -> tuple[int, int, HotPath]:
    """Registers of a thread, shared memory of a block, and the hot path: the same for all problems of one program."""
    key = program.definitions, architecture
    if key not in _read:
        cubin = compiler.program(*key)
        blocks = sass.parse(sass.listing(cubin), KERNEL)
        _read[key] = sass.registers(cubin), sass.shared(cubin), hot_path(blocks, program)
    return _read[key]


# ---- the table


def table(architectures: list[int], log2: int = LOG2) -> list[Row]:
    return [row_of(program, sm) for sm in architectures for program in programs(log2)]


# What tells a row from others, and what has to stay as it is, whatever compiler made the code.
KEY = ("sm", "shape", "direction", "dtype")
EXACT = (
    "kernel",
    "layout",
    "threads",
    "width",
    "run",
    "bundle",
    "blocks",
    "in_flight",
    "loads",
    "stores",
)
MORE_INSTRUCTIONS, LESS_SHARE, GOAL = (
    0.1,
    0.03,
    0.85,
)  # what another release of the compiler may change


def differences(rows: list[dict[str, Any]], kept: list[dict[str, Any]]) -> list[str]:
    """Where rows are worse than, or not, what the table says of them."""
    found = []
    for row in rows:
        name = " ".join(str(row[key]) for key in KEY)
        before = next((each for each in kept if all(each[key] == row[key] for key in KEY)), None)
        if before is None:
            found.append(f"{name}: not in the table")
            continue
        found += [
            f"{name}: {key} is {row[key]}, was {before[key]}"
            for key in EXACT
            if row[key] != before[key]
        ]
        if abs(row["instructions"] / before["instructions"] - 1) > MORE_INSTRUCTIONS:
            found.append(
                f"{name}: {row['instructions']} instructions an element, was {before['instructions']}"
            )
        least = before["share"] - LESS_SHARE
        if before["share"] >= GOAL:
            least = max(least, GOAL)
        if row["share"] < least:
            found.append(f"{name}: share {row['share']} by {row['bound']}, was {before['share']}")
    return found


HEADS = [
    *("no", "sm", "shape/axis", "direction", "dtype", "kernel", "threads/width/run/bundle"),
    *("registers", "blocks", "KiB in flight", "loads", "stores", "instructions", "cycles"),
    *("share", "bound by", "bounds below 1"),
]


def printed(rows: list[Row]) -> str:
    lines = [HEADS]
    for number, row in enumerate(rows):
        # fmt: off
        lines.append([
            str(number), str(row.sm), row.shape.replace(" axis ", "/").replace(" ", ""), row.direction, row.dtype,
            f"{row.kernel} {row.layout}", f"{row.threads}/{row.width}/{row.run}/{row.bundle}",
            str(row.registers), str(row.blocks), f"{row.in_flight / 1024:.0f}",
            *(" ".join(f"{n}x{w}" for w, n in widths.items()) for widths in (row.loads, row.stores)),
            f"{row.instructions:.1f}", str(row.cycles), f"{row.share:.2f}", row.bound,
            " ".join(f"{name}={value:.2f}" for name, value in row.bounds.items() if value < 1),
        ])
        # fmt: on
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def explained(architecture: int, program: Program) -> str:
    """What holds up the warp that a tile waits for: barriers, accesses to what blocks publish, stalls."""
    _, _, path = read(program, architecture)
    steps = traced(path.longest, program.warps, path.elsewhere)
    lines = [program.definitions, "cycle  stalled  address  instruction"]
    for one, began, stalled in steps:
        if (
            one.name in ("BAR", "DEPBAR", "LDGDEPBAR")
            or one.strong
            or stalled >= gpu_model.SHARED / 2
        ):
            guard = f"@{one.predicate} " if one.predicate else ""
            text = f"{guard}{one.opcode} {', '.join(one.operands)}"
            lines.append(f"{began - steps[0].began:5.0f}  {stalled:7.0f}  {one.address:7x}  {text}")
    usual, longest = len(path.usual), len(path.longest)
    return "\n".join(
        [
            *lines,
            f"{timed(path, program.warps).period:5.0f}  of {longest} instructions; usually {usual}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file to write as JSON")
    parser.add_argument("--print", action="store_true", help="the table, also when it is recorded")
    parser.add_argument("--architectures", default=",".join(map(str, MACHINES)))
    parser.add_argument(
        "--explain", type=int, help="where the cycles of one row's tile go: its number"
    )
    options = parser.parse_args()
    if missing := compiler.unavailable() or sass.unavailable():
        print(missing, file=sys.stderr)
        return 2
    sys.path.append(str(ROOT))  # for bench
    began = time.monotonic()
    architectures = [int(part) for part in options.architectures.split(",")]
    if options.explain is not None:
        print(explained(*list(itertools.product(architectures, programs()))[options.explain]))
        return 0
    rows = table(architectures)
    if options.record:
        release = ".".join(map(str, compiler._nvrtc()[1]))
        lines = ",\n  ".join(json.dumps(asdict(row)) for row in rows)
        options.record.write_text(f'{{"nvrtc": "{release}", "programs": [\n  {lines}\n]}}\n')
    if options.print or not options.record:
        print(printed(rows))
    print(f"{len(rows)} rows, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
