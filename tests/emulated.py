"""The CUDA kernels on the CPU: compiled as C++ over tests/emulation, launched by libscanlib's own launcher.

The emulator stands in for the driver and g++ for NVRTC; the plan, the launcher and the device code are those of a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from native_build import ROOT

from scanlib import compiler, gpu, native

# The checkout goes last on the path: its folder scanlib holds only a part of what is installed.
sys.path.append(str(ROOT))
from bench.gpu.host_arrays import HostCuda

KEPT = ROOT / "build" / "tests-emulated"
CUDA, EMULATION = ROOT / "cuda", Path(__file__).parent / "emulation"
OPERATORS = Path(__file__).parent / "operators"
SHARED = ("-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-ffp-contract=off")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized")


def built(name: str, command: list[str], sources: list[Path], folder: Path = KEPT) -> Path:
    """What g++ makes of a command, kept under a name that depends on everything that went into it."""
    parts = [platform.machine(), *command, *(path.read_text() for path in sources)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    target = folder / f"{name}-{key}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            [*command, "-o", str(partial)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        partial.replace(target)
    return target


def _sources(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir()) if path.suffix in (".cu", ".cuh", ".h", ".cpp")
    ]


@dataclass(frozen=True)
class Emulation:
    """The device code of one folder on the emulator of another, built with these flags beside its own."""

    cuda: Path = CUDA
    emulation: Path = EMULATION
    flags: tuple[str, ...] = ()
    kept: Path = KEPT
    operator: str = ""  #: the name of one in tests/operators in place of the linear recurrence's

    def emulator(self) -> Path:
        """What libscanlib loads in place of the driver."""
        files = [str(self.emulation / name) for name in ("emulator.cpp", "driver.cpp")]
        flags = [flag for flag in self.flags if flag != "-fsanitize=thread"] + [f"-I{self.cuda}"]
        command = ["g++", "-O2", *WARNINGS, *SHARED, *flags, *files, "-ldl"]
        used = [*_sources(self.emulation), self.cuda / "params.h"]
        return built("emulator", command, used, self.kept)

    def kernel(self, definitions: str) -> Path:
        """One specialisation of the device code, as a shared library."""
        # fmt: off
        command = ["g++", "-O1", "-fvisibility=hidden", *WARNINGS, *SHARED, *self.flags,
                   "-x", "c++", "-include", str(self.emulation / "emulator.h"), *definitions.split(),
                   *self.operator_flags(), str(self.cuda / compiler.ENTRY), "-x", "none", str(self.emulator())]
        # fmt: on
        folders = (self.cuda, self.emulation, OPERATORS)
        return built(
            "kernel", command, [f for folder in folders for f in _sources(folder)], self.kept
        )

    def operator_flags(self) -> list[str]:
        if not self.operator:
            return []
        definition = f"struct {self.operator} "
        (header,) = [path for path in _sources(OPERATORS) if definition in path.read_text()]
        return [f"-DSCANLIB_OPERATOR={self.operator}", f'-DSCANLIB_OPERATOR_FILE="{header}"']


# ---- in place of the driver and NVRTC


def _program(definitions: str, architecture: int) -> bytes:
    """In place of a cubin, the path that the emulator loads."""
    del architecture
    try:
        return str(_running.kernel(definitions)).encode()
    except RuntimeError as error:
        raise compiler.CompileError(str(error)) from None


_running = Emulation()


@functools.cache
def _driver(path: Path) -> ctypes.CDLL:
    driver = ctypes.CDLL(str(path))
    driver.emulated_schedule.argtypes = [ctypes.c_uint64, ctypes.c_uint]
    driver.emulated_schedule.restype = None
    return driver


def start(emulation: Emulation = _running) -> None:
    """From here on libscanlib runs CUDA problems on this emulation."""
    global _running
    path = emulation.emulator()
    native.check(gpu.library().scanlib_cuda_use_driver(str(path).encode()))
    compiler.provider = _program
    _running = emulation


@contextmanager
def running(emulation: Emulation) -> Iterator[None]:
    """Inside, another emulation."""
    before = _running
    start(emulation)
    try:
        yield
    finally:
        start(before)


def schedule(seed: int, blocks: int) -> None:
    """So many blocks are in flight, and who goes on is drawn from this seed."""
    _driver(_running.emulator()).emulated_schedule(seed, blocks)


#: Tiles of 64 threads with few steps each, bundles of 3 tiles, stacks of 9: look-back goes all its ways.
SMALL = {
    "row_threads": 64,
    "column_threads": 64,
    "look_back_threads": 64,
    "run_bytes": 16,
    "backward_run_bytes": 8,
    "bundle": 3,
}
#: Beside these: blocks walk columns, and of a multiple of 64 lanes two warps have the steps side by side.
ABREAST = {"enough_groups": 1, "column_threads": 128}


@contextmanager
def tuned(**numbers: int) -> Iterator[None]:
    """Problems inside are cut by these numbers of native/cuda_plan.h."""
    with gpu.tuned(numbers):
        yield


# ---- arrays


class EmulatedArray(np.ndarray[Any, Any]):
    """A NumPy array that scanlib takes for one in a GPU's memory."""


@functools.cache
def adapter() -> HostCuda:
    """From here on, scanlib's public functions serve `EmulatedArray`."""
    start()
    options: dict[str, Any] = {"device": "cpu", "stream": 0, "poisoned": True}
    made = HostCuda("emulated", EmulatedArray, path="libscanlib (emulated)", **options)
    made.serve()
    return made
