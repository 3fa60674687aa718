"""libscanlib on a GPU, bound with ctypes: the same prepared problems, on a stream, with the caller's scratch memory.

Addresses are those of device memory. What is missing is said by the first call that needs it: the driver, a GPU, or the
compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple

from scanlib import compiler, native
from scanlib.errors import NativeError

#: What scratch memory has to be aligned to.
ALIGNMENT = 16


@functools.cache
def library() -> ctypes.CDLL:
    """libscanlib with its CUDA functions declared and a compiler for them set."""
    lib = native.library()
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    lib.scanlib_cuda_scratch_bytes.argtypes = [text, ctypes.POINTER(ctypes.c_int64)]
    lib.scanlib_cuda_run.argtypes = [text, pointer, pointer, text]
    for name in ("scanlib_cuda_describe", "scanlib_cuda_programs"):
        getattr(lib, name).argtypes = [text, text, ctypes.c_size_t]
        getattr(lib, name).restype = ctypes.c_size_t
    lib.scanlib_cuda_last_error.restype = text
    lib.scanlib_cuda_use_driver.argtypes = [text]
    lib.scanlib_cuda_set_compiler.argtypes = [pointer]
    lib.scanlib_cuda_set_compiler.restype = None
    lib.scanlib_cuda_set_compiler(compiler.callback)
    return lib


def scratch_bytes(problem: native.NativeProblem) -> int:
    """How much device memory a call needs beside its operands, aligned to `ALIGNMENT`; often 0. Asked once for each."""
    if problem.scratch < 0:
        size = ctypes.c_int64()
        native.check(library().scanlib_cuda_scratch_bytes(problem, ctypes.byref(size)))
        problem.scratch = size.value
    return problem.scratch


def run(problem: native.NativeProblem, stream: int, scratch: int, pointers: bytes) -> None:
    """Put a problem on `stream`; `pointers` as `native.pack` makes them."""
    if status := library().scanlib_cuda_run(problem, stream, scratch, pointers):
        _check(status)


def _check(status: int) -> None:
    """`native.check`, and what helps where the driver does not take a program."""
    try:
        native.check(status)
    except NativeError as error:
        if "cuLibraryLoadData" not in str(error) or compiler.unavailable():
            raise
        raise NativeError(
            f"{error}. The program is NVRTC {compiler.nvrtc_version()}'s: a driver for an older CUDA, which nvidia-smi "
            "names, takes no PTX of it, and no machine code of another major version. Update the driver, or install an "
            "NVRTC that is no newer."
        ) from None


def describe(problem: native.NativeProblem) -> str:
    """Which CUDA kernel runs `problem`, and how its work is cut. Needs no GPU."""
    return _text("scanlib_cuda_describe", problem)


def programs(problem: native.NativeProblem) -> list[str]:
    """The definitions of each program `problem` needs, for `compiler.provider`. Needs no GPU."""
    return _text("scanlib_cuda_programs", problem).splitlines()


class Target(NamedTuple):
    """For what a plan is made, beside the operands; part of what plans are kept by.

    Attributes
    ----------
    architectures
        Of the GPUs for which its programs are compiled, 90 for sm_90: none for what is only explained.
    tuning
        Numbers by which work is cut, where they are not the problem's own choice.
    """

    architectures: tuple[int, ...] = ()
    tuning: native.Tuning = ()


#: Of a call in the CPU's memory.
CPU = Target()
_tuning: ContextVar[native.Tuning] = ContextVar("tuning", default=())


def target(architectures: tuple[int, ...] = ()) -> Target:
    """For GPUs of these architectures, and the numbers in force here (`tuned`)."""
    return Target(architectures, _tuning.get())


@contextlib.contextmanager
def tuned(numbers: Mapping[str, int]) -> Iterator[None]:
    """Inside, in this thread or task, plans are made with these numbers of native/cuda_plan.h: for tests.

    Making a plan raises `NativeError` where there is no number of a name, or it is out of bounds. torch runs the
    backward pass on a GPU in another thread, unless told not to; JAX keeps what it has compiled, whatever the numbers.
    """
    token = _tuning.set(tuple(sorted(numbers.items())))
    try:
        yield
    finally:
        _tuning.reset(token)


def compile_programs(problem: native.NativeProblem, target: Target) -> None:
    """Have what `problem` needs compiled for its target; a call only finds it then. Needs no GPU.

    Raises `NativeError` where its numbers are out of bounds.
    """
    if target.tuning:
        scratch_bytes(problem)
    for architecture in target.architectures:
        for definitions in programs(problem):
            compiler.provider(definitions, architecture)


def _text(function: str, problem: native.NativeProblem) -> str:
    buffer = ctypes.create_string_buffer(1024)
    getattr(library(), function)(problem, buffer, len(buffer))
    return buffer.value.decode()
