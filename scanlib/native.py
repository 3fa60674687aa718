"""libscanlib, bound with ctypes: find the library, prepare problems, run them.

Every function takes plain integers: dtype codes from `call.DTYPES`, strides in bytes, addresses. Prepared problems
hold no pointers, so they are kept with plans (`scanlib.plan`) and run again on other arrays. Problems and tables of
pointers are passed as bytes, which ctypes hands over as they are, without an object of its own for each call.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import struct
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from scanlib.call import OFFSETS_DTYPES
from scanlib.errors import MissingLibraryError, NativeError, OffsetsError, ScanlibError
from scanlib.gates import GateForm
from scanlib.roles import FORWARD, NAMES, NUMBERS, ROLES

ABI_VERSION = 6
MAX_OUTER = 63
REVERSE, CONJUGATE, OPENMP = 1, 2, 4
E_OFFSETS = 2
E_NO_GPU, E_COMPILER, E_COMPILE, E_CUDA = 6, 7, 8, 9

#: (dtype code, strides in bytes over the broadcast shape)
Operand = tuple[int, Sequence[int]]
#: Pairs of a name in `TUNING` and a number other than the problem's own choice.
Tuning = tuple[tuple[str, int], ...]


class _Operand(ctypes.Structure):
    _fields_ = [
        ("dtype", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Axis(ctypes.Structure):
    _fields_ = [("extent", ctypes.c_int64), ("stride", ctypes.c_int64 * len(ROLES))]


class _Gates(ctypes.Structure):
    """`scanlib_gates` of native/scanlib.h."""

    _fields_ = [
        (name, ctypes.c_int32) for name in ("candidate", "reading", "complement", "reserved")
    ] + [
        (name, ctypes.c_int64)
        for name in (
            *("outer", "time", "inner", "width", "segments", "row"),
            *("at_decay", "at_input", "at_output", "at_candidate"),
        )
    ]


#: The numbers of `scanlib_tuning` in native/scanlib.h: by which work is cut for a GPU.
TUNING = (
    *("row_threads", "column_threads", "look_back_threads"),
    *("run_bytes", "backward_run_bytes", "bundle", "resident", "enough_groups", "many_lanes"),
)


class _Tuning(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in TUNING]


class _Problem(ctypes.Structure):
    """`scanlib_problem` of native/scanlib.h: the canonical (outer, T, inner) problem."""

    _fields_ = [
        ("abi_version", ctypes.c_int32),
        ("flags", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("outer_rank", ctypes.c_int32),
        ("source", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("holder_offset", ctypes.c_int64),
        ("segments", ctypes.c_int64),
        ("dtype", ctypes.c_int32 * len(ROLES)),
        ("gates", _Gates),
        ("tuning", _Tuning),
        ("time", _Axis),
        ("inner", _Axis),
        ("outer", _Axis * MAX_OUTER),
    ]


class NativeProblem(bytes):
    """The memory of a prepared `scanlib_problem`: what functions of libscanlib take for one."""

    #: What `gpu.scratch_bytes` found for it; -1 before it was asked.
    scratch = -1


_ERRORS: dict[int, type[ScanlibError]] = {
    E_OFFSETS: OffsetsError,
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
    """The loaded library; warns where it does not run the instruction set that `SCANLIB_ISA` asks for."""
    found = load(library_path())
    wanted, chosen = os.environ.get("SCANLIB_ISA"), found.scanlib_cpu_isa().decode()
    if wanted and wanted != chosen:
        warnings.warn(
            f"SCANLIB_ISA is {wanted!r}, for which this machine or this libscanlib has no kernels: {chosen} is used.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


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
        ctypes.c_int64,
        pointer,
    ]
    lib.scanlib_gated_problem_init.argtypes = [
        pointer,
        ctypes.c_int32,
        ctypes.c_int32,
        pointer,
        pointer,
    ]
    # scanlib_cpu_run has none: they would cost more than a small recurrence. It is given two bytes and nothing else.
    lib.scanlib_cpu_set_openmp.argtypes = [pointer]
    lib.scanlib_cpu_set_openmp.restype = None
    lib.scanlib_cpu_describe.argtypes = [text, text, ctypes.c_size_t]
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
    segments: int = 0,
    reverse: bool = False,
    conjugate: bool = False,
    threads: int = 0,
    holder_offset: int = 0,
    openmp: bool = False,
    tuning: Tuning = (),
) -> NativeProblem:
    """Make the canonical problem of `operands`, keyed by role (`scanlib.roles`).

    Operands are (dtype code, strides in bytes over `shape`), stride 0 where they are broadcast; states have an entry at
    `axis` too, which is ignored, or goes from one of `segments` to the next where there are offsets. Where grad_h is
    given it is a backward pass. Raises `NativeError` where an operand is missing or one too many.
    """
    ndim = len(shape)
    dims = ctypes.c_int64 * ndim
    table = (_Operand * len(ROLES))()
    for role, (dtype, strides) in operands.items():
        row = table[NUMBERS[role]]
        row.dtype = dtype
        row.strides = dims(*strides)
    problem = _Problem()
    flags = REVERSE * bool(reverse) | CONJUGATE * conjugate | OPENMP * openmp
    check(
        library().scanlib_problem_init(
            ctypes.byref(problem), flags, ndim, dims(*shape), axis, segments, ctypes.byref(table)
        )
    )
    return _finished(problem, threads, holder_offset, tuning)


def _finished(problem: _Problem, threads: int, holder_offset: int, tuning: Tuning) -> NativeProblem:
    """A problem with what the caller sets."""
    problem.threads = threads
    problem.holder_offset = holder_offset
    for name, number in tuning:
        if name not in TUNING:
            raise NativeError(f"There is no number {name} to cut work by: {', '.join(TUNING)}.")
        setattr(problem.tuning, name, number)
    return NativeProblem(problem)


assert NAMES[: len(FORWARD)] == FORWARD
#: The pointers of a forward pass as `run` takes them: of `roles.FORWARD`, 0 for what is absent.
pack_forward: Callable[..., bytes] = struct.Struct(f"{len(FORWARD)}P").pack
_pack: Callable[..., bytes] = struct.Struct(f"{len(ROLES)}P").pack


def pack(pointers: Mapping[str, int]) -> bytes:
    """The pointers of a pass by role, as `run` and `gpu.run` take them."""
    table = [0] * len(NAMES)
    for name, pointer in pointers.items():
        table[NUMBERS[name]] = pointer
    return _pack(*table)


def run(problem: NativeProblem, pointers: bytes) -> None:
    """Run a problem on the CPU."""
    if status := library().scanlib_cpu_run(problem, pointers):
        check(status)


def prepare_gates(
    form: GateForm,
    dtype: int,
    shape: Sequence[int],
    axis: int,
    given: Collection[str],
    *,
    segments: int = 0,
    threads: int = 0,
    holder_offset: int = 0,
    openmp: bool = False,
    tuning: Tuning = (),
) -> NativeProblem:
    """The gated recurrence of columns of a shape (..., T at `axis`, ..., row), contiguous in memory.

    `given` names the roles of its operands, of which "a" are the columns and offsets are int64. Raises `NativeError`
    where one is missing or one too many.
    """
    gates = _Gates(
        candidate=form.candidate,
        reading=form.reading,
        complement=form.complement,
        outer=math.prod(shape[:axis]),
        time=shape[axis],
        inner=math.prod(shape[axis + 1 : -1]),
        width=form.width,
        segments=segments,
        row=shape[-1],
    )
    for name in ("at_decay", "at_input", "at_output", "at_candidate"):
        setattr(gates, name, getattr(form, name))
    roles = (ctypes.c_int32 * len(ROLES))(*(name in given for name in NAMES))
    if "offsets" in given:
        roles[NUMBERS["offsets"]] = OFFSETS_DTYPES["int64"][0]
    problem = _Problem()
    check(
        library().scanlib_gated_problem_init(
            ctypes.byref(problem), OPENMP * openmp, dtype, ctypes.byref(gates), roles
        )
    )
    return _finished(problem, threads, holder_offset, tuning)


def describe(problem: NativeProblem) -> str:
    """Which CPU kernel runs `problem`, and how its work is cut."""
    buffer = ctypes.create_string_buffer(512)
    library().scanlib_cpu_describe(problem, buffer, len(buffer))
    return buffer.value.decode()
