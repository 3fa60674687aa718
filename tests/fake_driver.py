"""A CUDA driver for tests that writes down what it is asked for (tests/native/fake_cuda.c), as fixtures."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated
import pytest
from native_build import ROOT, run

from scanlib import compiler, gpu, native

STREAM = 1 * 256 + 7  # of context 1


@pytest.fixture(scope="session")
def driver_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("driver") / "libfake.so"
    source = ROOT / "tests" / "native" / "fake_cuda.c"
    flags = "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"
    run("cc", *flags, source, "-o", path)
    return path


def restore() -> None:
    """The driver and the compiler that other tests expect: the emulation's where it runs, else the real ones."""
    library = gpu.library()
    library.scanlib_cuda_set_compiler(compiler.callback)
    if emulated.adapter.cache_info().currsize:
        emulated.start()
        return
    native.check(library.scanlib_cuda_use_driver(None))
    compiler.provider = compiler.program


class Fake:
    """The driver's other side."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.fake_record.restype = ctypes.c_char_p
        self.library.fake_current.argtypes = [ctypes.c_size_t]
        self.library.fake_current_now.restype = ctypes.c_size_t
        self.compiled: list[tuple[str, int]] = []
        self.answer: Any = lambda definitions, architecture: b"image"

    def provide(self, definitions: str, architecture: int) -> bytes:
        self.compiled.append((definitions, architecture))
        return self.answer(definitions, architecture)

    def lines(self) -> list[str]:
        return self.library.fake_record().decode().splitlines()

    def calls(self) -> list[str]:
        return [line.split()[0] for line in self.lines()]

    def forget(self) -> None:
        self.library.fake_forget()

    def refuse(self, name: str, code: int = 999) -> None:
        self.library.fake_refuse(name.encode(), code)

    def balanced(self) -> bool:
        """Whether this thread is as it was: nothing left on its context stack, captures as strict as before."""
        return self.library.fake_depth() == 0 and self.library.fake_mode() == 0


@pytest.fixture
def driver(driver_path: Path) -> Iterator[Fake]:
    fake = Fake(driver_path)
    fake.library.fake_reset()
    native.check(gpu.library().scanlib_cuda_use_driver(str(driver_path).encode()))
    compiler.provider = fake.provide
    yield fake
    restore()


def asked_before_the_driver(driver: Fake) -> list[tuple[str, int]]:
    """Will hold the programs that are asked for before a call has got to the driver."""
    found: list[tuple[str, int]] = []

    def answer(definitions: str, architecture: int) -> bytes:
        if not driver.calls():
            found.append((definitions, architecture))
        return b"image"

    driver.answer = answer
    return found
