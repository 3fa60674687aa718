"""libscanlib, bound with ctypes: find the library, prepare problems, run them.

Every function takes plain integers: dtype codes from `problem.DTYPES`, element strides, addresses. Prepared problems
hold no pointers, so adapters keep them in caches and run them again on other arrays.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scanlib.errors import MissingLibraryError, NativeError, ScanlibError

ABI_VERSION = 1
MAX_OUTER = 6
REVERSE, CONJUGATE, OPENMP = 1, 2, 4
ROLES = ("a", "x", "h", "h0", "final", "grad_h", "grad_final", "grad_a", "grad_x", "grad_h0")
E_RANK, E_ALIGNMENT = 2, 3
E_NO_GPU, E_COMPILER, E_COMPILE, E_CUDA = 6, 7, 8, 9

#: Candidates of a gated recurrence, by their number, and what is read from it.
CANDIDATES = ("identity", "tanh", "elu", "positive")
AFTER, BEFORE, GATED = 0, 1, 2
COMPLEMENT = 1

#: (dtype code, element strides over the broadcast shape)
Operand = tuple[int, Sequence[int]]


class _Operand(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    ]


class Layout(ctypes.Structure):
    """One operand of a `NativeProblem`: strides in elements after merging."""

    _fields_ = [
        ("outer", ctypes.c_int64 * MAX_OUTER),
        ("time", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


class NativeProblem(ctypes.Structure):
    """`scanlib_problem` of native/scanlib.h: the canonical (outer, T, inner) problem."""

    _fields_ = [
        ("abi_version", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("outer_rank", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("outer", ctypes.c_int64 * MAX_OUTER),
        ("time", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("holder_offset", ctypes.c_int64),
        ("operand", Layout * len(ROLES)),
    ]
    #: What `gpu.scratch_bytes` found for it; -1 before it was asked.
    scratch = -1

    @property
    def address(self) -> int:
        return ctypes.addressof(self)


class GateForm(NamedTuple):
    """What a gated recurrence is, apart from its sizes: where its gates' columns start, and what they go through."""

    width: int
    at_decay: int
    at_input: int  # -1: the complement of the decay
    at_output: int  # -1: none
    at_candidate: int
    candidate: int  # an index of CANDIDATES
    reading: int  # AFTER, BEFORE or GATED
    complement: int  # 1: f is the complement of what its column says


class NativeGates(ctypes.Structure):
    """`scanlib_gates` of native/scanlib.h."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("abi_version", "dtype", "flags", "candidate", "reading", "threads")
    ] + [
        (name, ctypes.c_int64)
        for name in (
            *("outer", "time", "inner", "width", "row"),
            *("at_decay", "at_input", "at_output", "at_candidate"),
        )
    ]

    @property
    def address(self) -> int:
        return ctypes.addressof(self)


class RankError(NativeError):
    """More axes are left after merging than libscanlib loops over: copy the operands to contiguous memory."""


class AlignmentError(NativeError):
    """An operand starts at an address that is not a multiple of its element size: copy it."""


_ERRORS: dict[int, type[ScanlibError]] = {
    E_RANK: RankError,
    E_ALIGNMENT: AlignmentError,
    E_NO_GPU: MissingLibraryError,
    E_COMPILER: MissingLibraryError,
}


def _names() -> tuple[str, ...]:
    return ("libscanlib.so", "libscanlib.dylib", "scanlib.dll")


def library_path() -> Path:
    """Where libscanlib lies: `SCANLIB_LIBRARY`, else inside the installed package."""
    if explicit := os.environ.get("SCANLIB_LIBRARY"):
        return Path(explicit)
    folders = [Path(__file__).parent]
    spec = importlib.util.find_spec("scanlib")
    if spec is not None and spec.submodule_search_locations:
        folders += [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        for name in _names():
            if (folder / name).exists():
                return folder / name
    raise MissingLibraryError(
        f"libscanlib was not found in {', '.join(map(str, folders))}. Install scanlib with pip (pip install . in a "
        "checkout builds it), or set SCANLIB_LIBRARY to the path of the shared library."
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library."""
    return load(library_path())


def load(path: Path) -> ctypes.CDLL:
    """Load a libscanlib, and declare the types of its functions."""
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        raise MissingLibraryError(
            f"libscanlib at {path} does not load: {error}. Install scanlib again on this machine."
        ) from error
    found = (
        lib.scanlib_abi_version() if hasattr(lib, "scanlib_abi_version") else "none of scanlib's"
    )
    if found != ABI_VERSION:
        raise MissingLibraryError(
            f"libscanlib at {path} speaks ABI {found}, this scanlib speaks ABI {ABI_VERSION}. Install both together."
        )
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    lib.scanlib_problem_init.argtypes = [
        pointer,
        ctypes.c_int32,
        ctypes.c_int32,
        pointer,
        ctypes.c_int32,
        pointer,
    ]
    lib.scanlib_cpu_forward.argtypes = [pointer] * 6
    lib.scanlib_cpu_backward.argtypes = [pointer] * 9
    lib.scanlib_cpu_gated_forward.argtypes = [pointer] * 6
    lib.scanlib_cpu_gated_backward.argtypes = [pointer] * 8
    lib.scanlib_cpu_set_openmp.argtypes = [pointer]
    lib.scanlib_cpu_set_openmp.restype = None
    lib.scanlib_cpu_describe.argtypes = [pointer, text, ctypes.c_size_t]
    lib.scanlib_cpu_describe.restype = ctypes.c_size_t
    lib.scanlib_status_string.argtypes = [ctypes.c_int]
    lib.scanlib_cpu_select_isa.argtypes = [text]
    for name in ("scanlib_status_string", "scanlib_version", "scanlib_cpu_isa"):
        getattr(lib, name).restype = text
    return lib


