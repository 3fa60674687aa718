"""libscanlib for aarch64, built by a cross compiler and run by an emulator: its NEON kernels on machines without them.

The programs are those of test_sanitizers.py. What forks is left to real machines, since qemu's user mode does not
survive a fork beside other threads; what only checks for races is left to the thread sanitizer.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from native_build import build, run

PREFIX = "aarch64-linux-gnu-"
#: program -> (where Debian has it)
TOOLS = {
    "qemu-aarch64": "qemu-user",
    f"{PREFIX}gcc": "g++-aarch64-linux-gnu",
    f"{PREFIX}g++": "g++-aarch64-linux-gnu",
}
ABSENT = sorted({package for name, package in TOOLS.items() if shutil.which(name) is None})

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        platform.machine() in ("aarch64", "arm64"),
        reason="this machine is one: all tests run its NEON kernels",
    ),
    pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}"),
]


@pytest.fixture(scope="module")
def emulated() -> Callable[..., str]:
    """Runs one of the programs with these arguments, and gives what it prints."""
    options = (
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={PREFIX}gcc",
    )
    folder = build("aarch64", compiler=f"{PREFIX}g++", options=options) / "tests" / "native"
    library = Path(run(f"{PREFIX}gcc", "-print-file-name=libc.so.6").strip()).resolve()
    root = library.parent.parent

    def call(program: str, *arguments: str) -> str:
        return run("qemu-aarch64", "-L", root, folder / program, *arguments)

    return call


def test_neon_is_what_runs(emulated: Callable[..., str]) -> None:
    assert emulated("driver", "sets").splitlines()[:-1] == ["neon"]


def test_a_c_program(emulated: Callable[..., str]) -> None:
    assert emulated("embed").splitlines() == [
        "1 1.5 1.75 | 17 35 71",
        "1.75 71 | 0.25 0.5 1 | 0 34 35",
    ]


@pytest.mark.parametrize("mode", ["cases", "large 97", "gated 60", "openmp", "refusals"])
def test_checks(mode: str, emulated: Callable[..., str]) -> None:
    """Every dtype, layout and direction, special values, gates, time split over threads: as a serial loop has it."""
    assert f"{mode.split()[0]}: 0 failures" in emulated("driver", *mode.split())


def test_fuzz(emulated: Callable[..., str]) -> None:
    assert emulated("fuzz_abi", "150", "4") == "150 inputs\n"
