"""Which programs the CUDA plan asks for, and what each needs of an architecture: registers, shared memory, spills.

    python tests/cuda_gate.py [--record FILE] [--architectures 75,80,...]

compiles every program below for every architecture, which takes an hour on two cores, and records what they need;
test_cuda_gate.py takes a share of them. NVRTC needs neither a GPU nor a driver.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from scanlib import compiler, gpu, native
from scanlib.call import DTYPES, dtype_of
from scanlib.gates import AFTER, BEFORE, CANDIDATES, GATED, GateForm

ARCHITECTURES = (75, 80, 90, 100, 120)
KERNELS = ("walk", "look-back", "sums")
LAYOUTS = ("columns", "rows")

#: shape and axis: short and long, few and many, rows, columns and narrow ones
SHAPES = [
    ((16, 32), 0),
    ((3, 20), 1),
    ((1, 3), 0),
    ((64, 20, 512), 1),
    ((5000, 20), 1),
    ((4096, 1024), 1),
    ((100, 100_000), 0),
    ((8, 4096, 512), 1),
    ((64, 512), 0),
    ((128, 16), 0),
    ((64, 16), 0),
    ((65_536, 256), 0),
    ((1 << 20, 16), 0),
    ((1 << 20, 3), 0),
    ((512, 32_768), 1),
    ((2048, 131_072), 1),
    ((16, 1 << 20), 1),
    ((1 << 24,), 0),
]
#: dtypes of a and x that differ and meet in practice
MIXED = [
    ("float32", "bfloat16"),
    ("float32", "float16"),
    ("float64", "float32"),
    ("float32", "complex64"),
    ("float64", "complex128"),
    ("float64", "float16"),
    ("float16", "complex128"),
    ("float64", "complex64"),
]


#: Of sequences that start inside the time axis: walk and look-back, over rows, columns and wide tiles.
SEGMENTED_SHAPES = [
    ((5000, 20), 1),
    ((4096, 1024), 1),
    ((16, 1 << 20), 1),
    ((8, 4096, 512), 1),
    ((64, 4096, 512), 1),
    ((100, 100_000), 0),
]
SEGMENTS = 1000

GATED_DTYPES = ("float16", "bfloat16", "float32", "float64")
#: shape of rows, time last, and the width of a gate: many, narrow, few and long, short
GATED_SHAPES = [((64, 512), 1024), ((16, 100), 3), ((2, 65_536), 64), ((512, 8), 8192)]


class Use(NamedTuple):
    """What ptxas says of one program."""

    registers: int
    shared: int
    stack: int
    spilled: int


def programs() -> dict[str, str]:
    """Every program that the problems below need -> the plan's description of the first that does."""
    found: dict[str, str] = {}
    pairs = [(name, name) for name in DTYPES] + MIXED
    for a, x in pairs:
        for problem in _problems(DTYPES[a][0], DTYPES[x][0]):
            for definitions in gpu.programs(problem):
                found.setdefault(definitions, gpu.describe(problem))
    for problem in itertools.chain(_segmented(), _gates()):
        for definitions in gpu.programs(problem):
            found.setdefault(definitions, gpu.describe(problem))
    return found


def _problems(a: int, x: int) -> Iterator[native.NativeProblem]:
    """Forward, and backward with `a` repeated along every choice of axes."""
    out = max(a, x)
    for shape, axis in SHAPES:

        def full(code: int, shape: tuple[int, ...] = shape) -> native.Operand:
            return code, _strides(shape, (True,) * len(shape), code)

        yield native.prepare(shape, axis, {"a": full(a), "x": full(x), "h": full(out)})
        for kept in itertools.product((True, False), repeat=len(shape)):
            own = (a, _strides(shape, kept, a))
            gradients = {"grad_h": full(out), "grad_a": own, "grad_x": full(x)}
            yield native.prepare(shape, axis, {"a": own, "h": full(out), **gradients})


def _segmented() -> Iterator[native.NativeProblem]:
    """With a mask that lanes share, and with offsets: forward, and backward with `a` whole or one number."""
    for (name, (code, _)), (shape, axis) in itertools.product(DTYPES.items(), SEGMENTED_SHAPES):
        dense = code, _strides(shape, (True,) * len(shape), code)
        one = code, [0] * len(shape)
        states = (*shape[:axis], SEGMENTS, *shape[axis + 1 :])
        state = code, _strides(states, (True,) * len(shape), code)
        mask = dtype_of("bool", "reset")[0], [int(d == axis) for d in range(len(shape))]
        offsets = dtype_of("int64", "offsets")[0], [8 * (d == axis) for d in range(len(shape))]
        for starts in ({"reset": mask}, {"offsets": offsets}):
            given = starts | {"h": dense, "h0": state}
            options = {"segments": SEGMENTS}
            yield native.prepare(
                shape, axis, given | {"a": dense, "x": dense, "final": state}, **options
            )
            given |= {"grad_h": dense, "grad_x": dense, "grad_final": state, "grad_h0": state}
            for a in (dense, one) if name in ("float32", "bfloat16") else (dense,):
                yield native.prepare(shape, axis, given | {"a": a, "grad_a": a}, **options)