def check(status: int) -> None:
    """Raise what a status code of libscanlib stands for."""
    if status:
        message = library().scanlib_status_string(status).decode()
        if status >= E_NO_GPU:  # comes from functions that scanlib.gpu has declared
            message += ": " + library().scanlib_cuda_last_error().decode(errors="replace")
        raise _ERRORS.get(status, NativeError)(message)


def prepare(
    shape: Sequence[int],
    axis: int,
    operands: Mapping[str, Operand],
    *,
    reverse: bool = False,
    conjugate: bool = False,
    threads: int = 0,
    holder_offset: int = 0,
    openmp: bool = False,
) -> NativeProblem:
    """Make the canonical problem of `operands`, keyed by role (`ROLES`).

    Forward needs a, x, h and takes h0, final; backward needs a, h, grad_h, grad_a, grad_x and takes h0, grad_final,
    grad_h0. Operands are (dtype code, element strides over `shape`), stride 0 where they are broadcast; states have an
    entry at `axis` too, which is ignored. Raises `RankError` where the strides do not merge far enough.
    """
    ndim = len(shape)
    dims = ctypes.c_int64 * ndim
    table = (_Operand * len(ROLES))()
    for index, role in enumerate(ROLES):
        if role in operands:
            dtype, strides = operands[role]
            table[index].dtype = dtype
            table[index].strides = dims(*strides)
    problem = NativeProblem()
    flags = REVERSE * reverse | CONJUGATE * conjugate | OPENMP * openmp
    check(
        library().scanlib_problem_init(
            problem.address, flags, ndim, dims(*shape), axis, ctypes.byref(table)
        )
    )
    problem.threads = threads
    problem.holder_offset = holder_offset
    return problem


def forward(problem: NativeProblem, a: int, x: int, h0: int, h: int, final: int) -> None:
    """Run the forward kernel on the CPU; addresses, 0 for what is absent."""
    check(library().scanlib_cpu_forward(problem.address, a, x, h0, h, final))


def backward(
    problem: NativeProblem,
    a: int,
    h: int,
    h0: int,
    grad_h: int,
    grad_final: int,
    grad_a: int,
    grad_x: int,
    grad_h0: int,
) -> None:
    """Run the backward kernel on the CPU; addresses, 0 for what is absent."""
    check(
        library().scanlib_cpu_backward(
            problem.address, a, h, h0, grad_h, grad_final, grad_a, grad_x, grad_h0
        )
    )


@functools.lru_cache(maxsize=1024)
def prepare_gates(
    form: GateForm,
    dtype: int,
    shape: tuple[int, ...],
    axis: int,
    threads: int = 0,
    openmp: bool = False,
) -> NativeGates:
    """The gated recurrence of columns of a shape (..., T at `axis`, ..., row), contiguous in memory."""
    gates = NativeGates(
        abi_version=ABI_VERSION,
        dtype=dtype,
        flags=COMPLEMENT * form.complement | OPENMP * openmp,
        candidate=form.candidate,
        reading=form.reading,
        threads=threads,
        outer=math.prod(shape[:axis]),
        time=shape[axis],
        inner=math.prod(shape[axis + 1 : -1]),
        width=form.width,
        row=shape[-1],
    )
    for name in ("at_decay", "at_input", "at_output", "at_candidate"):
        setattr(gates, name, getattr(form, name))
    return gates


def gated_forward(gates: NativeGates, columns: int, h0: int, h: int, y: int, final: int) -> None:
    """Run a gated recurrence on the CPU; addresses, 0 for what is absent."""
    check(library().scanlib_cpu_gated_forward(gates.address, columns, h0, h, y, final))


def gated_backward(
    gates: NativeGates,
    columns: int,
    h: int,
    h0: int,
    grad: int,
    grad_final: int,
    grad_columns: int,
    grad_h0: int,
) -> None:
    """Run the gradient of a gated recurrence on the CPU; addresses, 0 for what is absent."""
    check(
        library().scanlib_cpu_gated_backward(
            gates.address, columns, h, h0, grad, grad_final, grad_columns, grad_h0
        )
    )


def describe(problem: NativeProblem) -> str:
    """Which CPU kernel runs `problem`, and how its work is cut."""
    buffer = ctypes.create_string_buffer(512)
    library().scanlib_cpu_describe(problem.address, buffer, len(buffer))
    return buffer.value.decode()
