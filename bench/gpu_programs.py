"""Compile what the GPU benchmarks run, on all cores at once and before anything is timed."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from bench import gpu_table1, price, shapes
from bench.shapes import Case
from scanlib import compiler, gpu, native
from scanlib.problem import DTYPES, broadcast_strides, contiguous_strides


def problems(log2: int, dtypes: list[str]) -> Iterator[native.NativeProblem]:
    table = itertools.product(gpu_table1.STEPS, gpu_table1.FEATURES)
    for case in [*shapes.cases(log2), price.TINY, *(Case(shape, 0) for shape in table)]:
        for dtype in dtypes:
            yield from _problems(case, DTYPES[dtype][0])


def _problems(case: Case, code: int) -> Iterator[native.NativeProblem]:
    dense = contiguous_strides(case.shape)
    given = dense
    if case.layout == "halves":
        given = contiguous_strides((*case.shape[:-1], 2 * case.shape[-1]))
    own = broadcast_strides(case.channel_shape, contiguous_strides(case.channel_shape), case.shape)
    result = {"h": (code, dense)}
    gradients = dict.fromkeys(("grad_h", "grad_a", "grad_x"), (code, dense))
    for operands in (
        {"a": (code, given), "x": (code, given), **result},
        {"a": (code, own), "x": (code, given), **result},
        {"a": (code, given), **result, **gradients},
    ):
        yield native.prepare(case.shape, case.axis, operands, reverse=case.reverse)


def architecture() -> int:
    """90 for an sm_90; 0 where there is no GPU."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return int(done.stdout.split()[0].replace(".", ""))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", type=int, help="90 for sm_90 (default: this machine's)")
    parser.add_argument("--log2", type=int, default=26)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    options = parser.parse_args()
    target = options.architecture or architecture()
    if reason := compiler.unavailable() or ("" if target else "no GPU to compile for"):
        print(reason)
        return 3
    every = problems(options.log2, options.dtypes.split(","))
    names = sorted({name for problem in every for name in gpu.programs(problem)})
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(_size, names, itertools.repeat(target)))
    seconds = time.perf_counter() - began
    print(f"{len(sizes)} programs for sm_{target}, {sum(sizes) / 2**20:.1f} MiB, {seconds:.0f} s")
    return 0


def _size(definitions: str, target: int) -> int:
    return len(compiler.program(definitions, target))


if __name__ == "__main__":
    sys.exit(main())