def _gates() -> Iterator[native.NativeProblem]:
    """Forward and backward of gated recurrences: every reading and input in every dtype, and every candidate."""
    forms = list(itertools.product((AFTER, BEFORE, GATED), (-1, 1), GATED_DTYPES, [None]))
    forms += itertools.product([GATED], [1], ["float32"], range(len(CANDIDATES)))
    for number, (reading, own_input, dtype, candidate) in enumerate(forms):
        kind = number % len(CANDIDATES) if candidate is None else candidate
        for shape, width in GATED_SHAPES:
            places = (0, own_input * width, 2 * width, 3 * width)
            form = GateForm(width, places[0], max(-1, places[1]), *places[2:], kind, reading, 0)
            for roles in ({"a", "h"}, {"a", "h", "grad_h", "grad_a"}):
                given = roles | ({"y"} if reading == GATED and len(roles) == 2 else set())
                code = DTYPES[dtype][0]
                for starts in (
                    (set(), {"reset"}, {"offsets", "h0"}) if dtype != "float16" else [set()]
                ):
                    problem = (*shape, 4 * width), len(shape) - 1, frozenset(given | starts)
                    yield native.prepare_gates(form, code, *problem, segments=SEGMENTS)


def _strides(shape: tuple[int, ...], kept: tuple[bool, ...], code: int) -> list[int]:
    strides, step = [], dict(DTYPES.values())[code]
    for length, keep in zip(reversed(shape), reversed(kept), strict=True):
        strides.append(step if keep else 0)
        step *= length if keep else 1
    return strides[::-1]


_TILE = re.compile(r" -DSCANLIB_(?:THREADS|WIDTH|RUN|BUNDLE|RESIDENT)=\d+")


def smallest() -> str:
    """The definitions of a program that compiles quickly: the sums of a broadcast `a`'s gradient."""
    return min(programs(), key=lambda text: ("SCANLIB_KERNEL=2" not in text, text))


def kinds(definitions: dict[str, str]) -> dict[str, list[str]]:
    """Programs alike but for the size of their tiles."""
    alike: dict[str, list[str]] = {}
    for text in definitions:
        alike.setdefault(_TILE.sub("", text), []).append(text)
    return alike


def use(definitions: str, architecture: int) -> Use:
    """Compile a program and read what it uses."""
    log = io.StringIO()
    compiler.build(definitions, architecture, ["-v"], log)
    text = log.getvalue()

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    registers = number(r"Used (\d+) registers")
    assert registers, f"ptxas says nothing of registers:\n{text}"
    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return Use(registers, number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame"), spilled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="file to write; standard output otherwise")
    parser.add_argument("--architectures", default=",".join(map(str, ARCHITECTURES)))
    options = parser.parse_args()
    architectures = [int(part) for part in options.architectures.split(",")]
    rows: list[dict[str, Any]] = []
    began, spilled = time.monotonic(), 0
    every = programs()
    jobs = list(itertools.product(every, architectures))
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for count, (job, found) in enumerate(
            zip(jobs, pool.map(use, *zip(*jobs, strict=True)), strict=True), start=1
        ):
            definitions, architecture = job
            if found.spilled:
                spilled += 1
                print(f"\nspills: sm_{architecture} {found} {definitions}", file=sys.stderr)
            rows.append({"sm": architecture, **found._asdict(), "definitions": _short(definitions)})
            print(
                f"\r{count} of {len(jobs)}, {time.monotonic() - began:.0f} s",
                end="",
                file=sys.stderr,
            )
    print(file=sys.stderr)
    record = {"nvrtc": compiler.nvrtc_version(), "programs": summary(rows)}
    text = json.dumps(record, indent=1) + "\n"
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(text)
    else:
        print(text)
    print(f"{len(rows)} cubins, {spilled} with spills", file=sys.stderr)
    return 1 if spilled else 0


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most that a program needs, for each architecture, kernel, direction, dtype computed in and layout."""
    names = {code: name for name, (code, _) in DTYPES.items()}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        given = dict(part.split("=") for part in row["definitions"].split())
        kind = KERNELS[int(given["KERNEL"])], "backward" if given["BACKWARD"] == "1" else "forward"
        key = row["sm"], *kind, names[int(given["VALUE"])], LAYOUTS[int(given["LAYOUT"])]
        groups.setdefault(key, []).append(row)
    return [
        dict(zip(("sm", "kernel", "direction", "dtype", "layout"), key, strict=True))
        | {"programs": len(group), "spilling": sum(row["spilled"] > 0 for row in group)}
        | {
            name: max(row[name] for row in group)
            for name in ("registers", "shared", "stack", "spilled")
        }
        for key, group in sorted(groups.items())
    ]


def _short(definitions: str) -> str:
    return definitions.replace("-DSCANLIB_", "")


if __name__ == "__main__":
    sys.exit(main())
