"""Compile CUDA programs on all cores, keep them where scanlib looks for them, and put them into one archive.

Takes files of definitions, a line each, as `bench.gpu.rehearsal` and `bench.gpu.recorded_tests` write them.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.gpu import environment as gpu_environment
from scanlib import compiler, file_cache


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="*", help="definitions, a file for each stage")
    parser.add_argument("--architecture", type=int, default=90, help="90 for sm_90 (default)")
    parser.add_argument("--nvrtc", type=Path, help="a libnvrtc to compile with, by its path")
    parser.add_argument("--output", type=Path, required=True, help="folder of the archive")
    options = parser.parse_args()
    use(options.nvrtc)
    if reason := compiler.unavailable():
        print(reason)
        return 3
    wanted = {path.stem: set(path.read_text().splitlines()) for path in options.files}
    names = sorted(set().union(*wanted.values()))
    began, sizes, compiled = time.perf_counter(), {}, 0
    broken: dict[str, str] = {}
    start = functools.partial(use, options.nvrtc)
    with ProcessPoolExecutor(os.cpu_count(), initializer=start) as pool:
        every = pool.map(_make, names, itertools.repeat(options.architecture), chunksize=4)
        for name, (size, new, error) in zip(names, every, strict=True):
            sizes[name] = size
            compiled += new
            if error:
                broken[name] = error
    seconds = time.perf_counter() - began
    found = {
        "architecture": options.architecture,
        "nvrtc": compiler.nvrtc_version(),
        "programs": len(sizes),
        "mebibytes": round(sum(sizes.values()) / 2**20, 1),
        "compiled": compiled,
        "seconds": round(seconds),
        "of": {stage: len(programs) for stage, programs in wanted.items()},
        "broken": broken,
    }
    (options.output / "programs.json").write_text(json.dumps(found, indent=1) + "\n")
    keys = [compiler._key(name, options.architecture) for name in names if name not in broken]
    kept = [compiler.cache_folder() / (key + file_cache.ENTRY) for key in keys]
    gpu_environment.pack(kept, options.output / gpu_environment.PROGRAMS)
    print(
        f"{len(sizes) - len(broken)} programs for sm_{options.architecture} by NVRTC {found['nvrtc']}, "
        f"{found['mebibytes']} MiB; {compiled} of them compiled now, {seconds:.0f} s"
    )
    for name, error in [*broken.items()][:1]:
        print(
            f"{len(broken)} do not compile (programs.json names them), the first of them {name}:\n{error}"
        )
    # The sweep tries numbers that not every kernel can be built for, and says so itself.
    needed = set().union(*(programs for stage, programs in wanted.items() if stage != "measure"))
    return 1 if needed & broken.keys() else 0


def use(nvrtc: Path | None) -> None:
    """Load this NVRTC, and what it looks for by name, before cuda.bindings looks for one: it takes what is loaded."""
    if nvrtc is not None:
        for path in (*nvrtc.parent.glob("libnvrtc-builtins.so.*"), nvrtc):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _make(definitions: str, architecture: int) -> tuple[int, int, str]:
    """The size of a program, whether it had to be compiled, and why it could not be."""
    before = len(compiler.compiled)
    try:
        size = len(compiler.program(definitions, architecture))
    except compiler.CompileError as error:
        return 0, 0, str(error)
    return size, len(compiler.compiled) - before, ""


if __name__ == "__main__":
    sys.exit(main())
