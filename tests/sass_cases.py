"""Machine code made up for tests, as nvdisasm lists it, and a program that it could be of."""

from __future__ import annotations

import sass
from cuda_sass import KERNEL
from hot_path import HotPath, Program, hot_path

from bench.core.shapes import Case


def toy(run: int = 4, threads: int = 128) -> Program:
    definitions = " ".join(
        f"-DSCANLIB_{name}={value}"
        for name, value in {
            "KERNEL": 0, "LAYOUT": 1, "THREADS": threads, "WIDTH": 1, "RUN": run, "BUNDLE": 4
        }.items()
    )  # fmt: skip
    return Program(Case((threads, 4096), 1), "float32", False, definitions, 0)


def blocks_of(text: str) -> list[sass.Block]:
    """Of a listing without addresses."""
    lines = [".section\t.text", f"{KERNEL}:"]
    address = 0
    for line in map(str.strip, text.strip().splitlines()):
        if line.endswith(":"):
            lines.append(line)
        else:
            lines.append(f"        /*{address:04x}*/ {line} ;")
            address += 16
    return sass.parse("\n".join(lines), KERNEL)


def path_of(text: str, **how: int) -> HotPath:
    return hot_path(blocks_of(text), toy(**how))


def names(code: list[sass.Instruction]) -> list[str]:
    return [one.opcode for one in code]


LOOP = """
.L_x_0:
  {load}
  FADD R4, R4, R5
  BAR.SYNC.DEFER_BLOCKING 0x0
  {middle}
  STG.E.128 desc[UR4][R8.64], R4
  @P1 BRA `(.L_x_0)
  EXIT
"""
LOAD = "LDG.E.128 R4, desc[UR4][R2.64]"
