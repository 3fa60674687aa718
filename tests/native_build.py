"""Builds libscanlib and the programs of tests/native with CMake: plainly, under sanitizers, or for another processor.

Each kind has a folder of its own under build/, so a second run compiles only what changed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command; fails the test with all it printed where it does not exit with 0."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        pytest.fail(
            f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout[-6000:]}",
            False,
        )
    return done.stdout


def tool(name: str) -> str:
    """The path of a program: beside this Python (CMake comes from a package), else on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} was not found. Install the tests' requirements: pip install 'scanlib[test]'.",
            False,
        )
    return found


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other test processes waiting at the same place."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(
    kind: str, *, sanitize: str = "", compiler: str | None = None, options: tuple[str, ...] = ()
) -> Path:
    """The build folder of `kind`, brought up to date: libscanlib in it, the programs in tests/native below it."""
    folder = ROOT / "build" / f"tests-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    options += (f"-DCMAKE_CXX_COMPILER={compiler}",) if compiler else ()
    with locked(folder / "lock"):
        # fmt: off
        run(tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            "-DSCANLIB_TESTS=ON", "-DSCANLIB_XLA_FFI=OFF", f"-DSCANLIB_SANITIZE={sanitize}", *options)
        # fmt: on
        run(tool("cmake"), "--build", folder)
    return folder


def sanitizer_prefix(sanitize: str, folder: Path, compiler: str = "c++") -> list[str]:
    """What to put before a program built with `sanitize` so that it runs; skips the test where none does."""
    source, program = folder / "probe.cpp", folder / "probe"
    source.write_text("int main() { return 0; }\n")
    compiled = subprocess.run(
        [compiler, f"-fsanitize={sanitize}", str(source), "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode:
        pytest.skip(
            f"{compiler} has no -fsanitize={sanitize}: {compiled.stderr.strip().splitlines()[-1]}"
        )
    # The thread sanitizer of older compilers does not start where the kernel randomises addresses widely.
    for prefix in ([], ["setarch", platform.machine(), "--addr-no-randomize"]):
        if shutil.which((prefix or ["/bin/sh"])[0]) is None:
            continue
        if (
            subprocess.run([*prefix, str(program)], capture_output=True, check=False).returncode
            == 0
        ):
            return prefix
    pytest.skip(f"programs built with -fsanitize={sanitize} do not start on this kernel")
